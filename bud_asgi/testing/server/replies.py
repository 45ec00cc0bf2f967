"""Replies: what the stand-in sends, and how the connection ends.

The functions here make the usual ones; those in `faults` make faulty ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from bud_asgi.testing.anthropic.messages import (
    PING,
    Block,
    Content,
    ParsedRequest,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
    error_json,
    error_object,
    event,
    message_events,
    message_json,
)
from bud_asgi.testing.server.received import Received

Framing = Literal["length", "chunked", "none"]
"""How a body is delimited: by `content-length`, by chunks, or by the end of the connection."""

Ending = Literal["whole", "close", "close-silently", "close-on-reuse", "reset-on-reuse", "eof", "reset", "hang"]
"""What happens to the connection after the reply.

After a complete reply: `whole` keeps the connection open; `close` closes it, announced by `connection: close`;
`close-silently` closes it unannounced; `close-on-reuse` and `reset-on-reuse` keep it open until the first byte of
another request arrives. Without the end of the body: `eof` closes the connection, `reset` resets it (RST), `hang` keeps
it open until the client disconnects.
"""

Cut = int | Literal["middle", "message_stop"]
"""Where a body ends early: after so many bytes, inside its middle event, or before its last event."""


class Failure(msgspec.Struct, frozen=True):
    """The error envelope. The request id in it is that of the reply."""

    type: str
    message: str
    details: Mapping[str, Any] | None = None


class ErrorEvents(msgspec.Struct, frozen=True):
    """A stream that fails: the first `events` events of `content` (pings not counted), then an `error` event."""

    failure: Failure
    content: Content = Content(())
    events: int = 0


class Lazy(msgspec.Struct, frozen=True):
    """A body generated while it is sent, so that it may be larger than memory, or endless."""

    pieces: Callable[[ParsedRequest], Iterable[bytes]]


Body = bytes | tuple[bytes, ...] | Content | Failure | ErrorEvents | Lazy


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to one request. `msgspec.structs.replace` makes a changed copy."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """Added to the service's own headers; one of the same name replaces it."""
    body: Body = b""
    head: bytes | None = None
    """Sent as it is instead of status line and headers; `b""` sends nothing."""
    framing: Framing | None = None
    """`None`: `chunked` for a stream, else `length`."""
    missing: int = 0
    """Bytes by which `content-length` exceeds the body."""
    wait: float = 0.0
    """Seconds before the head."""
    delay: float = 0.0
    """Seconds before each piece of the body; in a stream, a piece is an event."""
    stall: tuple[int, float] | None = None
    """A pause after so many bytes of the body, for so many seconds."""
    piece: int | None = None
    """The largest piece of the body, in bytes. Each piece is one write, and one chunk if the body is chunked."""
    segment: int | None = None
    """The largest write, in bytes; also splits the head and the framing."""
    gzip: bool = False
    """Compress the body, even if the request does not accept that."""
    cut: Cut | None = None
    """Where the body ends early; `end` happens there."""
    surplus: bytes = b""
    """Bytes sent after the end of the reply."""
    end: Ending = "whole"


Answer = Reply | Callable[[Received], Reply]
"""A reply, or a function that makes one for the request."""


class Rendered(msgspec.Struct, frozen=True):
    """A body encoded for one request."""

    pieces: Iterable[bytes]
    content_type: str
    stream: bool


def render(body: Body, parse: Callable[[], ParsedRequest]) -> Rendered:
    """Encode the body for a request. A `Content` becomes a stream if the request asks for one.

    `parse` parses the request. It is called only if the body depends on it: large requests take time to parse.
    """
    match body:
        case tuple():
            return _sse(body)
        case bytes():
            return Rendered((body,) if body else (), "application/json", stream=False)
        case _:
            return _render_for(body, parse())


def _render_for(body: Content | Failure | ErrorEvents | Lazy, request: ParsedRequest) -> Rendered:
    match body:
        case Content() if request.stream:
            return _sse(list(message_events(body, request)))
        case Content():
            encoded = message_json(body, request)
        case Failure():
            encoded = error_json(body.type, body.message, body.details, request.request_id)
        case ErrorEvents():
            return _sse(list(_error_events(body, request)))
        case Lazy():
            return _sse(body.pieces(request))
    return Rendered((encoded,), "application/json", stream=False)


def _sse(pieces: Iterable[bytes]) -> Rendered:
    return Rendered(pieces, "text/event-stream; charset=utf-8", stream=True)


def _error_events(body: ErrorEvents, request: ParsedRequest) -> Iterator[bytes]:
    remaining = body.events
    for encoded in message_events(body.content, request):
        if remaining == 0:
            break
        yield encoded
        remaining -= encoded != PING
    failure = body.failure
    yield event("error", error_object(failure.type, failure.message, failure.details, request.request_id))


def blocks(*blocks: Block, stop_reason: str | None = None, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message of these blocks, streamed or not, as requested. `delay` is in seconds before each event."""
    return Reply(body=Content(blocks, stop_reason, None, usage or Usage()), delay=delay)


def text(text: str, *, stop_reason: str | None = None, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message with one text block."""
    return blocks(TextBlock(text), stop_reason=stop_reason, usage=usage, delay=delay)


def thinking(thinking: str, text: str = "Done.", *, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message with a thinking block and a text block ("Extended thinking")."""
    return blocks(ThinkingBlock(thinking), TextBlock(text), usage=usage, delay=delay)


def tool_use(
    name: str,
    input: Mapping[str, Any],  # noqa: A002 (the name in the API)
    *,
    text: str = "",
    usage: Usage | None = None,
    delay: float = 0.0,
) -> Reply:
    """A Message that calls one of the client's tools, after a text block if `text` is not empty."""
    before = (TextBlock(text),) if text else ()
    return blocks(*before, ToolUseBlock(name, input), usage=usage, delay=delay)


def error(
    status: int,
    kind: str,
    message: str,
    *,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error of the service ("Errors"), in its error envelope."""
    return Reply(status=status, headers=_pairs(headers), body=Failure(kind, message, details))


def json_body(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Any JSON; `bytes` are sent as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return Reply(status=status, headers=_pairs(headers), body=body)


def sse(
    raw_bytes: bytes,
    *,
    chunk_sizes: Sequence[int] = (),
    one_byte: bool = False,
    delay: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """A stream of exactly these bytes, in chunks of `chunk_sizes` and then the rest, or byte by byte."""
    pieces: list[bytes] = []
    for size in chunk_sizes:
        pieces.append(raw_bytes[:size])
        raw_bytes = raw_bytes[size:]
    body = tuple(piece for piece in (*pieces, raw_bytes) if piece)
    return Reply(headers=_pairs(headers), body=body, piece=1 if one_byte else None, delay=delay)


def raw(wire: bytes, *, end: Ending = "eof") -> Reply:
    """Exactly these bytes, in place of head and body. `end="whole"` keeps the connection open."""
    return Reply(head=wire, framing="none", end=end)


def _pairs(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((headers or {}).items())
