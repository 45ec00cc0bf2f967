"""What happened: told from the finished `Exchange`, never on a request's way."""

from bud_asgi.telemetry.access_log import access_line, log_access

__all__ = ["access_line", "log_access"]
