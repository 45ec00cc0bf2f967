"""The access log: a record for each request, for the handlers of the host or of `bud-asgi serve`."""

from __future__ import annotations

import logging
import time

from bud_asgi.exchange import Exchange
from bud_asgi.observer import Observer
from bud_asgi.telemetry.access_fields import AccessLine, access_line, level_of, line_as_dict
from bud_asgi.telemetry.formatters import FIELDS, JsonFormatter
from bud_asgi.telemetry.lines import LineHandler

_MESSAGE = "%s: %s %s %s in %.0f ms"

_log = logging.getLogger("bud_asgi.access")


class AccessLog(Observer):
    """Logs each request to the logger `bud_asgi.access`, when it has ended.

    The message is short, and the attribute `bud` of the record has the fields, as a dictionary with the names of
    `AccessLine`. If the only handler of the logger is a `LineHandler` that writes JSON, it gets the line
    itself: a record would cost more.
    """

    def settled(self, exchange: Exchange) -> None:
        """Log a request."""
        level = level_of(exchange)
        if not _log.isEnabledFor(level):
            return
        line = access_line(exchange, time.time())
        if len(_log.handlers) == 1 and not _log.propagate:
            handler = _log.handlers[0]
            if isinstance(handler, LineHandler) and type(handler.formatter) is JsonFormatter:
                handler.add_access_line(line)
                return
        _log_record(level, line)


def _log_record(level: int, line: AccessLine) -> None:
    what = line.operation or f"{line.method} {line.path}"
    values = line.request_id, what, line.status or "-", line.outcome, line.milliseconds
    extra = {FIELDS: line_as_dict(line)}
    # To find the caller, as `Logger.log` does, costs more than the rest.
    _log.handle(_log.makeRecord(_log.name, level, __file__, 0, _MESSAGE, values, None, "settled", extra))


def flush_access_log() -> None:
    """Flush the handlers of the logger."""
    for handler in _log.handlers:
        handler.flush()
