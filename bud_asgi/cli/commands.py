"""The commands and their options; what they do is in the file of the same name."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import click

from bud_asgi.cli.check import show_settings, warnings_of
from bud_asgi.cli.keys import show_new_key
from bud_asgi.cli.serve import LOG_LEVELS, ServeOptions, serve_settings
from bud_asgi.config import ConfigError, Settings, read_environment

EXIT_WRONG = 2
"""The exit status for a configuration or for words that can't be used."""

_config = click.argument("config", required=False, metavar="[GATEWAY.TOML]", type=click.Path(dir_okay=False))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bud-asgi", message="%(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """The Anthropic Messages API, served from a file or from the environment."""
    if os.environ.get("NO_COLOR"):
        context.color = False


@group.command()
@_config
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that serve.")
@click.option("--per-worker-limits", is_flag=True, help="With more workers: each counts the limits by itself.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LOG_LEVELS), help="For stderr.")
@click.option("--forwarded-allow-ips", metavar="LIST", help="Proxies whose X-Forwarded-* are believed.")
@click.option(
    "--drain-timeout",
    default=30,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds that running requests get after SIGTERM.",
)
def serve(
    config: str | None,
    *,
    host: str,
    port: int,
    workers: int,
    per_worker_limits: bool,
    log_level: str,
    forwarded_allow_ips: str | None,
    drain_timeout: int,
) -> None:
    """Serve a file, or the environment.

    GATEWAY.TOML says what is served; without it, the environment does.
    """
    with _wrong_is_told():
        settings = _settings(config)
        options = ServeOptions(
            config=config,
            host=host,
            port=port,
            workers=workers,
            per_worker_limits=per_worker_limits,
            log_level=log_level,
            forwarded_allow_ips=forwarded_allow_ips,
            drain_timeout=drain_timeout,
        )
        serve_settings(settings, options)


@group.command()
@_config
def check(config: str | None) -> None:
    """Say what would be served, or all that is wrong.

    Nothing listens and nothing is called. Without GATEWAY.TOML the environment is checked.
    """
    with _wrong_is_told():
        settings = _settings(config)
    click.echo(show_settings(settings))
    for warning in warnings_of(settings):
        click.secho(f"warning: {warning}", fg="yellow", err=True)


@group.group()
def keys() -> None:
    """API keys for the callers."""


@keys.command()
@click.argument("name")
def new(name: str) -> None:
    """Make a key: it is shown once, on stderr; the lines for the file go to stdout."""
    if not name.isprintable() or not name:
        raise click.BadParameter("a name is printable, and not empty")
    show_new_key(name)


@group.command()
@click.option("--keep", is_flag=True, help="Leave the servers running until Ctrl-C.")
@click.option("--real", is_flag=True, help="Ask api.anthropic.com, with ANTHROPIC_API_KEY: this costs money.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The gateway's port (default: a free one).")
@click.option("--key", help="The key that the gateway takes (default: a new one).")
def demo(*, keep: bool, real: bool, port: int, key: str | None) -> None:
    """Show it at work, without key or cost.

    A host with the endpoint mounted, stand-ins for all three providers behind it, curl and the official SDK in front.
    """
    try:
        from bud_asgi.cli.demo import run  # noqa: PLC0415 - the SDK is another extra, and takes a second to load
    except ModuleNotFoundError as error:
        if error.name != "anthropic":
            raise
        click.echo("bud-asgi demo needs the official SDK: pip install 'bud-asgi[demo]'", err=True)
        sys.exit(EXIT_WRONG)
    sys.exit(run(keep=keep, real=real, port=port, key=key))


def _settings(config: str | None) -> Settings:
    environ = {**os.environ, "BUD_ASGI_CONFIG": config} if config else os.environ
    return read_environment(environ)


@contextmanager
def _wrong_is_told() -> Generator[None]:
    """Every error on a line of its own on stderr, and status 2."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{click.style('error:', fg='red')} {problem}", err=True)
        sys.exit(EXIT_WRONG)
