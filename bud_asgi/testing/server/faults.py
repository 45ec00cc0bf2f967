"""Faulty replies: what an upstream must not send, but sometimes does.

`reply` is the reply to damage, by default a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from bud_asgi.testing.anthropic.messages import Content, ParsedRequest, TextBlock, event, message_events
from bud_asgi.testing.server.replies import Cut, ErrorEvents, Failure, Lazy, Reply, sse, text

_BATCH = 64 << 10
_TEXT = "The stand-in tells a story that is long enough to be cut somewhere in its middle, and it does not mind."


def hang() -> Reply:
    """Accept the request and never answer."""
    return Reply(head=b"", framing="none", end="hang")


def late(seconds: float, reply: Reply | None = None) -> Reply:
    """Send nothing for so many seconds, then the reply."""
    return replace(_or_default(reply), wait=seconds)


def stall(seconds: float, *, after_bytes: int, reply: Reply | None = None) -> Reply:
    """Pause for so many seconds after `after_bytes` bytes of the body, then continue."""
    return replace(_or_default(reply), stall=(after_bytes, seconds))


def reset_before_head() -> Reply:
    """Reset the connection (RST) instead of replying."""
    return Reply(head=b"", framing="none", end="reset")


def eof_before_head() -> Reply:
    """Close the connection instead of replying."""
    return Reply(head=b"", framing="none", end="eof")


def reset_after_head(reply: Reply | None = None) -> Reply:
    """Reset the connection after the head of the reply."""
    return replace(_or_default(reply), cut=0, end="reset")


def reset_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None) -> Reply:
    """Reset the connection after so many bytes of the body, by default inside an event."""
    return replace(_or_default(reply), cut=after_bytes, end="reset")


def eof_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None, *, clean: bool = False) -> Reply:
    """Close the connection after so many bytes of the body, by default inside an event.

    `clean`: end the body there as HTTP requires, and keep the connection open.
    """
    return replace(_or_default(reply), cut=after_bytes, end="whole" if clean else "eof")


def hang_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None) -> Reply:
    """Send nothing more after so many bytes of the body, by default inside an event; the connection stays open."""
    return replace(_or_default(reply), cut=after_bytes, end="hang")


def cut_before_message_stop(reply: Reply | None = None, *, clean: bool = False) -> Reply:
    """Close the connection after `message_delta`. `clean`: end the body there as HTTP requires instead."""
    return replace(_or_default(reply), cut="message_stop", end="whole" if clean else "eof")


def html(status: int = 200) -> Reply:
    """An HTML page, as from a captive portal or a proxy."""
    page = b"<!doctype html>\n<html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>\n"
    return Reply(status=status, headers=(("content-type", "text/html; charset=utf-8"),), body=page)


def redirect(location: str, status: int = 302) -> Reply:
    """A redirect to `location`."""
    return Reply(status=status, headers=(("location", location),))


def empty(status: int = 200) -> Reply:
    """A reply without a body."""
    return Reply(status=status)


def gzip_unasked(reply: Reply | None = None) -> Reply:
    """A reply compressed with gzip, even if the request does not accept that."""
    return replace(_or_default(reply), gzip=True)


def garbage_chunks() -> Reply:
    """A chunked stream whose second chunk has an invalid length."""
    start = event("message_start", {})
    body = b"%x\r\n%b\r\nnot-a-length\r\n%b" % (len(start), start, start)
    return replace(sse(body), headers=(("transfer-encoding", "chunked"),), framing="none", end="eof")


def short_content_length(missing: int = 10, reply: Reply | None = None) -> Reply:
    """A body `missing` bytes shorter than `content-length`; then the connection is closed."""
    return replace(_or_default(reply), framing="length", missing=missing, end="eof")


def surplus(more: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", reply: Reply | None = None) -> Reply:
    """A complete reply, then extra bytes: by default a second reply."""
    return replace(_or_default(reply), surplus=more)


def endless_1xx() -> Reply:
    """Informational responses (103) without end, as fast as they are read."""
    return replace(_endless(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"), head=b"")


def endless_headers() -> Reply:
    """A response head without end, as fast as it is read."""
    return replace(_endless(b"x-padding: " + b"a" * 100 + b"\r\n"), head=b"HTTP/1.1 200 OK\r\n")


def error_first_event(kind: str, message: str, details: Mapping[str, Any] | None = None) -> Reply:
    """A stream with status 200 whose first event is `error` ("Errors": an error may follow a 200)."""
    return Reply(body=ErrorEvents(Failure(kind, message, details)))


def error_mid_stream(
    kind: str = "overloaded_error", message: str = "Overloaded", *, after_events: int = 4, text: str = _TEXT
) -> Reply:
    """A stream of `after_events` events (pings not counted), then an `error` event."""
    return Reply(body=ErrorEvents(Failure(kind, message), Content((TextBlock(text),)), after_events))


def one_byte_per_segment(reply: Reply | None = None) -> Reply:
    """Each byte of the reply, head and framing included, in a separate write (TCP_NODELAY is on)."""
    return replace(_or_default(reply), segment=1)


def one_byte_a_second(seconds: float = 1.0, reply: Reply | None = None) -> Reply:
    """The body byte by byte, with so many seconds before each."""
    return replace(_or_default(reply), piece=1, delay=seconds)


def close_after(reply: Reply | None = None, *, announce: bool = False) -> Reply:
    """A complete reply, then close the connection. `announce`: the reply has `connection: close`."""
    return replace(_or_default(reply), end="close" if announce else "close-silently")


def close_on_reuse(reply: Reply | None = None, *, reset: bool = False) -> Reply:
    """A complete reply; the connection stays open, but is closed as soon as the next request arrives on it.

    That next request is neither answered nor recorded, only counted in `StandIn.closed_on_reuse`.
    """
    return replace(_or_default(reply), end="reset-on-reuse" if reset else "close-on-reuse")


def huge_line(size: int = 100_000_000) -> Reply:
    """A complete stream with one data line of about `size` bytes, generated while it is sent."""
    return Reply(body=Lazy(lambda request: _huge_line(request, size)))


def big_stream(size: int = 200_000_000, text: str = "All work and no play makes a dull stream. ") -> Reply:
    """A complete stream of at least `size` bytes: text deltas of `text`, generated while they are sent."""
    return Reply(body=Lazy(lambda request: _big_stream(request, size, text)))


def _or_default(reply: Reply | None) -> Reply:
    return text(_TEXT) if reply is None else reply


def _endless(line: bytes) -> Reply:
    batch = line * (_BATCH // len(line))

    def pieces(_: ParsedRequest) -> Iterator[bytes]:
        while True:
            yield batch

    return Reply(body=Lazy(pieces), framing="none", end="eof")


def _surrounding_events(request: ParsedRequest) -> tuple[bytes, bytes]:
    """Return the events before the first delta of a text block, and those after its last."""
    events = list(message_events(Content((TextBlock("."),)), request))
    return b"".join(events[:3]), b"".join(events[-3:])


def _huge_line(request: ParsedRequest, size: int) -> Iterator[bytes]:
    before, after = _surrounding_events(request)
    delta = event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": ""}})
    opening, closing = delta[:-5], delta[-5:]
    yield before + opening
    for remaining in range(size, 0, -_BATCH):
        yield b"a" * min(remaining, _BATCH)
    yield closing + after


def _big_stream(request: ParsedRequest, size: int, text: str) -> Iterator[bytes]:
    before, after = _surrounding_events(request)
    delta = event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})
    batch = delta * max(1, _BATCH // len(delta))
    yield before
    for _ in range(-(-size // len(batch))):
        yield batch
    yield after
