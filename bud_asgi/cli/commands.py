"""The commands and their options. Each command is implemented in the file or folder of the same name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from bud_asgi.cli.ask import Question, ask_model
from bud_asgi.cli.check import check_config
from bud_asgi.cli.explain import explain
from bud_asgi.cli.import_commands import import_group
from bud_asgi.cli.init import new_file, next_steps, write_file
from bud_asgi.cli.key_commands import keys
from bud_asgi.cli.limits import show_limits
from bud_asgi.cli.route import caller_for, show_route
from bud_asgi.cli.serve.options import ACCESS_LOG_FORMATS, LOG_LEVELS, ServeOptions
from bud_asgi.cli.serve.run import serve_settings
from bud_asgi.cli.serve.status import DEFAULT_PATH
from bud_asgi.cli.settings import (
    DEFAULT_FILE,
    EXIT_WRONG,
    config_argument,
    fail,
    read_settings,
    report_config_errors,
)
from bud_asgi.cli.terminal import echo_text
from bud_asgi.cli.version import version_text
from bud_asgi.extras import install_command
from bud_asgi.limits import StoreUnavailable

_VERSION_HELP = "Show the versions that a bug report needs, and exit."


def _show_version(context: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested and not context.resilient_parsing:
        click.echo(version_text())
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help=_VERSION_HELP)
@click.pass_context
def group(context: click.Context) -> None:
    """Serve the Anthropic Messages API, configured by a file or by environment variables."""
    if os.environ.get("NO_COLOR"):
        context.color = False


@group.command()
@click.argument("file", default=DEFAULT_FILE, metavar="[GATEWAY.TOML]", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def init(file: str, *, force: bool) -> None:
    """Write a first configuration file.

    It has the providers whose credentials are found in the environment and in the home folder, and references instead
    of secrets. The key of a first caller is written to stdout.
    """
    new = new_file(file, os.environ, Path.home())
    try:
        write_file(Path(file), new.text, force=force)
    except FileExistsError:
        fail(f"{file} exists; --force replaces it")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    click.echo(new.key)
    for line in next_steps(file, new):
        echo_text(line, err=True)


def _root_path(_context: click.Context, _parameter: click.Parameter, path: str) -> str:
    path = path.rstrip("/")
    if path and not (path.startswith("/") and path.isascii() and path.isprintable() and "%" not in path):
        raise click.BadParameter("expected a path such as /llm")
    return path


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
    "--access-log-format",
    default="auto",
    show_default=True,
    type=click.Choice(ACCESS_LOG_FORMATS),
    help="Format of the lines on stdout; auto is text on a terminal and JSON elsewhere.",
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
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Port for metrics in the format of Prometheus.  [default: none]",
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address to serve metrics on.")
@click.option(
    "--status",
    metavar="[=PATH]",
    is_flag=False,
    flag_value=DEFAULT_PATH,
    help=f"Serve the status page, at {DEFAULT_PATH} or another path.",
)
@click.option(
    "--status-key",
    metavar="REFERENCE",
    multiple=True,
    help="Key for the status page, as env:NAME or file:PATH (repeatable).",
)
@click.option("--uds", metavar="PATH", help="Unix socket to listen on, instead of an address.")
@click.option("--fd", type=click.IntRange(0), help="Descriptor of a socket to use, instead of an address.")
@click.option("--root-path", default="", metavar="PATH", callback=_root_path, help="Path that a proxy serves it below.")
@click.option("--ssl-certfile", metavar="FILE", help="Certificate chain, for TLS.")
@click.option("--ssl-keyfile", metavar="FILE", help="Key of the certificate, unless it is in the same file.")
@click.option("--ssl-keyfile-password", metavar="REFERENCE", help="Password of the key, as env:NAME or file:PATH.")
@click.option("--watch", is_flag=True, help="Reload when the file, or a file with a secret that it names, has changed.")
def serve(config: str | None, **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C. On SIGHUP the configuration is read again.

    GATEWAY.TOML is the configuration file. Without it, environment variables are used.
    """
    if options["uds"] is not None and options["fd"] is not None:
        raise click.UsageError("--uds and --fd cannot be combined")
    with report_config_errors():
        settings = read_settings(config)
        serve_settings(settings, ServeOptions(config=config, **options))


@group.command()
@config_argument
@click.option("--live", is_flag=True, help="Call each provider: count tokens or, if that fails, request one token.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def check(config: str | None, *, live: bool, as_json: bool) -> None:
    """Show what would be served, or every problem of the file.

    Opens no port and, without --live, calls no upstream. Without GATEWAY.TOML, environment variables are checked.
    """
    sys.exit(check_config(config, live=live, as_json=as_json))


@group.command()
@click.argument("words", nargs=-1, required=True, metavar="[GATEWAY.TOML] MODEL TEXT")
@click.option("--principal", metavar="NAME", help="Name of the key whose permissions and limits apply.")
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(1), help="Length of the answer.")
@click.option("--json", "as_json", is_flag=True, help="Write the answer and the summary as JSON.")
def ask(words: Sequence[str], principal: str | None, max_tokens: int, *, as_json: bool) -> None:
    """Send one request through the configuration, without a server.

    The answer is written to stdout as it arrives, a summary to stderr. TEXT may be - to read it from stdin. Without
    --principal the caller may use every model.
    """
    if len(words) not in {2, 3} or (len(words) == 2 and words[0].endswith(".toml")):  # a file, and no text
        raise click.UsageError("expected [GATEWAY.TOML] MODEL TEXT, with TEXT in quotation marks")
    *config, model, text = (word.encode(errors="surrogateescape").decode(errors="replace") for word in words)
    question = Question(model, sys.stdin.read() if text == "-" else text, max_tokens)
    with report_config_errors():
        settings = read_settings(config[0] if config else None)
        status = ask_model(settings, question, principal, as_json=as_json)
    sys.exit(status)


@group.command(name="stand-in")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--api-key", default="sk-ant-stand-in", show_default=True, help="Key that it accepts.")
@click.option("--model", "models", multiple=True, help="Model that it has (repeatable).  [default: any]")
@click.option("--reply", metavar="TEXT", help="Text of every answer.  [default: an echo of the question]")
@click.option("--delay", default=0.0, show_default=True, type=click.FloatRange(0), help="Seconds between events.")
def stand_in(port: int, api_key: str, models: Sequence[str], reply: str | None, delay: float) -> None:
    """Serve a fake of Anthropic's API on 127.0.0.1.

    It checks requests as the service does, and answers without a model. Pages of any origin may call it.
    """
    from bud_asgi.cli.stand_in import StandInOptions, run_stand_in  # noqa: PLC0415 - nothing else needs the stand-ins

    run_stand_in(StandInOptions(port, api_key, models, reply, delay))


@group.command()
@click.argument("config", metavar="GATEWAY.TOML", type=click.Path(dir_okay=False))
@click.argument("model")
@click.option("--principal", metavar="NAME", help="Name of the key of the caller, or the id of one with a token.")
@click.option("--team", help="Team of a caller with a token.")
@click.option("--body", metavar="FILE", type=click.File("rb"), help="Body of the request; MODEL replaces its model.")
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, help="Header of the request (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def route(
    config: str,
    model: str,
    principal: str | None,
    team: str | None,
    body: IO[bytes] | None,
    headers: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Show where a request for MODEL would go, and why. Nothing is sent.

    The exit status is 1 if the request would be refused.
    """
    lines = [_header(line) for line in headers]
    with report_config_errors():
        settings = read_settings(config)
        caller = caller_for(settings, principal, team)
        explained = show_route(settings, model, caller, body.read() if body else None, lines, as_json=as_json)
    if explained.error is not None:
        error = explained.error
        fail(f"{error.status} {error.type}: {error.message}")


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not (name.strip() and colon and line.isascii() and line.isprintable()):
        raise click.BadParameter("expected NAME:VALUE in printable ASCII", param_hint="--header")
    return name.strip().lower().encode(), value.strip().encode()


group.add_command(explain)
group.add_command(keys)
group.add_command(import_group)


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
        from bud_asgi.cli.demo.run import run  # noqa: PLC0415 - the SDK is an optional extra, and slow to import
    except ModuleNotFoundError as error:
        if error.name not in {"anthropic", "cryptography"}:
            raise
        fail(f"bud-asgi demo needs {error.name}: {install_command('demo')}", EXIT_WRONG)
    sys.exit(run(keep=keep, real=real, port=port, key=key))
