"""Broken replies: what an upstream must not do, and some day does. Each is proven on the wire by the tests.

`reply` is what gets broken: any reply, a friendly text unless told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from bud_asgi.testing.anthropic.messages import Asked, Content, TextBlock, event, message_events
from bud_asgi.testing.server.replies import Cut, ErrorEvents, Failure, Lazy, Reply, sse, text

_PIECE = 64 << 10
_SAID = "The stand-in tells a story that is long enough to be cut somewhere in its middle, and it does not mind."


def hang() -> Reply:
    """Accept the request and never answer."""
    return Reply(head=b"", framing="none", end="hang")


def late(seconds: float, reply: Reply | None = None) -> Reply:
    """Answer after so many seconds of silence."""
    return replace(_given(reply), wait=seconds)


def stall(seconds: float, *, after_bytes: int, reply: Reply | None = None) -> Reply:
    """Pause for so many seconds after `after_bytes` bytes of the body, then go on."""
    return replace(_given(reply), stall=(after_bytes, seconds))


def reset_before_head() -> Reply:
    """Reset the connection (RST) in place of an answer."""
    return Reply(head=b"", framing="none", end="reset")


def eof_before_head() -> Reply:
    """Close the connection in place of an answer."""
    return Reply(head=b"", framing="none", end="eof")


def reset_after_head(reply: Reply | None = None) -> Reply:
    """Reset the connection after the head of the reply."""
    return replace(_given(reply), cut=0, end="reset")


def reset_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None) -> Reply:
    """Reset the connection after so many bytes of the body."""
    return replace(_given(reply), cut=after_bytes, end="reset")


def eof_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None, *, clean: bool = False) -> Reply:
    """Close the connection after so many bytes of the body; `clean`: end the body properly there."""
    return replace(_given(reply), cut=after_bytes, end="whole" if clean else "eof")


def hang_mid_event(after_bytes: Cut = "middle", reply: Reply | None = None) -> Reply:
    """Fall silent after so many bytes of the body, the connection open."""
    return replace(_given(reply), cut=after_bytes, end="hang")


def cut_before_message_stop(reply: Reply | None = None, *, clean: bool = False) -> Reply:
    """Close the connection after `message_delta`; `clean`: end the body properly there."""
    return replace(_given(reply), cut="message_stop", end="whole" if clean else "eof")


def html(status: int = 200) -> Reply:
    """The page of a middlebox."""
    page = b"<!doctype html>\n<html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>\n"
    return Reply(status=status, headers=(("content-type", "text/html; charset=utf-8"),), body=page)


def redirect(location: str, status: int = 302) -> Reply:
    """Send the caller elsewhere."""
    return Reply(status=status, headers=(("location", location),))


def empty(status: int = 200) -> Reply:
    """A reply without a body."""
    return Reply(status=status)


def gzip_unasked(reply: Reply | None = None) -> Reply:
    """A compressed reply, whatever the request accepts."""
    return replace(_given(reply), gzip=True)


def garbage_chunks() -> Reply:
    """A chunked stream whose second chunk has a length that is no number."""
    start = event("message_start", {})
    body = b"%x\r\n%b\r\nnot-a-length\r\n%b" % (len(start), start, start)
    return replace(sse(body), headers=(("transfer-encoding", "chunked"),), framing="none", end="eof")


def short_content_length(missing: int = 10, reply: Reply | None = None) -> Reply:
    """A body that ends `missing` bytes before what `content-length` says; the connection is closed then."""
    return replace(_given(reply), framing="length", missing=missing, end="eof")


def surplus(more: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", reply: Reply | None = None) -> Reply:
    """A whole reply, and bytes after it that nobody asked for (a second reply, unless told)."""
    return replace(_given(reply), surplus=more)


def endless_1xx() -> Reply:
    """103 heads without end, as fast as they are read."""
    return replace(_endless(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"), head=b"")


def endless_headers() -> Reply:
    """A head that goes on and on, as fast as it is read."""
    return replace(_endless(b"x-padding: " + b"a" * 100 + b"\r\n"), head=b"HTTP/1.1 200 OK\r\n")


def error_first_event(kind: str, message: str, details: Mapping[str, Any] | None = None) -> Reply:
    """A 200 stream whose first event is `error` ("Errors": an error may follow a 200)."""
    return Reply(body=ErrorEvents(Failure(kind, message, details)))


def error_mid_stream(
    kind: str = "overloaded_error", message: str = "Overloaded", *, after_events: int = 4, said: str = _SAID
) -> Reply:
    """A stream of `after_events` events (pings not counted) and then `error`."""
    return Reply(body=ErrorEvents(Failure(kind, message), Content((TextBlock(said),)), after_events))


def one_byte_per_segment(reply: Reply | None = None) -> Reply:
    """Every byte of the reply, head and framing included, in a write of its own (TCP_NODELAY is on)."""
    return replace(_given(reply), segment=1)


def one_byte_a_second(seconds: float = 1.0, reply: Reply | None = None) -> Reply:
    """The body byte by byte, one every so many seconds."""
    return replace(_given(reply), piece=1, delay=seconds)


def close_after(reply: Reply | None = None, *, said: bool = False) -> Reply:
    """A whole reply, then close the connection; only with `said` does `connection: close` announce it."""
    return replace(_given(reply), end="close" if said else "close-unsaid")


def close_on_reuse(reply: Reply | None = None, *, reset: bool = False) -> Reply:
    """A whole reply; the kept-alive connection dies exactly when the next request arrives on it.

    That next request is not executed and not recorded, only counted (`closed_on_reuse`).
    """
    return replace(_given(reply), end="reset-on-reuse" if reset else "close-on-reuse")


def huge_line(size: int = 100_000_000) -> Reply:
    """A whole stream with one data line of about `size` bytes, made while it is sent."""
    return Reply(body=Lazy(lambda asked: _huge_line(asked, size)))


def big_stream(size: int = 200_000_000, said: str = "All work and no play makes a dull stream. ") -> Reply:
    """A whole stream of at least `size` bytes, made of text deltas that all say `said`, made while it is sent."""
    return Reply(body=Lazy(lambda asked: _big_stream(asked, size, said)))


def _given(reply: Reply | None) -> Reply:
    return text(_SAID) if reply is None else reply


def _endless(line: bytes) -> Reply:
    batch = line * (_PIECE // len(line))

    def pieces(_: Asked) -> Iterator[bytes]:
        while True:
            yield batch

    return Reply(body=Lazy(pieces), framing="none", end="eof")


def _around(asked: Asked) -> tuple[bytes, bytes]:
    """What stands before the first delta of a text block, and after its last."""
    events = list(message_events(Content((TextBlock("."),)), asked))
    return b"".join(events[:3]), b"".join(events[-3:])


def _huge_line(asked: Asked, size: int) -> Iterator[bytes]:
    before, after = _around(asked)
    delta = event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": ""}})
    opening, closing = delta[:-5], delta[-5:]
    yield before + opening
    for left in range(size, 0, -_PIECE):
        yield b"a" * min(left, _PIECE)
    yield closing + after


def _big_stream(asked: Asked, size: int, said: str) -> Iterator[bytes]:
    before, after = _around(asked)
    delta = event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": said}})
    batch = delta * max(1, _PIECE // len(delta))
    yield before
    for _ in range(-(-size // len(batch))):
        yield batch
    yield after
