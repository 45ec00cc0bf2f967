"""Reports on requests, from their `Exchange`."""

from bud_asgi.telemetry.access_fields import AccessLine, AttemptLine, access_line, encode_line
from bud_asgi.telemetry.access_log import AccessLog, flush_access_log
from bud_asgi.telemetry.formatters import JsonFormatter, TextFormatter
from bud_asgi.telemetry.lines import LineHandler
from bud_asgi.telemetry.metrics import MetricsSource
from bud_asgi.telemetry.settled import OnSettled, SettledCallback

__all__ = [
    "AccessLine",
    "AccessLog",
    "AttemptLine",
    "JsonFormatter",
    "LineHandler",
    "MetricsSource",
    "OnSettled",
    "SettledCallback",
    "TextFormatter",
    "access_line",
    "encode_line",
    "flush_access_log",
]
