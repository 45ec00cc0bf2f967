"""Runs the server: in this process, or in several workers."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
import uvicorn
from uvicorn.supervisors import Multiprocess

from bud_asgi import __version__
from bud_asgi.app import MessagesApp
from bud_asgi.cli.listening import (
    Listening,
    Tls,
    listen_on,
    listen_on_descriptor,
    listen_on_path,
    listening_problem,
    tls_options,
)
from bud_asgi.cli.serve.hangup import Hangup, ignore_hangup, pass_hangup, take_hangup
from bud_asgi.cli.serve.logs import log_config
from bud_asgi.cli.serve.metrics import serve_metrics, serve_worker_metrics
from bud_asgi.cli.serve.options import WORKER_OPTIONS, ServeOptions, check_options
from bud_asgi.cli.serve.reloading import Reloader, run_beside
from bud_asgi.cli.serve.status import with_status_page
from bud_asgi.cli.settings import EXIT_NOT_STARTED, fail, read_settings
from bud_asgi.cli.summary import show_settings
from bud_asgi.cli.terminal import columns, echo_problem
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import Settings
from bud_asgi.config.environment import LIMITS_DIVISOR
from bud_asgi.server import ConnectionFactory, ServerLimits, default_connections

AFTER_DRAIN = 2
"""Seconds that uvicorn leaves to connections after the drain: clients may still be reading their last answer."""

WORKER_STARTS_WITHIN = 15
"""Seconds until the supervisor kills a worker that does not respond. uvicorn's 5 are too few for a slow start."""

_log = logging.getLogger("bud_asgi")


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
        "bud_asgi.cli.serve.worker:make_app",
        factory=True,
        loop="bud_asgi.cli.serve.worker:make_loop",
        workers=options.workers,
        timeout_worker_healthcheck=WORKER_STARTS_WITHIN,
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
        "log_config": log_config(options),
    }


def _limits(options: ServeOptions) -> ServerLimits:
    return ServerLimits(
        keep_alive=options.keep_alive,
        connections=default_connections() if options.limit_connections is None else options.limit_connections,
        concurrency=options.limit_concurrency,
    )


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """Exit with status 0 on SIGTERM, also before startup: uvicorn re-raises the signal when it stops."""
    sys.exit(0)
