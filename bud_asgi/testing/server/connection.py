"""One TCP connection of the stand-in: parses requests, and handles one after the other."""

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
"""Seconds for a client to read the reply to an upload that was too large."""


class ConnectionEvents(Protocol):
    """What a connection calls. All but `on_request` return at once."""

    def on_open(self, connection: Connection) -> None:
        """The connection was accepted."""
        ...

    def on_close(self, connection: Connection) -> None:
        """The connection has ended."""
        ...

    def on_reuse(self) -> None:
        """The connection closed because it was used again (`close_on_reuse`)."""
        ...

    def on_parse_error(self, message: str) -> None:
        """Data arrived that is not HTTP."""
        ...

    def on_failure(self, error: Exception) -> None:
        """Sending a reply failed, but not because of the client."""
        ...

    def on_head(self, connection: int, method: bytes, target: bytes) -> Received:
        """The head of a request arrived: return its record."""
        ...

    async def on_request(self, connection: Connection, received: Received) -> bool:
        """Reply to a request that is complete or too large. Returns whether the connection stays open.

        Cancelled when the client disconnects.
        """
        ...


class Connection(asyncio.Protocol):
    """Parses requests and passes each to `events.on_request`, in a task that ends with the connection."""

    def __init__(self, *, number: int, max_body: int, events: ConnectionEvents) -> None:
        self.number = number
        self.keep_alive = True
        self._max_body = max_body
        self._events = events
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._incoming: Received | None = None
        self._body = bytearray()
        self._discarding = False
        self._current: Received | None = None
        self._queue: deque[Received] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        self._close_on_reuse: str | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport. Raises `ConnectionResetError` once the connection has ended."""
        if self._transport is None:
            raise ConnectionResetError("the connection has ended")
        return self._transport

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that handles requests now, if any."""
        return self._task

    def limit_send_buffer(self, size: int) -> None:
        """Limit the kernel's send buffer, in bytes (the kernel doubles it)."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def drop(self) -> None:
        """Close at once. The request being handled counts as done, not as aborted."""
        self._finish()
        if self._transport:
            self._transport.abort()

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        encrypted = self._transport.get_extra_info("sslcontext") is not None
        # `write` waits until the kernel has everything; asyncio's TLS never resumes from a limit of 0
        self._transport.set_write_buffer_limits(high=1 if encrypted else 0, low=0)
        self._events.on_open(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, or close on reuse. The rest of a body that is too large is discarded."""
        if self._close_on_reuse:
            self._events.on_reuse()
            return self.reset() if self._close_on_reuse == "reset" else self.transport.abort()
        if self._discarding:
            return None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._discarding = True
            self._events.on_parse_error(f"connection {self.number}: {error}")
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        return None

    def eof_received(self) -> None:
        """Treat the client as disconnected, even if it only shut down its sending side."""
        self._mark_aborted()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`. The request being handled is aborted."""
        self._mark_aborted()
        self._transport = None
        if self._writable and not self._writable.done():
            self._writable.set_exception(exc or ConnectionResetError("the connection has ended"))
            self._writable.exception()
        self._events.on_close(self)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`. From now on `write` waits."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`. `write` continues."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _mark_aborted(self) -> None:
        now = time.monotonic()
        for request in (self._incoming, self._current, *self._queue):
            if request and not request.done and request.aborted is None:
                request.aborted = now
        self._queue.clear()
        if self._task:
            self._task.cancel()

    # called by the parser

    def on_message_begin(self) -> None:
        """Start a request."""
        self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        """Append to the target, which may arrive in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header field as it was sent."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Report the request. One that announces too large a body is handled at once."""
        request = self._events.on_head(self.number, self._parser.get_method(), self._target)
        request.headers = self._headers
        self._incoming, self._body = request, bytearray()
        self.keep_alive = self._parser.should_keep_alive()
        length = next((value for name, value in self._headers if name.lower() == b"content-length"), b"0")
        if int(length) > self._max_body:
            self._too_large(request)
        elif request.header("expect") == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect the body, up to the limit."""
        if self._incoming is None:
            return
        self._body += body
        if len(self._body) > self._max_body:
            self._too_large(self._incoming)

    def on_message_complete(self) -> None:
        """Handle the complete request."""
        if (request := self._incoming) is None:
            return
        request.body, request.complete = bytes(self._body), True
        self._incoming, self._body = None, bytearray()
        self._enqueue(request)

    def _too_large(self, request: Received) -> None:
        self._incoming, self._body = None, bytearray()
        self._discarding, self.keep_alive = True, False
        self._enqueue(request)

    def _enqueue(self, request: Received) -> None:
        self._queue.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._handle_queue())

    async def _handle_queue(self) -> None:
        try:
            keep_alive = True
            while keep_alive and self._queue:
                self._current = request = self._queue.popleft()
                keep_alive = await self._events.on_request(self, request)
        except OSError:
            self._mark_aborted()
        except Exception as error:  # noqa: BLE001 (reported to the test; the client must not wait)
            self._events.on_failure(error)
            self.drop()
        finally:
            self._task = None

    # called to write a reply

    async def write(self, data: bytes) -> None:
        """See `Wire.write`. Counts the bytes in `Received.replied`."""
        self.transport.write(data)
        if self._writable:
            await self._writable
        if self._current:
            self._current.replied += len(data)

    def close(self) -> None:
        """See `Wire.close`. After an upload that was too large, its sender gets time to read the reply."""
        self._finish()
        if not self._discarding or not self.transport.can_write_eof():
            return self.transport.close()
        self.transport.write_eof()
        transport = self.transport
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)
        return None

    def reset(self) -> None:
        """See `Wire.reset`."""
        self._finish()
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def close_on_reuse(self, *, reset: bool) -> None:
        """See `Wire.close_on_reuse`."""
        self._close_on_reuse = "reset" if reset else "close"

    def _finish(self) -> None:
        if self._current:
            self._current.done = True
