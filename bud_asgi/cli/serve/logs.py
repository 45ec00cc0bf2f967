"""The logs of `serve`: messages to stderr, requests to stdout."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any, TextIO

from bud_asgi.cli.serve.options import ServeOptions


class NotCancelled(logging.Filter):
    """Drops the tracebacks of requests that uvicorn cancels after the drain timeout; it logs their number anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep all other records."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def log_config(options: ServeOptions) -> dict[str, Any]:
    """Messages go to stderr, one line per request to stdout. A mounted app never configures logging."""
    messages = {"handlers": ["stderr"], "level": options.log_level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": formatters(options.access_log_format),
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


def formatters(wanted: str) -> dict[str, Any]:
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
