"""One reply read from bytes (RFC 9112, sections 4 to 8): llhttp and the limits that it leaves to us. No I/O.

Nothing here knows of connections or loops: bytes go in through `feed`, the end of input through `end`; head, body and
completeness are read from attributes.
"""

from __future__ import annotations

from typing import NoReturn

import httptools

from bud_asgi.http.seam import Header

MAX_OVERHEAD = 32 << 10
"""Bytes of all heads together (1xx included), and bytes without one of body after them (chunk extensions, trailers)."""

CHUNK_COST = 64
"""Bytes that a waiting chunk costs besides its own: a peer that sends tiny chunks must not hold more than it seems."""


class MessageError(Exception):
    """Not HTTP, or HTTP that can't be trusted."""


class Message:
    """A reply as far as it has come.

    `headed`: the final head is here. `complete`: the whole message is (section 8). `persistent`: the connection may
    serve again (section 9.3). `surplus`: something came behind the message. `held`: bytes of memory that wait in it.
    """

    __slots__ = (
        "_bodiless",
        "_chunks",
        "_framed",
        "_overhead",
        "_parser",
        "_trailers",
        "answered",
        "complete",
        "headed",
        "headers",
        "held",
        "persistent",
        "status",
        "surplus",
    )

    def __init__(self, *, bodiless: bool = False) -> None:
        """Read the reply to a request; `bodiless` if that was a HEAD."""
        self.status = 0
        self.headers: list[Header] = []
        self.answered = self.headed = self.complete = self.persistent = self.surplus = False
        self.held = 0
        self._bodiless = bodiless
        self._chunks: list[bytes] = []
        self._framed = False
        self._overhead = 0
        self._trailers = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: memoryview) -> None:
        """Read on. Raises `MessageError`; what came of the body before stays readable."""
        if not self.answered:
            self.answered = True
            # llhttp would take RTSP/ and ICE/ too, and skip empty lines.
            if data[0] != 0x48:
                raise MessageError("the reply does not begin with HTTP/")
        room = MAX_OVERHEAD - self._overhead
        self._overhead += len(data)
        if self.headed:
            self._parse(data)
        else:
            # No byte past the limit is parsed as head, however large the read was.
            self._parse(data[:room])
            if self.headed and len(data) > room:
                self._parse(data[room:])
        if self._overhead > MAX_OVERHEAD and not self.complete:
            raise MessageError(f"more than {MAX_OVERHEAD} bytes of {'chunk framing' if self.headed else 'head'}")

    def end(self) -> bool:
        """The input has ended; whether that completes the message: it does where nothing else framed the body."""
        if self.headed and not self._framed and not self.complete:
            self.complete = True
            self.release()
        return self.complete

    def take(self) -> bytes:
        """What is here of the body, and forget it; `b""` if nothing."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.held = 0
        return data

    def release(self) -> None:
        """Let go of the parser: it and we hold each other. Nothing can be fed any more."""
        self._parser = None

    def _parse(self, data: memoryview) -> None:
        parser = self._parser
        if parser is None:
            self.surplus = True
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                # What a callback raised comes as the context of an error without words.
                reason = error.__context__ if isinstance(error.__context__, MessageError) else error
                raise MessageError(str(reason)) from None
            self.surplus = True
        if self.complete:
            self.release()

    # Called by the parser, while it is fed.

    def on_message_begin(self) -> None:
        """A message begins: the reply, an interim reply before it, or something nobody asked for."""
        if self.complete:
            self._refuse("a second reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of a head, or of the trailers, which are dropped (section 7.1.2)."""
        if self.headed:
            self._trailers += len(name) + len(value)
            if self._trailers > MAX_OVERHEAD:
                self._refuse("the trailers are too large")
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"transfer-encoding":
            if value.lower() != b"chunked" or self._framed:
                self._refuse("a transfer-encoding other than chunked")
            self._framed = True
        elif name == b"content-length":
            self._framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head has ended: the final one, or an interim one, which is dropped (RFC 9110, 15.2)."""
        parser = self._parser
        assert parser is not None  # noqa: S101 - it is the caller
        status = parser.get_status_code()
        if parser.get_http_version() not in {"1.1", "1.0"}:
            self._refuse("an HTTP version other than 1.0 and 1.1")
        if status < 100 or status == 101:
            self._refuse("a status below 100" if status < 100 else "an upgrade that nobody asked for")
        if status < 200:
            self.headers.clear()
            self._framed = False
            return
        self.status = status
        self.headed = True
        self._overhead = 0
        if self._bodiless:
            self.complete = True
            # llhttp would wait for the body that the head speaks of; the connection can't be used after this.
            self._refuse("no body belongs to it")

    def on_body(self, data: bytes) -> None:
        """Some bytes of the body."""
        self._overhead = 0
        self._chunks.append(data)
        self.held += len(data) + CHUNK_COST

    def on_message_complete(self) -> None:
        """A message has ended: the reply, or an interim one."""
        if self.headed:
            self.complete = True
            self.persistent = self._parser is not None and self._parser.should_keep_alive()

    def _refuse(self, reason: str) -> NoReturn:
        raise MessageError(reason)
