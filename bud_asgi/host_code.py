"""Faults of what a host plugs in, such as a backend, a router or a limit store: a line in the log, and a 500.

A wrong result is an `OptionError` here. What such code raises by itself goes on to the error boundary, with a note.
"""

from __future__ import annotations

import logging

from bud_asgi.options import check_function, mismatch
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import GatewayError

_log = logging.getLogger("bud_asgi")


def host_code_error(request_id: str, fault: str, answer: str) -> GatewayError:
    """Report a wrong result in one line of the log, and make the error for the client, which contains `answer` only."""
    _log.error("%s: %s", request_id, one_line(fault))
    return GatewayError(answer)


def add_note_once(error: Exception, note: str) -> None:
    """Note on an exception whose code has raised it, unless it has a note, or is answered as it is (`GatewayError`)."""
    if not isinstance(error, GatewayError) and not hasattr(error, "__notes__"):  # it may be raised again
        error.add_note(note)


def check_app(value: object) -> None:
    """Check the `app` of a middleware: an ASGI app, and not its class. Raises `OptionError`."""
    if isinstance(value, type):
        raise mismatch("app", "an ASGI app", value)
    check_function("app", value, "an ASGI app", {}, None, None)
