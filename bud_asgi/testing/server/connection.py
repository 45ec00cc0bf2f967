"""One TCP connection of the stand-in: bytes in, `Received` out, one request after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import Protocol, cast

import httptools

from bud_asgi.testing.server.received import Received

_LINGER = 2.0


class Events(Protocol):
    """Whom a connection tells what happens on it."""

    def opened(self, connection: Connection) -> None:
        """It was made."""
        ...

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        ...

    def reused(self) -> None:
        """It died because it was used again (`close_on_reuse`)."""
        ...

    def garbled(self, words: str) -> None:
        """It brought what is no HTTP."""
        ...

    def failed(self, error: Exception) -> None:
        """Answering failed for a reason of our own."""
        ...

    def begin(self, connection: int, method: bytes, target: bytes) -> Received:
        """The head of a request arrived: make its record."""
        ...

    async def serve(self, connection: Connection, received: Received) -> bool:
        """Answer a request that is whole, or known to be too large. True if the connection may go on."""
        ...


class Connection(asyncio.Protocol):
    """Parses requests and hands each to `events.serve`, in a task that ends with the connection."""

    def __init__(self, *, number: int, max_body: int, events: Events) -> None:
        self.number = number
        self.keep = True
        self._max_body = max_body
        self._events = events
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._incoming: Received | None = None
        self._body = bytearray()
        self._discarding = False
        self._answering: Received | None = None
        self._waiting: deque[Received] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        self._dies_on_reuse: str | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport. Raises `ConnectionError` once it is gone."""
        if self._transport is None:
            raise ConnectionResetError("the connection is gone")
        return self._transport

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that answers right now."""
        return self._task

    def bound_send_buffer(self, size: int) -> None:
        """Bound the kernel's send buffer, in bytes (the kernel doubles it)."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def drop(self) -> None:
        """Close at once, whatever is happening; a request in the middle of its reply isn't `aborted` by that."""
        self._finish()
        if self._transport:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)
        encrypted = self._transport.get_extra_info("sslcontext") is not None
        # `write` waits until the kernel has everything; asyncio's TLS never resumes from a limit of 0
        self._transport.set_write_buffer_limits(high=1 if encrypted else 0, low=0)
        self._events.opened(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is doomed or the rest of a refused body comes."""
        if self._dies_on_reuse:
            self._events.reused()
            return self.reset() if self._dies_on_reuse == "reset" else self.transport.abort()
        if self._discarding:
            return None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._discarding = True
            self._events.garbled(f"connection {self.number}: {error}")
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        return None

    def eof_received(self) -> None:
        """The peer is gone (a half-closed one counts as gone)."""
        self._gone()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell of it; a reply under way is aborted."""
        self._gone()
        self._transport = None
        if self._writable and not self._writable.done():
            self._writable.set_exception(exc or ConnectionResetError("the connection is gone"))
            self._writable.exception()
        self._events.closed(self)

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _gone(self) -> None:
        now = time.monotonic()
        for request in (self._incoming, self._answering, *self._waiting):
            if request and not request.done and request.aborted is None:
                request.aborted = now
        self._waiting.clear()
        if self._task:
            self._task.cancel()

    # the parser's side

    def on_message_begin(self) -> None:
        """Start a request."""
        self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        """Add to the target, which may come in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field as it came."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell of the request; refuse it here already if it announces too large a body."""
        request = self._events.begin(self.number, self._parser.get_method(), self._target)
        request.headers = self._headers
        self._incoming, self._body = request, bytearray()
        self.keep = self._parser.should_keep_alive()
        length = next((value for name, value in self._headers if name.lower() == b"content-length"), b"0")
        if int(length) > self._max_body:
            self._too_large(request)
        elif request.header("expect") == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Gather the body, up to the limit."""
        if self._incoming is None:
            return
        self._body += body
        if len(self._body) > self._max_body:
            self._too_large(self._incoming)

    def on_message_complete(self) -> None:
        """Answer it."""
        if (request := self._incoming) is None:
            return
        request.body, request.complete = bytes(self._body), True
        self._incoming, self._body = None, bytearray()
        self._enqueue(request)

    def _too_large(self, request: Received) -> None:
        self._incoming, self._body = None, bytearray()
        self._discarding, self.keep = True, False
        self._enqueue(request)

    def _enqueue(self, request: Received) -> None:
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        try:
            going = True
            while going and self._waiting:
                self._answering = request = self._waiting.popleft()
                going = await self._events.serve(self, request)
        except OSError:
            self._gone()
        except Exception as error:  # noqa: BLE001 (the end of a task: told, and the peer must not wait for it)
            self._events.failed(error)
            self.drop()
        finally:
            self._task = None

    # the reply's side

    async def write(self, data: bytes) -> None:
        """Write, and wait until the kernel has taken all of it; counts it in `replied`."""
        self.transport.write(data)
        if self._writable:
            await self._writable
        if self._answering:
            self._answering.replied += len(data)

    def close(self) -> None:
        """Close in order; after a refused upload only once its sender had a moment to read the refusal."""
        self._finish()
        if not self._discarding or not self.transport.can_write_eof():
            return self.transport.close()
        self.transport.write_eof()
        transport = self.transport
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)
        return None

    def reset(self) -> None:
        """Close with an RST."""
        self._finish()
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def close_on_reuse(self, *, reset: bool) -> None:
        """Let it live until its next byte arrives."""
        self._dies_on_reuse = "reset" if reset else "close"

    def _finish(self) -> None:
        if self._answering:
            self._answering.done = True
