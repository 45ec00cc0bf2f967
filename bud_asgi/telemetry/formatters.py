"""Formatters of `logging` for the access log: JSON for machines, and text for people at a terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from bud_asgi.printable import printable
from bud_asgi.telemetry.access_fields import printable_json, rfc3339

FIELDS = "bud"
"""The attribute of a record that has the fields of a request."""

_RED, _YELLOW, _GREEN, _DIM = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m"
_RESET = "\x1b[0m"


class JsonFormatter(logging.Formatter):
    """Formats records as one line of JSON each: the fields of a request, or time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """Encode the record; what is not printable is escaped."""
        fields = _fields(record)
        if fields is None:
            message = super().format(record).encode("utf-8", "backslashreplace").decode()
            level = record.levelname.lower()
            fields = {"time": rfc3339(record.created), "level": level, "logger": record.name, "message": message}
        return printable_json(msgspec.json.encode(fields, enc_hook=repr)).decode()


class TextFormatter(logging.Formatter):
    """Formats requests for people, on one line each, with colours if `colors` is true. Other records: their message."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__()
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        """Format the record. What is not printable is escaped, except the colours."""
        fields = _fields(record)
        if fields is None:
            return printable(super().format(record))
        parts = [
            (self.formatTime(record, "%H:%M:%S"), _DIM),
            (_status(fields), _color_of(record.levelno, fields)),
            *((part, "") for part in _parts(fields)),
            (str(fields.get("request_id")), _DIM),
        ]
        return "  ".join(self._colored(text, color) for text, color in parts if text)

    def _colored(self, text: str, color: str) -> str:
        text = printable(text)
        return f"{color}{text}{_RESET}" if color and self._colors else text


def _fields(record: logging.LogRecord) -> Mapping[str, Any] | None:
    fields = getattr(record, FIELDS, None)
    return fields if isinstance(fields, Mapping) else None  # pyright: ignore[reportUnknownVariableType]


def _color_of(level: int, fields: Mapping[str, Any]) -> str:
    if level >= logging.WARNING:
        return _RED
    return _GREEN if fields.get("outcome") == "answered" and fields.get("status") == 200 else _YELLOW


def _status(fields: Mapping[str, Any]) -> str:
    """The status, and the outcome where it is not the usual one of that status."""
    status, outcome = fields.get("status") or "-", fields.get("outcome")
    return f"{status}" if outcome in {"answered", "refused"} else f"{status} {outcome}"


def _parts(fields: Mapping[str, Any]) -> list[str]:
    """What was requested by whom, where it went, how long it took, and what went wrong."""
    model, target = fields.get("model") or fields.get("requested_model"), fields.get("target")
    attempts = len(fields.get("attempts") or ())
    return [
        str(fields.get("operation") or f"{fields.get('method')} {fields.get('path')}"),
        str(fields.get("principal") or ""),
        " -> ".join(str(name) for name in (model, target) if name),
        _times(fields),
        _tokens(fields),
        f"{attempts} attempts" if attempts > 1 else "",
        ": ".join(str(fields[name]) for name in ("error_type", "refused_by") if name in fields),
    ]


def _times(fields: Mapping[str, Any]) -> str:
    total = f"{fields.get('milliseconds', 0):,.0f} ms"
    first = fields.get("first_byte_milliseconds")
    return f"{total} (first byte {first:,.0f})" if fields.get("stream") and first is not None else total


def _tokens(fields: Mapping[str, Any]) -> str:
    counts = [("in", "input_tokens"), ("out", "output_tokens"), ("cached", "cache_read_input_tokens")]
    shown = [f"{fields[name]:,} {word}" for word, name in counts if fields.get(name) is not None]
    return f"{'~' if fields.get('estimated') else ''}{', '.join(shown)}"
