"""The commands that manage the callers' API keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from msgspec import UNSET

from bud_asgi.auth import ApiKey, DuplicateKey, KeyAdmin, NewKey, SqlKeyStore, UnknownKey, is_api_key
from bud_asgi.cli.keys import (
    parse_expiry,
    parse_limit,
    run,
    show_hash,
    show_key,
    show_new_key,
    show_record,
    show_records,
)
from bud_asgi.cli.settings import EXIT_WRONG, config_argument, environ_with, fail, report_config_errors
from bud_asgi.cli.terminal import echo_problem
from bud_asgi.config import KeySettings, in_seconds, read_environment_keys
from bud_asgi.options import OptionError, looks_secret, nearest, shown
from bud_asgi.secret import Secret

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")

_pepper_option = click.option(
    "--pepper", metavar="VARIABLE", help="Environment variable with the key_pepper of the file."
)


_FIELDS = (
    click.option("--owner", help="Who is responsible for the key, such as an e-mail address."),
    click.option("--team", help="Team of the key."),
    click.option("--model", "models", multiple=True, help="Model, or pattern with *, that it may use (repeatable)."),
    click.option("--limit", "limits", multiple=True, help="Limit such as requests=60/1m (repeatable)."),
    click.option("--expires", help="Duration such as 90d, or a time such as 2027-01-31."),
    click.option("--metadata", metavar="NAME=VALUE", multiple=True, help="Text to keep with the key (repeatable)."),
)


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    """The options for the fields of a key."""
    for option in reversed(_FIELDS):
        command = option(command)
    return command


def _key(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments `[GATEWAY.TOML] NAME`."""
    return config_argument(click.argument("name", required=False, metavar="NAME")(command))


@click.group()
def keys() -> None:
    """Manage the callers' API keys.

    `new` makes a key for a file, `hash` hashes one that exists. The other commands work on the [key_store] of
    GATEWAY.TOML. Without GATEWAY.TOML, BUD_ASGI_CONFIG is the path of the file, or BUD_ASGI_KEY_STORE the URL of the
    store.
    """


@keys.command()
@click.argument("name")
@_pepper_option
def new(name: str, pepper: str | None) -> None:
    """Create an API key for a file.

    The key is written to stderr, the lines for the configuration file to stdout.
    """
    if not name.isprintable() or not name:
        raise click.BadParameter("must be printable and not empty")
    show_new_key(name, _pepper(pepper))


@keys.command(name="hash")
@click.argument("name", required=False)
@_pepper_option
def hash_(name: str | None, pepper: str | None) -> None:
    """Hash an existing key, which is read from stdin.

    With NAME, the lines for the configuration file are written. On a terminal, the key is prompted for.
    """
    if name is not None and (looks_secret(name) or not name.isprintable() or not name):
        raise click.BadParameter("expected a name, which is printable; the key itself is read from stdin")
    secret = _pepper(pepper)
    try:
        show_hash(name, _read_secret(), secret)
    except OptionError as error:
        echo_problem("error", error)
        sys.exit(EXIT_WRONG)


@keys.command()
@_key
@_fields
@_json
def create(  # noqa: PLR0913 - a key has its fields, all as options
    config: str | None,
    name: str | None,
    owner: str | None,
    team: str | None,
    models: Sequence[str],
    limits: Sequence[str],
    expires: str | None,
    metadata: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Create an API key in the store, and write it to stdout. Creates or updates the tables first."""

    async def work(admin: KeyAdmin, store: SqlKeyStore) -> NewKey:
        await store.migrate()
        return await admin.create(
            _printable(key_name),
            owner=owner,
            team=team,
            models=models or ("*",),
            limits=[parse_limit(limit) for limit in limits],
            expires=parse_expiry(expires, datetime.now(UTC)) if expires else None,
            metadata=dict(_pair(pair) for pair in metadata),
        )

    with _report(config, name) as (settings, key_name):
        made = run(settings, work)
        show_key(made.key, made.record, as_json=as_json)


@keys.command()
@_key
@_fields
@_json
def update(  # noqa: PLR0913 - as create
    config: str | None,
    name: str | None,
    owner: str | None,
    team: str | None,
    models: Sequence[str],
    limits: Sequence[str],
    expires: str | None,
    metadata: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Change fields of a key, and show it. Takes effect within ten seconds.

    What is not given stays as it is. An empty value, such as --team '', removes what is there.
    """
    if all(option in {None, ()} for option in (owner, team, models, limits, expires, metadata)):
        raise click.UsageError("Nothing to change: expected an option such as --model.")

    async def work(admin: KeyAdmin, _: SqlKeyStore) -> ApiKey:
        return await admin.update(
            key_name,
            owner=UNSET if owner is None else owner or None,
            team=UNSET if team is None else team or None,
            models=models or UNSET,
            limits=[parse_limit(limit) for limit in limits if limit] if limits else UNSET,
            expires=UNSET if expires is None else parse_expiry(expires, datetime.now(UTC)) if expires else None,
            metadata=dict(_pair(pair) for pair in metadata if pair) if metadata else UNSET,
        )

    with _report(config, name) as (settings, key_name):
        show_record(run(settings, work), as_json=as_json)


@keys.command(name="list")
@config_argument
@_json
def list_(config: str | None, *, as_json: bool) -> None:
    """Show the keys of the file and of the store."""
    with _report(config) as (settings, _):
        records = run(settings, lambda admin, _: admin.all()) if settings.store or not settings.keys else ()
        show_records(settings, records, as_json=as_json)


@keys.command()
@_key
@click.option("--key", "by_key", is_flag=True, help="Read a key from stdin, and show whose it is.")
@_json
def show(config: str | None, name: str | None, *, by_key: bool, as_json: bool) -> None:
    """Show one key of the store."""
    if by_key:
        with _report(name or config, name="") as (settings, _):
            key = _read_key()
            record = run(settings, lambda admin, _: admin.find(key))
            if record is None:
                fail("the key is not in the store")
            show_record(record, as_json=as_json)
        return
    with _report(config, name) as (settings, key_name):
        show_record(run(settings, lambda admin, _: admin.get(key_name)), as_json=as_json)


@keys.command()
@_key
@click.option("--overlap", default="1d", show_default=True, help="How long the present key works on, such as 1h or 0s.")
@_json
def rotate(config: str | None, name: str | None, overlap: str, *, as_json: bool) -> None:
    """Replace a key by a new one, and write that to stdout."""
    with _report(config, name) as (settings, key_name):
        seconds = 0.0 if overlap in {"0", "0s"} else in_seconds("--overlap", overlap)
        made = run(settings, lambda admin, _: admin.rotate(key_name, overlap=timedelta(seconds=seconds)))
        show_key(made.key, made.record, as_json=as_json)


@keys.command()
@_key
def disable(config: str | None, name: str | None) -> None:
    """Refuse a key until it is enabled again. Takes effect within ten seconds."""
    with _report(config, name) as (settings, key_name):
        run(settings, lambda admin, _: admin.disable(key_name))


@keys.command()
@_key
def enable(config: str | None, name: str | None) -> None:
    """Accept a key again. Takes effect within ten seconds."""
    with _report(config, name) as (settings, key_name):
        run(settings, lambda admin, _: admin.enable(key_name))


@keys.command()
@_key
def delete(config: str | None, name: str | None) -> None:
    """Delete a key. Takes effect within ten seconds."""
    with _report(config, name) as (settings, key_name):
        run(settings, lambda admin, _: admin.delete(key_name))


@keys.command()
@config_argument
def migrate(config: str | None) -> None:
    """Create the tables of the store, or bring them up to date."""
    with _report(config) as (settings, _):
        run(settings, lambda _, store: store.migrate())


@contextmanager
def _report(config: str | None, name: str | None = "") -> Generator[tuple[KeySettings, str]]:
    """Read the configuration, and report what fails with it. One argument alone is the name, unless it is a file."""
    if name is None and config is not None and not Path(config).is_file():
        config, name = None, config
    if name is None:
        raise click.UsageError("Missing argument 'NAME'.")
    with report_config_errors():
        settings = read_environment_keys(environ_with(config))
        try:
            yield settings, name
        except UnknownKey as error:
            fail(f"{error}{_meant(settings, name)}")
        except DuplicateKey as error:
            fail(str(error))
        except OptionError as error:
            echo_problem("error", error)
            sys.exit(EXIT_WRONG)


def _meant(settings: KeySettings, name: str) -> str:
    """A hint for a name that the store does not have."""
    names = [key.name for key in settings.keys]
    return f"; the one in {settings.source} is changed by hand" if name in names else nearest(name, names)


def _printable(name: str) -> str:
    if not name.isprintable() or not name:
        raise OptionError("NAME", "must be printable and not empty")
    if is_api_key(name) or Path(name).suffix == ".toml":
        raise OptionError("NAME", f"expected a name, got {'an API key' if is_api_key(name) else shown(name)}")
    return name


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise OptionError("--metadata", "expected NAME=VALUE")
    return name, value


def _pepper(variable: str | None) -> Secret | None:
    try:
        return Secret.from_env(variable) if variable else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pepper") from None


def _read_secret() -> str:
    """Read a key. It is never an argument: these are visible to other users, and kept in the shell's history."""
    return click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read().strip()


def _read_key() -> str:
    """Read a key that was found somewhere; a mistyped one is reported without a lookup."""
    key = _read_secret()
    if not is_api_key(key):
        raise OptionError("key", "mistyped, or not a key of this gateway: its checksum is wrong")
    return key
