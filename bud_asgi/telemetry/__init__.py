"""Reports on finished requests, from their `Exchange`."""

from bud_asgi.telemetry.access_log import access_line, log_access

__all__ = ["access_line", "log_access"]
