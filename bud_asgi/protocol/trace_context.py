"""The trace of a request (W3C "Trace Context")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bud_asgi.protocol.headers import TRACE_CONTEXT, TRACE_PARENT, TRACE_STATE, Headers

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL)
_USUAL_VERSION = b"00-"
_USUAL_LENGTH = 55
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MAX_MEMBERS = 32


class TraceParent(NamedTuple):
    """The caller's span: the id of its trace and its own, in hexadecimal, and the flags."""

    trace_id: str
    span_id: str
    flags: int


def trace_parent(headers: Headers) -> TraceParent | None:
    """Read a client's `traceparent`; `None` if it is absent or invalid."""
    value = headers.get(TRACE_PARENT)
    if value is None or (match := _TRACEPARENT.fullmatch(value)) is None:
        return None
    if value[:3] == _USUAL_VERSION and len(value) != _USUAL_LENGTH:  # only a later version may have more fields
        return None
    trace, span, flags = match.groups()
    return (
        None if trace == _NO_TRACE or span == _NO_SPAN else TraceParent(trace.decode(), span.decode(), int(flags, 16))
    )


def trace_state(headers: Headers) -> str | None:
    """Read a client's `tracestate`; `None` if it is absent or invalid."""
    value = headers.get(TRACE_STATE)
    if value is None:
        return None
    members = [member for one in value.split(b",") if (member := one.strip(b" \t"))]
    is_valid = len(members) <= _MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return b",".join(members).decode() if is_valid else None


def trace_id_of(headers: Headers) -> str | None:
    """The trace id of a client's `traceparent`, 32 hexadecimal digits; `None` if it is absent or invalid."""
    parent = trace_parent(headers)
    return parent and parent.trace_id


def with_trace_context(headers: Headers, own: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers of a client, with another trace context in place of its own."""
    others = {name: value for name, value in headers.items() if name not in TRACE_CONTEXT}
    others.update(own)
    return others
