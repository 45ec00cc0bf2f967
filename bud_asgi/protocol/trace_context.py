"""The trace of a request (W3C "Trace Context")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bud_asgi.protocol.headers import TRACE_CONTEXT, Headers

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?", re.DOTALL)
_USUAL_VERSION = b"00-"
_USUAL_LENGTH = 55
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16


def trace_id_of(headers: Headers) -> str | None:
    """The trace id of a client's `traceparent`, 32 hexadecimal digits; `None` if it is absent or invalid."""
    value = headers.get(b"traceparent")
    if value is None or (match := _TRACEPARENT.fullmatch(value)) is None:
        return None
    if value[:3] == _USUAL_VERSION and len(value) != _USUAL_LENGTH:  # only a later version may have more fields
        return None
    trace, span = match.groups()
    return None if trace == _NO_TRACE or span == _NO_SPAN else trace.decode()


def with_trace_context(headers: Headers, own: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers of a client, with another trace context in place of its own."""
    others = {name: value for name, value in headers.items() if name not in TRACE_CONTEXT}
    others.update(own)
    return others
