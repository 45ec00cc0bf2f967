"""Parses one HTTP/1.1 reply (RFC 9112, sections 4 to 8): llhttp, plus the limits that it does not enforce. No I/O.

Knows nothing about connections or loops: bytes go in through `feed`, the end of the input through `end`; head, body and
completeness are read from attributes.
"""

from __future__ import annotations

from typing import NoReturn

import httptools

from bud_asgi.http.seam import Header

MAX_OVERHEAD = 32 << 10
"""Most bytes of all heads together (1xx included), and of chunk framing and trailers without a body byte in between."""

CHUNK_COST = 64
"""Bytes of memory added for each buffered chunk, so that tiny chunks cannot exceed the memory bound."""


class InvalidResponseError(Exception):
    """The reply is not HTTP/1.1, or its framing is ambiguous."""


class ResponseParser:
    """The parser and buffer of one reply.

    `has_head`: the final head has been parsed. `complete`: the whole message has been (RFC 9112, section 8).
    `persistent`: the connection may serve another request (section 9.3). `any_received`: at least one byte has come.
    `trailing_data`: bytes followed the message. `buffered`: bytes of memory held for the reader.
    """

    __slots__ = (
        "_chunks",
        "_framed",
        "_is_head",
        "_overhead",
        "_parser",
        "_trailer_size",
        "any_received",
        "buffered",
        "complete",
        "has_head",
        "headers",
        "persistent",
        "status",
        "trailing_data",
    )

    def __init__(self, *, is_head: bool = False) -> None:
        """Parse the reply to a request; `is_head` if its method was HEAD."""
        self.status = 0
        self.headers: list[Header] = []
        self.any_received = self.has_head = self.complete = self.persistent = self.trailing_data = False
        self.buffered = 0
        self._is_head = is_head
        self._chunks: list[bytes] = []
        self._framed = False
        self._overhead = 0
        self._trailer_size = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: memoryview) -> None:
        """Parse received bytes. Raises `InvalidResponseError`; body bytes parsed before it stay available."""
        if not self.any_received:
            self.any_received = True
            # llhttp would also accept RTSP/ and ICE/, and skip empty lines.
            if data[0] != 0x48:
                raise InvalidResponseError("the reply does not begin with HTTP/")
        room = MAX_OVERHEAD - self._overhead
        self._overhead += len(data)
        if self.has_head:
            self._parse(data)
        else:
            # Bytes past the limit are never parsed as a head, however large the read was.
            self._parse(data[:room])
            if self.has_head and len(data) > room:
                self._parse(data[room:])
        if self._overhead > MAX_OVERHEAD and not self.complete:
            part = "chunk framing" if self.has_head else "head"
            raise InvalidResponseError(f"more than {MAX_OVERHEAD} bytes of {part}")

    def end(self) -> bool:
        """Handle the end of the input; returns whether the message is complete.

        The end of the input completes only a message without other framing.
        """
        if self.has_head and not self._framed and not self.complete:
            self.complete = True
            self.release()
        return self.complete

    def take(self) -> bytes:
        """Remove and return the buffered body; `b""` if there is none."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        return data

    def release(self) -> None:
        """Release llhttp's parser, to break the reference cycle with it. Nothing can be fed afterwards."""
        self._parser = None

    def _parse(self, data: memoryview) -> None:
        parser = self._parser
        if parser is None:
            self.trailing_data = True
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                # httptools wraps an exception of a callback in an error without a message.
                cause = error.__context__ if isinstance(error.__context__, InvalidResponseError) else error
                raise InvalidResponseError(str(cause)) from None
            self.trailing_data = True
        if self.complete:
            self.release()

    # Called by llhttp while it is fed.

    def on_message_begin(self) -> None:
        """Reject a message after the final reply."""
        if self.complete:
            self._reject("a second reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field; trailers are counted and discarded (section 7.1.2)."""
        if self.has_head:
            self._trailer_size += len(name) + len(value)
            if self._trailer_size > MAX_OVERHEAD:
                self._reject("the trailers are too large")
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"transfer-encoding":
            if value.lower() != b"chunked" or self._framed:
                self._reject("a transfer-encoding other than chunked")
            self._framed = True
        elif name == b"content-length":
            self._framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Accept the final head; discard an interim one (RFC 9110, 15.2)."""
        parser = self._parser
        assert parser is not None  # noqa: S101 - it is the caller
        status = parser.get_status_code()
        if parser.get_http_version() not in {"1.1", "1.0"}:
            self._reject("an HTTP version other than 1.0 and 1.1")
        if status < 100 or status == 101:
            self._reject("a status below 100" if status < 100 else "an unrequested upgrade")
        if status < 200:
            self.headers.clear()
            self._framed = False
            return
        self.status = status
        self.has_head = True
        self._overhead = 0
        if self._is_head:
            self.complete = True
            # llhttp would wait for the body that the head announces, so the connection cannot be reused.
            self._reject("a reply to HEAD has no body")

    def on_body(self, data: bytes) -> None:
        """Buffer bytes of the body."""
        self._overhead = 0
        self._chunks.append(data)
        self.buffered += len(data) + CHUNK_COST

    def on_message_complete(self) -> None:
        """Complete the reply, unless the message was an interim one."""
        if self.has_head:
            self.complete = True
            self.persistent = self._parser is not None and self._parser.should_keep_alive()

    def _reject(self, reason: str) -> NoReturn:
        raise InvalidResponseError(reason)
