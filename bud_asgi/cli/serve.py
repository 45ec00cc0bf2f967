"""Standalone serving: one or more uvicorn processes with server logs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO
from urllib.parse import urlsplit

import click
import msgspec
import uvicorn
from uvicorn.supervisors import Multiprocess

from bud_asgi import __version__
from bud_asgi.app import MessagesApp
from bud_asgi.cli.hangup import Hangup, ignore_hangup, pass_hangup, take_hangup
from bud_asgi.cli.listening import (
    Listening,
    Tls,
    listen_on,
    listen_on_descriptor,
    listen_on_path,
    listening_problem,
    tls_options,
)
from bud_asgi.cli.metrics import MetricsAddress, check_metrics, serve_metrics, serve_worker_metrics
from bud_asgi.cli.reloading import Reloader, run_beside
from bud_asgi.cli.settings import EXIT_NOT_STARTED, fail, read_settings
from bud_asgi.cli.status import check_status, with_status_page
from bud_asgi.cli.summary import show_settings
from bud_asgi.cli.terminal import columns, echo_problem
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import ConfigError, Problem, Settings, divide_limits
from bud_asgi.config.environment import LIMITS_DIVISOR
from bud_asgi.config.problems import render
from bud_asgi.options import url_shown
from bud_asgi.providers import Bedrock
from bud_asgi.server import ConnectionFactory, ServerLimits, default_connections

AFTER_DRAIN = 2
"""Seconds that uvicorn leaves to connections after the drain: clients may still be reading their last answer."""

_log = logging.getLogger("bud_asgi")

ACCESS_LOG_FORMATS = ("auto", "json", "text")
"""`auto`: text for people if stdout is a terminal, otherwise JSON."""

WORKER_OPTIONS = "BUD_ASGI_WORKER_OPTIONS"
"""The variable with the options of the command for its workers."""

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `bud-asgi serve`.

    `config` is the file, `None` for the environment. `drain_timeout` and `keep_alive` are seconds. `limit_connections`
    is `None` for the default of the process, `limit_concurrency` for no limit; they are for each worker. `uds` or `fd`
    take the place of `host` and `port`. `ssl_keyfile_password` is a reference. `watch`: reload when a file changes.
    Without a `metrics_port` there are no metrics. `status` is the path of the status page, `None` for none, and
    `status_key` has references to the keys for it.
    """

    config: str | None
    host: str
    port: int
    workers: int
    per_worker_limits: bool
    log_level: str
    forwarded_allow_ips: str | None
    drain_timeout: int
    keep_alive: int
    limit_connections: int | None
    limit_concurrency: int | None
    access_log_format: str = "auto"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    status: str | None = None
    status_key: tuple[str, ...] = ()
    uds: str | None = None
    fd: int | None = None
    root_path: str = ""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    watch: bool = False

    @property
    def metrics(self) -> MetricsAddress | None:
        """Where metrics are served."""
        return None if self.metrics_port is None else MetricsAddress(self.metrics_host, self.metrics_port)


def serve_settings(settings: Settings, options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT, then drain. After SIGTERM the exit status is 0.

    Raises `ConfigError`, before a port is opened, for options that contradict the settings.
    """
    check_options(settings, options)
    tls = tls_options(Tls(options.ssl_certfile, options.ssl_keyfile, options.ssl_keyfile_password))
    signal.signal(signal.SIGTERM, _exit)
    listening = _listen(options)
    try:
        if options.workers == 1:
            _serve_alone(settings, options, listening, tls)
        else:
            _serve_by_workers(settings, options, listening, tls)
    finally:
        listening.close()


def _serve_alone(settings: Settings, options: ServeOptions, listening: Listening, tls: Mapping[str, Any]) -> None:
    messages = _with_access_log(settings).app()
    app = with_status_page(messages, options.status, options.status_key)
    config = uvicorn.Config(app, timeout_graceful_shutdown=AFTER_DRAIN, **_shared(options), **tls)
    runner = asyncio.Runner(loop_factory=config.get_loop_factory())
    with serve_metrics(messages, options.metrics), runner:
        announce(settings, listening.address)
        reloader = Reloader(messages, partial(_read_again, options), watch=options.watch)
        serving = _serve_here(config, messages, options.drain_timeout, listening)
        try:
            runner.run(run_beside(reloader, Hangup(), serving))
        finally:
            ignore_hangup()


def _read_again(options: ServeOptions) -> Settings:
    """The configuration as it is now. Raises `ConfigError`, also for options that contradict it."""
    settings = _with_access_log(read_settings(options.config))
    check_options(settings, options)
    return settings


def _with_access_log(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, access_log=settings.access_log is not False)


def _serve_by_workers(settings: Settings, options: ServeOptions, listening: Listening, tls: Mapping[str, Any]) -> None:
    """Serve in processes of their own, each of which reads the configuration again."""
    if options.config:
        os.environ["BUD_ASGI_CONFIG"] = str(Path(options.config).absolute())
    os.environ["BUD_ASGI_ACCESS_LOG"] = str(int(settings.access_log is not False))
    if options.per_worker_limits:
        os.environ[LIMITS_DIVISOR] = str(options.workers)
    os.environ[WORKER_OPTIONS] = msgspec.json.encode(options).decode()
    config = uvicorn.Config(
        "bud_asgi.cli.worker:make_app",
        factory=True,
        loop="bud_asgi.cli.worker:make_loop",
        workers=options.workers,
        timeout_graceful_shutdown=options.drain_timeout,
        **_shared(options),
        **tls,
    )
    own: dict[str, Any] = {"config": config, "sockets": list(listening.sockets)}
    if "target" in inspect.signature(Multiprocess).parameters:  # earlier versions of uvicorn require it
        own["target"] = uvicorn.Server(config).run
    with serve_worker_metrics(options.metrics):
        announce(settings, listening.address)
        _Supervisor(**own).run()


class _Supervisor(Multiprocess):
    """Passes SIGHUP on to the workers. uvicorn would replace them, which ends their streams."""

    def handle_signals(self) -> None:
        """Do what the signals ask for that have come since the last call."""
        super().handle_signals()
        if take_hangup():
            pass_hangup(process.pid for process in self.processes)


def announce(settings: Settings, address: str) -> None:
    """Log what is served and where, and warnings, once the logs are configured. On a terminal it is a plain table."""
    _log.info("bud-asgi %s serves %s:", __version__, settings.source)
    width = columns(sys.stderr)
    if width is not None and _log.isEnabledFor(logging.INFO):
        click.echo(f"\n{show_settings(settings, width)}", err=True)
        for warning in warnings_of(settings):
            echo_problem("warning", warning)
        click.echo(err=True)
    else:
        for line in filter(None, show_settings(settings).splitlines()):
            _log.info("%s", line)
        for warning in warnings_of(settings):
            _log.warning("%s", warning)
    _log.info("running on %s (Ctrl-C stops it)", address)


def _listen(options: ServeOptions) -> Listening:
    """Open the sockets, or exit with a line that names the address."""
    try:
        if options.fd is not None:
            return listen_on_descriptor(options.fd)
        if options.uds is not None:
            return listen_on_path(options.uds)
        return listen_on(options.host, options.port, "https" if options.ssl_certfile else "http")
    except OSError as error:
        place = f"{options.host}:{options.port}" if options.uds is None else f"--uds {options.uds}"
        place = place if options.fd is None else f"--fd {options.fd}"
        fail(listening_problem(place, error), EXIT_NOT_STARTED)


async def _serve_here(
    config: uvicorn.Config, messages: MessagesApp, drain_timeout: float, listening: Listening
) -> None:
    """Serve in this process. The first signal starts the drain, a second one ends it at once.

    The port stays open during the drain, so that new requests get a 529 and readiness a 503. uvicorn on its own would
    close it first.
    """
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()
    events = iter((first, second))

    def on_signal(sig: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(next(events, second).set)

    server.handle_exit = on_signal
    serving = loop.create_task(server.serve(list(listening.sockets)))
    if await _event_first(serving, first):
        _log.info("draining: refusing new requests, waiting up to %g s for running ones", drain_timeout)
        draining = loop.create_task(messages.drain(drain_timeout))
        if await _event_first(draining, second):
            draining.cancel()
            await messages.drain(0)
        server.should_exit = True
    await serving


async def _event_first(task: asyncio.Task[None], event: asyncio.Event) -> bool:
    """Wait for either, and return whether the event came before the task was done."""
    waiting = asyncio.get_running_loop().create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return not task.done()


def _shared(options: ServeOptions) -> dict[str, Any]:
    """Options of uvicorn that are the same for one process and for several."""
    proxies = options.forwarded_allow_ips or os.environ.get("FORWARDED_ALLOW_IPS")
    return {
        "root_path": options.root_path,
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": proxies,
        "http": ConnectionFactory(_limits(options)),
        "lifespan": "on",
        "ws": "none",  # the app refuses WebSockets: no need to load a library for them
        "access_log": False,  # the app writes its own
        "log_config": _log_config(options),
    }


def _limits(options: ServeOptions) -> ServerLimits:
    return ServerLimits(
        keep_alive=options.keep_alive,
        connections=default_connections() if options.limit_connections is None else options.limit_connections,
        concurrency=options.limit_concurrency,
    )


def check_options(settings: Settings, options: ServeOptions) -> None:
    """Check the command's options against the settings. Raises `ConfigError`."""
    problems = [
        *_check_workers(settings, options),
        *check_status(options.status, options.status_key, options.workers),
        *check_metrics(options.metrics),
    ]
    has_address = options.uds is None and options.fd is None
    for provider in settings.providers if has_address else ():
        url = urlsplit(provider.base_url)
        if url.port == options.port and url.hostname in {options.host, "localhost", "127.0.0.1", "::1"}:
            key = "endpoint" if isinstance(provider, Bedrock) else "base_url"
            path = render(("providers", provider.name, key))
            problems.append(
                Problem(settings.source, path, f"{url_shown(provider.base_url)} is the address of this server itself")
            )
    if problems:
        raise ConfigError(problems)


def _check_workers(settings: Settings, options: ServeOptions) -> Sequence[Problem]:
    """The problems that limits have with several workers."""
    if options.workers == 1 or not settings.has_limits:
        return ()
    if options.per_worker_limits:
        try:
            divide_limits(settings, options.workers)
        except ConfigError as error:
            return error.problems
    elif settings.store is None:
        message = (
            "each worker would count the limits on its own: add a [store] to the file, which all workers share,"
            " or divide the limits among them with --per-worker-limits"
        )
        return [Problem("", "--workers", message)]
    return ()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """Exit with status 0 on SIGTERM, also before startup: uvicorn re-raises the signal when it stops."""
    sys.exit(0)


class NotCancelled(logging.Filter):
    """Drops the tracebacks of requests that uvicorn cancels after the drain timeout; it logs their number anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep all other records."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _log_config(options: ServeOptions) -> dict[str, Any]:
    """Messages go to stderr, one line per request to stdout. A mounted app never configures logging."""
    messages = {"handlers": ["stderr"], "level": options.log_level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": _formatters(options.access_log_format),
        "filters": {"not_cancelled": {"()": NotCancelled}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "messages",
                "filters": ["not_cancelled"],
                "stream": "ext://sys.stderr",
            },
            "stdout": {
                "class": "bud_asgi.telemetry.LineHandler",
                "formatter": "requests",
                "stream": "ext://sys.stdout",
            },
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "uvicorn": messages,
            "bud_asgi": messages,
            "bud_asgi.access": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
        },
    }


def _formatters(wanted: str) -> dict[str, Any]:
    """The formats of messages, and of requests: `wanted` is one of `ACCESS_LOG_FORMATS`."""
    requests: dict[str, Any] = {"()": "bud_asgi.telemetry.JsonFormatter"}
    if wanted == "text" or (wanted == "auto" and sys.stdout.isatty()):
        requests = {"()": "bud_asgi.telemetry.TextFormatter", "colors": _use_colors(sys.stdout)}
    messages = {
        "()": "uvicorn.logging.DefaultFormatter",
        "fmt": "%(asctime)s %(levelprefix)s %(message)s",
        "use_colors": _use_colors(sys.stderr),
    }
    return {"messages": messages, "requests": requests}


def _use_colors(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")
