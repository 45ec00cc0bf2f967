"""The keys of a file and of a key store: what the `keys` commands do."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

import click

from bud_asgi.auth import ApiKey, KeyAdmin, SqlKeyStore, hash_api_key, new_api_key
from bud_asgi.cli.reachable import callers_of
from bud_asgi.cli.tables import table
from bud_asgi.cli.terminal import Progress, columns, echo_problem, echo_text
from bud_asgi.config import ConfigError, KeySettings, Problem, Settings, in_seconds
from bud_asgi.exchange import Principal
from bud_asgi.limit import KINDS, Kind, Limit, limit_words
from bud_asgi.options import OptionError, nearest, one_of, shown
from bud_asgi.secret import Secret, secret_option

T = TypeVar("T")

MIN_KEY = 20
"""Characters of a random key that cannot be found from its hash by trying."""

_HEAD = ("NAME", "STATE", "OWNER", "TEAM", "MODELS", "LIMITS", "EXPIRES", "LAST USED", "IN")
_LIMIT = re.compile(r"(?P<kind>[a-z_]+)=(?P<amount>[0-9]{1,15})(?:/(?P<window>\w+))?")


def show_new_key(name: str, pepper: Secret | None) -> None:
    """Write the lines for the file to stdout, so that `>> gateway.toml` appends them, and the key itself to stderr."""
    key = new_api_key()
    click.secho(key, bold=True, err=True)
    echo_text(f"(the API key of {name}; it is not shown again, the file stores only its hash)", err=True)
    click.echo(f"\n{key_table(name, hash_api_key(key, pepper))}")


def show_hash(name: str | None, key: str, pepper: Secret | None) -> None:
    """Write the hash of a key to stdout, with a name as the lines for the file. Raises `OptionError`."""
    secret = secret_option("key", key)
    key_hash = hash_api_key(key if secret is None else secret.reveal(), pepper)
    if len(key) < MIN_KEY:
        echo_problem("warning", f"the key has fewer than {MIN_KEY} characters: it can be guessed from its hash")
    click.echo(key_hash if name is None else f"\n{key_table(name, key_hash)}")


def key_table(name: str, key_hash: str) -> str:
    """Return the lines for a key in a file."""
    return f'[[keys]]\nname = {json.dumps(name, ensure_ascii=False)}\nhash = "{key_hash}"'


def show_key(key: Secret, record: ApiKey, *, as_json: bool) -> None:
    """Write a new key to stdout, and what becomes of it to stderr."""
    if as_json:
        click.echo(json.dumps({"key": key.reveal(), **_fields(record)}, indent=2, ensure_ascii=False))
        return
    click.echo(key.reveal())
    note = f"(the API key of {record.name}; it is not shown again, the store has only its hash"
    if record.previous_until is not None:
        note += f"; the previous key works until {_time(record.previous_until)}"
    echo_text(f"{note})", err=True)


def show_records(settings: KeySettings, records: Sequence[ApiKey], *, as_json: bool) -> None:
    """Write the keys of the file and these of the store to stdout, as a table or as JSON."""
    if as_json:
        lines = [{**_fields(key), "in": place} for place, keys in _places(settings, records) for key in keys]
        click.echo(json.dumps(lines, indent=2, ensure_ascii=False))
        return
    rows = [(*_row(key), place) for place, keys in _places(settings, records) for key in keys]
    click.echo(table(_HEAD, rows, columns(sys.stdout)) if rows else "No keys.")


def show_record(record: ApiKey, *, as_json: bool) -> None:
    """Write one key to stdout."""
    fields = _fields(record)
    if as_json:
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))
        return
    width = max(map(len, fields))
    metadata = ", ".join(f"{name}={value}" for name, value in record.metadata.items())
    for name, value in {**fields, "metadata": metadata}.items():
        text = ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):{width}}  {text or '-'}")


def all_callers(settings: Settings) -> Sequence[Principal]:
    """The callers that a configuration names, and those of its key store. Raises `KeyStoreUnavailable`."""
    keys = KeySettings(settings.source, store=settings.key_store)
    stored = run(keys, lambda admin, _: admin.all()) if settings.key_store else ()
    return [*callers_of(settings), *(key.principal for key in stored)]


def caller_named(settings: Settings, name: str) -> Principal:
    """Find a caller by the name of its key. Raises `click.BadParameter`, and `KeyStoreUnavailable`."""
    callers = {caller.id: caller for caller in all_callers(settings)}
    if name not in callers:
        raise click.BadParameter(f"no key in {settings.source} has the name {shown(name)}{nearest(name, callers)}")
    return callers[name]


def run(settings: KeySettings, work: Callable[[KeyAdmin, SqlKeyStore], Awaitable[T]]) -> T:
    """Run `work` on the key store, and close it. Raises `ConfigError` if there is none, and what `work` raises."""
    if settings.store is None:
        place = "BUD_ASGI_KEY_STORE" if settings.source == "environment" else "key_store"
        message = (
            "missing; the keys of a file are made by `bud-asgi keys new NAME >> gateway.toml`, and removed by hand"
        )
        raise ConfigError([Problem(settings.source, place, message)])
    with Progress("waiting for the key store"):
        return asyncio.run(_run(settings.store, KeyAdmin(settings.store, pepper=settings.pepper), work))


async def _run(store: SqlKeyStore, admin: KeyAdmin, work: Callable[[KeyAdmin, SqlKeyStore], Awaitable[T]]) -> T:
    try:
        return await work(admin, store)
    finally:
        await store.aclose()


def parse_limit(text: str) -> Limit:
    """Read `KIND=AMOUNT/WINDOW`, such as `requests=60/1m`. Raises `OptionError`."""
    parts = _LIMIT.fullmatch(text)
    if parts is None or parts["kind"] not in KINDS:
        raise OptionError("--limit", f"expected KIND=AMOUNT/WINDOW such as requests=60/1m, with KIND {one_of(KINDS)}")
    window = in_seconds("--limit", parts["window"]) if parts["window"] else None
    try:
        return Limit(cast("Kind", parts["kind"]), int(parts["amount"]), window)
    except OptionError as error:
        raise OptionError("--limit", str(error)) from None


def parse_expiry(text: str, now: datetime) -> datetime:
    """Read a duration such as `30d`, or a time such as `2027-01-31` (the start of that day in UTC).

    Raises `OptionError`.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now + timedelta(seconds=in_seconds("--expires", text))
        except OptionError:
            expected = "expected a duration such as 90d, or a time such as 2027-01-31"
            raise OptionError("--expires", f"{expected}, got {shown(text)}") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def state_of(key: ApiKey, now: datetime) -> str:
    """Whether a key is accepted: `enabled`, `disabled` or `expired`."""
    if not key.enabled:
        return "disabled"
    return "expired" if key.expires is not None and key.expires <= now else "enabled"


def _places(settings: KeySettings, records: Sequence[ApiKey]) -> Sequence[tuple[str, Sequence[ApiKey]]]:
    return (settings.source, settings.keys), ("key_store", records)


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.name,
        state_of(key, datetime.now(UTC)),
        key.owner or "-",
        key.team or "-",
        ", ".join(key.models),
        ", ".join(map(limit_words, key.limits)) or "-",
        _time(key.expires),
        _time(key.last_used),
    )


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "state": state_of(key, datetime.now(UTC)),
        "owner": key.owner,
        "team": key.team,
        "models": list(key.models),
        "limits": [limit_words(limit) for limit in key.limits],
        "metadata": dict(key.metadata),
        "expires": _iso(key.expires),
        "created": _iso(key.created),
        "last_used": _iso(key.last_used),
        "previous_until": _iso(key.previous_until),
    }


def _iso(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if time else None


def _time(time: datetime | None) -> str:
    return _iso(time) or "-"
