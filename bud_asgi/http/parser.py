"""Parses the replies of one connection (RFC 9112, sections 4 to 8): llhttp, plus the limits that it does not enforce.

No I/O: knows nothing about connections or loops. Bytes go in through `feed`, the end of the input through `end`; what
they contain is written into a record.
"""

from __future__ import annotations

from collections import deque
from typing import NoReturn, Protocol

import httptools

from bud_asgi.http.fields import lower_name, lower_names
from bud_asgi.http.seam import Header

MAX_OVERHEAD = 32 << 10
"""Most bytes of all heads together (1xx included), and of chunk framing and trailers without a body byte in between."""

_DROPPED: deque[Header] = deque(maxlen=0)
"""Takes the trailers, which are discarded (section 7.1.2)."""

CHUNK_COST = 64
"""Bytes of memory added for each buffered chunk, so that tiny chunks cannot exceed the memory bound."""


class InvalidResponseError(Exception):
    """The reply is not HTTP/1.1, or its framing is ambiguous."""


class Received(Protocol):
    """The record of a reply; see `Reply`."""

    status: int
    headers: list[Header]
    has_head: bool
    done: bool
    chunks: list[bytes]
    buffered: int


class ReplyParser:
    """The parser of one connection: fills one record at a time, from `begin` until `release`.

    Of the current reply: `any_received`: at least one byte has come. `persistent`: the connection may serve another
    request (section 9.3). `trailing_data`: bytes followed the message.
    """

    __slots__ = (
        "_chunks",
        "_framed",
        "_is_head",
        "_lines",
        "_overhead",
        "_parser",
        "_received",
        "any_received",
        "on_body",
        "persistent",
        "trailing_data",
    )
    _received: Received

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        # Called by llhttp for every chunk of a body: a stream has thousands, so none of them costs a Python call.
        self.on_body = self._chunks.append
        self._parser = httptools.HttpResponseParser(self)

    def begin(self, received: Received, *, is_head: bool = False) -> None:
        """Parse the next reply into this record; `is_head` if the method of its request was HEAD."""
        self._received = received
        received.chunks = self._chunks
        self._lines: list[Header] | deque[Header] = received.headers
        self._is_head = is_head
        self._framed = False
        self._overhead = 0
        self.any_received = self.persistent = self.trailing_data = False

    def feed(self, data: memoryview) -> None:
        """Parse received bytes. Raises `InvalidResponseError`; body bytes parsed before it stay available."""
        received, chunks = self._received, self._chunks
        if not self.any_received:
            self.any_received = True
            # llhttp would also accept RTSP/ and ICE/, and skip empty lines.
            if data[0] != 0x48:
                raise InvalidResponseError("the reply does not begin with HTTP/")
        before, size = len(chunks), len(data)
        self._overhead += size
        try:
            if received.has_head or self._overhead <= MAX_OVERHEAD:
                self._parser.feed_data(data)
            else:
                self._feed_beyond(data, MAX_OVERHEAD - self._overhead + size)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not received.done:
                # httptools wraps an exception of a callback in an error without a message.
                cause = error.__context__ if isinstance(error.__context__, InvalidResponseError) else error
                raise InvalidResponseError(str(cause)) from None
            self.trailing_data = True
        if received.done:
            # The reply keeps its body; the list, to which `on_body` is bound, serves the next one.
            received.chunks = chunks.copy()
            chunks.clear()
        elif added := len(chunks) - before:
            self._overhead = 0
            received.buffered += size + CHUNK_COST * added
        elif self._overhead > MAX_OVERHEAD:
            part = "chunk framing" if received.has_head else "head"
            raise InvalidResponseError(f"more than {MAX_OVERHEAD} bytes of {part}")

    def _feed_beyond(self, data: memoryview, room: int) -> None:
        """Parse bytes of which at most `room` may belong to a head; the rest is only parsed if the head has ended."""
        self._parser.feed_data(data[:room])
        if self._received.has_head:
            self._parser.feed_data(data[room:])

    def end(self) -> bool:
        """Handle the end of the input; returns whether the message is complete.

        The end of the input completes only a message without other framing.
        """
        received = self._received
        if received.has_head and not self._framed:
            received.done = True
        return received.done

    def release(self) -> None:
        """Forget the record, so that an idle connection does not keep it."""
        del self._received

    def close(self) -> None:
        """Release llhttp's parser, to break the reference cycle with it. Nothing can be fed afterwards."""
        del self._parser

    # Called by llhttp while it is fed.

    def on_message_begin(self) -> None:
        """Reject a message after the final reply."""
        if self._received.done:
            self._reject("a second reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, or drop a trailer."""
        self._lines.append((lower_names.get(name) or lower_name(name), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Accept the final head; discard an interim one (RFC 9110, 15.2)."""
        received, status = self._received, self._parser.get_status_code()
        if self._parser.get_http_version() not in {"1.1", "1.0"}:
            self._reject("an HTTP version other than 1.0 and 1.1")
        names = dict(received.headers)
        is_chunked = b"transfer-encoding" in names and self._is_chunked(received.headers)
        if status < 200:
            if status < 100 or status == 101:
                self._reject("a status below 100" if status < 100 else "an unrequested upgrade")
            received.headers.clear()
            return
        self._lines = _DROPPED
        self._framed = is_chunked or b"content-length" in names
        received.status = status
        received.has_head = True
        self._overhead = 0
        if self._is_head:
            received.done = True
            # llhttp would wait for the body that the head announces, so the connection cannot be reused.
            self._reject("a reply to HEAD has no body")

    def on_message_complete(self) -> None:
        """Complete the reply, unless the message was an interim one."""
        if self._received.has_head:
            self._received.done = True
            self.persistent = self._parser.should_keep_alive()

    def _is_chunked(self, headers: list[Header]) -> bool:
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            self._reject("a transfer-encoding other than chunked")
        return True

    def _reject(self, reason: str) -> NoReturn:
        raise InvalidResponseError(reason)
