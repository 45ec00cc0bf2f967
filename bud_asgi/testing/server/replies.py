"""The vocabulary of replies: what the stand-in may be told to answer.

A `Reply` says what to send and how to end; the functions here make the usual ones. `faults` makes the broken ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from bud_asgi.testing.anthropic.messages import (
    PING,
    Asked,
    Block,
    Content,
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
"""How the end of a body is told: `content-length`, chunks, or not at all (the connection's end)."""

Ending = Literal["whole", "close", "close-unsaid", "close-on-reuse", "reset-on-reuse", "eof", "reset", "hang"]
"""What becomes of the connection.

`whole`: the reply ends as HTTP says, and the connection lives on. `close`: so, with `connection: close`.
`close-unsaid`: so, and it is closed without a word. `close-on-reuse`, `reset-on-reuse`: it lives until the first byte
of a next request arrives. Without the body's proper end: `eof` closes it, `reset` resets it (RST), `hang` keeps it
open in silence until the peer goes.
"""

Cut = int | Literal["middle", "message_stop"]
"""Where a body is cut: after so many bytes, inside its middle event, or before its last event."""


class Failure(msgspec.Struct, frozen=True):
    """The error envelope, with the reply's own request id in it."""

    type: str
    message: str
    details: Mapping[str, Any] | None = None


class ErrorEvents(msgspec.Struct, frozen=True):
    """A stream that breaks: `content`'s first `events` events (pings not counted), then one `error` event."""

    failure: Failure
    content: Content = Content(())
    events: int = 0


class Lazy(msgspec.Struct, frozen=True):
    """A body that is made while it is sent, so that it may be larger than memory, or endless."""

    pieces: Callable[[Asked], Iterable[bytes]]


Body = bytes | tuple[bytes, ...] | Content | Failure | ErrorEvents | Lazy


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What to send to one request, and how to end. Change one with `msgspec.structs.replace`."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """Besides the service's own; one of the same name stands in its place."""
    body: Body = b""
    head: bytes | None = None
    """Sent as it is in place of status line and headers (`b""`: nothing)."""
    framing: Framing | None = None
    """`None`: chunks for a stream, else `content-length`."""
    missing: int = 0
    """Bytes by which `content-length` claims more than there is."""
    wait: float = 0.0
    """Seconds before the head."""
    delay: float = 0.0
    """Seconds before each piece of the body (an event, where the body is a stream)."""
    stall: tuple[int, float] | None = None
    """A pause: after so many bytes of the body, for so many seconds."""
    piece: int | None = None
    """The largest piece of the body to write at once, in bytes; with chunks, each is one."""
    segment: int | None = None
    """The largest write of all, framing and head included, in bytes."""
    gzip: bool = False
    """Compress the body, whatever the request accepts."""
    cut: Cut | None = None
    """Where the body is cut; what comes then is `end`."""
    surplus: bytes = b""
    """Sent after the reply's end."""
    end: Ending = "whole"


Answer = Reply | Callable[[Received], Reply]
"""A reply, or a function that makes one for the request."""


class Rendered(msgspec.Struct, frozen=True):
    """A body made for one request."""

    pieces: Iterable[bytes]
    content_type: str
    stream: bool


def render(body: Body, ask: Callable[[], Asked]) -> Rendered:
    """Make the body for the request: a `Content` is a stream if the request asks for one.

    `ask` reads the request; it is called only for a body that depends on it, as that costs time where it is large.
    """
    match body:
        case tuple():
            return _sse(body)
        case bytes():
            return Rendered((body,) if body else (), "application/json", stream=False)
        case _:
            return _render_for(body, ask())


def _render_for(body: Content | Failure | ErrorEvents | Lazy, asked: Asked) -> Rendered:
    match body:
        case Content() if asked.stream:
            return _sse(list(message_events(body, asked)))
        case Content():
            made = message_json(body, asked)
        case Failure():
            made = error_json(body.type, body.message, body.details, asked.request_id)
        case ErrorEvents():
            return _sse(list(_broken(body, asked)))
        case Lazy():
            return _sse(body.pieces(asked))
    return Rendered((made,), "application/json", stream=False)


def _sse(pieces: Iterable[bytes]) -> Rendered:
    return Rendered(pieces, "text/event-stream; charset=utf-8", stream=True)


def _broken(body: ErrorEvents, asked: Asked) -> Iterator[bytes]:
    left = body.events
    for made in message_events(body.content, asked):
        if left == 0:
            break
        yield made
        left -= made != PING
    failure = body.failure
    yield event("error", error_object(failure.type, failure.message, failure.details, asked.request_id))


def blocks(*given: Block, stop_reason: str | None = None, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message of these blocks; streamed or not, as the request asks. `delay` is in seconds, before each event."""
    return Reply(body=Content(given, stop_reason, None, usage or Usage()), delay=delay)


def text(said: str, *, stop_reason: str | None = None, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message with one text block."""
    return blocks(TextBlock(said), stop_reason=stop_reason, usage=usage, delay=delay)


def thinking(thought: str, said: str = "Done.", *, usage: Usage | None = None, delay: float = 0.0) -> Reply:
    """A Message with a thinking block and a text block ("Extended thinking")."""
    return blocks(ThinkingBlock(thought), TextBlock(said), usage=usage, delay=delay)


def tool_use(
    name: str,
    given: Mapping[str, Any],
    *,
    said: str = "",
    usage: Usage | None = None,
    delay: float = 0.0,
) -> Reply:
    """A Message that calls the caller's tool, after a text block if `said` is not empty."""
    before = (TextBlock(said),) if said else ()
    return blocks(*before, ToolUseBlock(name, given), usage=usage, delay=delay)


def error(
    status: int,
    kind: str,
    message: str,
    *,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error of the service ("Errors"): its envelope with this reply's request id."""
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
    """A stream of exactly these bytes, cut as told: `chunk_sizes` in order and then the rest, or byte by byte."""
    pieces: list[bytes] = []
    for size in chunk_sizes:
        pieces.append(raw_bytes[:size])
        raw_bytes = raw_bytes[size:]
    body = tuple(piece for piece in (*pieces, raw_bytes) if piece)
    return Reply(headers=_pairs(headers), body=body, piece=1 if one_byte else None, delay=delay)


def raw(wire: bytes, *, end: Ending = "eof") -> Reply:
    """Exactly these bytes on the wire, head and all. With `end="whole"` the connection lives on."""
    return Reply(head=wire, framing="none", end=end)


def _pairs(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((headers or {}).items())
