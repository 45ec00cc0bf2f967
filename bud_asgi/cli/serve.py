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

from bud_asgi.config import ConfigError, Problem, Settings
from bud_asgi.config.problems import joined

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
    several = options.workers > 1
    access_log = settings.access_log is not False
    if several:  # each worker reads for itself what this process has found valid
        if options.config:
            os.environ["BUD_ASGI_CONFIG"] = str(Path(options.config).absolute())
        os.environ["BUD_ASGI_ACCESS_LOG"] = str(int(access_log))
    uvicorn.run(
        "bud_asgi.config:from_env" if several else msgspec.structs.replace(settings, access_log=access_log).app(),
        factory=several,
        host=options.host,
        port=options.port,
        workers=options.workers,
        forwarded_allow_ips=options.forwarded_allow_ips,
        timeout_graceful_shutdown=options.drain_timeout,
        lifespan="on",
        ws="none",  # nothing is loaded for what is refused anyway
        access_log=False,  # it is ours
        log_config=_log_config(options.log_level),
    )


def _refuse_what_cannot_be_meant(settings: Settings, options: ServeOptions) -> None:
    problems: list[Problem] = []
    if settings.limits and options.workers > 1 and not options.per_worker_limits:
        counted = "each process counts the limits in its own memory"
        allowed = "1, or --per-worker-limits if that is meant"
        problems.append(Problem("", "--workers", f"found {options.workers}, but {counted}; allowed is {allowed}"))
    for provider in settings.providers:
        url = urlsplit(provider.base_url)
        if url.port == options.port and url.hostname in {options.host, "localhost", "127.0.0.1", "::1"}:
            path = joined("providers", provider.name) + ".base_url"
            problems.append(Problem(settings.source, path, f"found {provider.base_url}, which is this server itself"))
    if problems:
        raise ConfigError(problems)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    """After its graceful end uvicorn raises the signal again: to have been told to stop is no failure."""
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
