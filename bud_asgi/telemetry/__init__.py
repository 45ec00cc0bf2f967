"""Reports on requests, from their `Exchange`."""

from bud_asgi.telemetry.access_log import AccessLog, access_line, flush_access_log, log_access
from bud_asgi.telemetry.lines import LineHandler
from bud_asgi.telemetry.settled import OnSettled, SettledCallback

__all__ = ["AccessLog", "LineHandler", "OnSettled", "SettledCallback", "access_line", "flush_access_log", "log_access"]
