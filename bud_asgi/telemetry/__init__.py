"""Reports on finished requests, from their `Exchange`."""

from bud_asgi.telemetry.access_log import access_line, flush_access_log, log_access
from bud_asgi.telemetry.lines import LineHandler

__all__ = ["LineHandler", "access_line", "flush_access_log", "log_access"]
