"""Serving alone: one or more uvicorn processes, with the logs of a server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvicorn

from bud_asgi.app import MessagesApp
from bud_asgi.config import ConfigError, Problem, Settings
from bud_asgi.config.problems import joined
from bud_asgi.providers import Bedrock

AFTER_DRAIN = 5
"""Seconds that uvicorn gives connections once we have drained: for uploads that were under way."""

_log = logging.getLogger("bud_asgi")

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `bud-asgi serve`. `config` is the file, `None` for the environment; `drain_timeout` is seconds."""

    config: str | None
    host: str
    port: int
    workers: int
    per_worker_limits: bool
    log_level: str
    forwarded_allow_ips: str | None
    drain_timeout: int


def serve_settings(settings: Settings, options: ServeOptions) -> None:
    """Serve until a signal comes, then drain; SIGTERM ends the process with status 0.

    Raises `ConfigError`, before anything listens, for what can't be meant.
    """
    _refuse_what_cannot_be_meant(settings, options)
    signal.signal(signal.SIGTERM, _exit)
    access_log = settings.access_log is not False
    if options.workers == 1:
        messages = msgspec.structs.replace(settings, access_log=access_log).app()
        config = uvicorn.Config(messages, timeout_graceful_shutdown=AFTER_DRAIN, **_shared(options))
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve_here(config, messages, options.drain_timeout))
        return
    if options.config:  # each worker reads for itself what this process has found valid
        os.environ["BUD_ASGI_CONFIG"] = str(Path(options.config).absolute())
    os.environ["BUD_ASGI_ACCESS_LOG"] = str(int(access_log))
    uvicorn.run(
        "bud_asgi.config:from_env",
        factory=True,
        workers=options.workers,
        timeout_graceful_shutdown=options.drain_timeout,
        **_shared(options),
    )


async def _serve_here(config: uvicorn.Config, messages: MessagesApp, drain_timeout: float) -> None:
    """Serve in this process. The first signal drains while the port still answers; a second one does not wait.

    uvicorn by itself would close the port first: nobody could be told that it drains, nor where else to go.
    """
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()
    events = iter((first, second))

    def on_signal(sig: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(next(events, second).set)

    server.handle_exit = on_signal
    serving = loop.create_task(server.serve())
    if await _unless_done(serving, first):
        _log.info("draining: new requests are refused, running ones get %g s", drain_timeout)
        draining = loop.create_task(messages.drain(drain_timeout))
        if await _unless_done(draining, second):
            draining.cancel()
            await messages.drain(0)
        server.should_exit = True
    await serving


async def _unless_done(task: asyncio.Task[None], event: asyncio.Event) -> bool:
    """Whether the event came before the task was done."""
    waiting = asyncio.get_running_loop().create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return not task.done()


def _shared(options: ServeOptions) -> dict[str, Any]:
    """What one process and several are told alike."""
    return {
        "host": options.host,
        "port": options.port,
        "forwarded_allow_ips": options.forwarded_allow_ips,
        "lifespan": "on",
        "ws": "none",  # nothing is loaded for what is refused anyway
        "access_log": False,  # it is ours
        "log_config": _log_config(options.log_level),
    }


def _refuse_what_cannot_be_meant(settings: Settings, options: ServeOptions) -> None:
    problems: list[Problem] = []
    if settings.limits and options.workers > 1 and not options.per_worker_limits:
        counted = "each process counts the limits in its own memory"
        allowed = "1, or --per-worker-limits if that is meant"
        problems.append(Problem("", "--workers", f"found {options.workers}, but {counted}; allowed is {allowed}"))
    for provider in settings.providers:
        url = urlsplit(provider.base_url)
        if url.port == options.port and url.hostname in {options.host, "localhost", "127.0.0.1", "::1"}:
            key = "endpoint" if isinstance(provider, Bedrock) else "base_url"
            path = joined(joined("providers", provider.name), key)
            problems.append(Problem(settings.source, path, f"found {provider.base_url}, which is this server itself"))
    if problems:
        raise ConfigError(problems)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """To be told to stop is no failure, not even before it has started; uvicorn raises the signal again at its end."""
    sys.exit(0)


class NotCancelled(logging.Filter):
    """Drops the traceback of each request that uvicorn cancels past the drain timeout; it tells their number."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is no such traceback."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _log_config(level: str) -> dict[str, Any]:
    """Words on stderr, a line of JSON for each request on stdout. A mounted app never touches logging."""
    words = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "words": {
                "()": "uvicorn.logging.DefaultFormatter",
                "fmt": "%(asctime)s %(levelprefix)s %(message)s",
                "use_colors": sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            },
            "bare": {"format": "%(message)s"},
        },
        "filters": {"not_cancelled": {"()": NotCancelled}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "words",
                "filters": ["not_cancelled"],
                "stream": "ext://sys.stderr",
            },
            "stdout": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stdout"},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "uvicorn": words,
            "bud_asgi": words,
            "bud_asgi.access": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
        },
    }
