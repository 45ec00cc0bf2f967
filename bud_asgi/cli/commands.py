"""The commands and their options. Each command is implemented in the file of the same name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from bud_asgi.cli.check import show_settings, warnings_of
from bud_asgi.cli.key_commands import keys
from bud_asgi.cli.limits import show_limits
from bud_asgi.cli.route import show_route
from bud_asgi.cli.serve import LOG_LEVELS, ServeOptions, serve_settings
from bud_asgi.cli.settings import EXIT_WRONG, config_argument, fail, read_settings, report_config_errors
from bud_asgi.extras import install_command
from bud_asgi.limits import StoreUnavailable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bud-asgi", message="%(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Serve the Anthropic Messages API, configured by a file or by environment variables."""
    if os.environ.get("NO_COLOR"):
        context.color = False


@group.command()
@config_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Number of worker processes.")
@click.option(
    "--per-worker-limits",
    is_flag=True,
    help="Divide limits that are not counted in a store among the workers; each counts on its own.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(LOG_LEVELS),
    help="Level of the messages on stderr.",
)
@click.option(
    "--forwarded-allow-ips", metavar="LIST", help="Addresses of proxies whose X-Forwarded-* headers are trusted."
)
@click.option(
    "--drain-timeout",
    default=30,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds that running requests may take to finish after SIGTERM.",
)
@click.option(
    "--keep-alive",
    default=75,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds that a connection stays open after a response.",
)
@click.option(
    "--limit-connections",
    type=click.IntRange(1),
    help="Number of open connections, beyond which new ones get a 503.  [default: half of the open files limit]",
)
@click.option(
    "--limit-concurrency",
    type=click.IntRange(1),
    help="Number of running requests, beyond which new ones get a 529.  [default: no limit]",
)
def serve(config: str | None, **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C.

    GATEWAY.TOML is the configuration file. Without it, environment variables are used.
    """
    with report_config_errors():
        settings = read_settings(config)
        serve_settings(settings, ServeOptions(config=config, **options))


@group.command()
@config_argument
def check(config: str | None) -> None:
    """Show what would be served, or every problem of the configuration.

    Opens no port and calls no upstream. Without GATEWAY.TOML, environment variables are checked.
    """
    with report_config_errors():
        settings = read_settings(config)
    click.echo(show_settings(settings))
    for warning in warnings_of(settings):
        click.secho(f"warning: {warning}", fg="yellow", err=True)


@group.command()
@click.argument("config", metavar="GATEWAY.TOML", type=click.Path(dir_okay=False))
@click.argument("model")
@click.option("--principal", metavar="NAME", help="Name of the key of the caller.")
@click.option("--body", metavar="FILE", type=click.File("rb"), help="Body of the request; MODEL replaces its model.")
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, help="Header of the request (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def route(
    config: str, model: str, principal: str | None, body: IO[bytes] | None, headers: Sequence[str], *, as_json: bool
) -> None:
    """Show where a request for MODEL would go, and why. Nothing is sent.

    The exit status is 1 if the request would be refused.
    """
    lines = [_header(line) for line in headers]
    with report_config_errors():
        settings = read_settings(config)
        explained = show_route(settings, model, principal, body.read() if body else None, lines, as_json=as_json)
    if explained.error is not None:
        error = explained.error
        fail(f"{error.status} {error.type}: {error.message}")


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not (name.strip() and colon and line.isascii() and line.isprintable()):
        raise click.BadParameter("expected NAME:VALUE in printable ASCII", param_hint="--header")
    return name.strip().lower().encode(), value.strip().encode()


group.add_command(keys)


@group.group()
def limits() -> None:
    """Inspect the limits of callers."""


@limits.command()
@config_argument
@click.argument("name", required=False)
@click.option("--model", help="Also show the limits that depend on the model, for this one.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def show(config: str | None, name: str | None, model: str | None, *, as_json: bool) -> None:
    """Show how much of their limits callers have used.

    NAME is the name of a key; without it, all keys of the file are shown. The numbers are those of all servers that use
    the [store] of the file. Without GATEWAY.TOML, BUD_ASGI_CONFIG is the path of the file; NAME alone is then enough,
    unless a file has that name.
    """
    if config and name is None and os.environ.get("BUD_ASGI_CONFIG") and not Path(config).is_file():
        config, name = None, config
    with report_config_errors():
        settings = read_settings(config)
        try:
            show_limits(settings, name, model, as_json=as_json)
        except StoreUnavailable as error:
            fail(f"{settings.source}: store: {settings.store!r} cannot be read: {error.reason}")


@group.command()
@click.option("--keep", is_flag=True, help="Keep the servers running until Ctrl-C.")
@click.option("--real", is_flag=True, help="Use api.anthropic.com and ANTHROPIC_API_KEY. This costs money.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port of the gateway (default: a free one).")
@click.option("--key", help="API key that the gateway accepts (default: a new one).")
def demo(*, keep: bool, real: bool, port: int, key: str | None) -> None:
    """Run a demonstration that needs no key and costs nothing.

    Mounts the gateway in a Starlette app with stand-ins for all three providers, and calls it with curl and the SDK.
    """
    try:
        from bud_asgi.cli.demo import run  # noqa: PLC0415 - the SDK is an optional extra, and slow to import
    except ModuleNotFoundError as error:
        if error.name not in {"anthropic", "cryptography"}:
            raise
        click.echo(f"bud-asgi demo needs {error.name}: {install_command('demo')}", err=True)
        sys.exit(EXIT_WRONG)
    sys.exit(run(keep=keep, real=real, port=port, key=key))
