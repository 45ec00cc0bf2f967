"""A scripted server: sends exactly the bytes of its script, and notices when the client closes the connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bud_asgi.http import Body, Header, HttpReply, HttpRequest, Origin, Timeouts

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

_ACCEPT_TURNS = 4
"""Loop iterations from an accepted socket to the call of `Peer._accept`."""


@dataclass(frozen=True)
class Certificates:
    """TLS contexts: of a server named `localhost`, and of a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class PeerConnection:
    """One accepted connection, as the peer sees it.

    `gone` is set when `wait_closed` has seen the client close it, `finished` when its script has returned.
    """

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.finished = asyncio.Event()
        self._duplicates: list[socket.socket] = []

    async def request(self) -> bytes:
        """Read one whole request."""
        head = await self.head()
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), 0)
        return head + await self.reader.readexactly(length)

    async def head(self) -> bytes:
        """Read the head of a request and leave its body unread."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, *parts: bytes) -> None:
        """Send these bytes, each part in a write of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            if len(parts) > 1:
                await asyncio.sleep(0.001)

    def send_now(self, data: bytes) -> None:
        """Write bytes to the kernel before anything else can run. Plain sockets only."""
        self.socket.send(data)

    @property
    def socket(self) -> socket.socket:
        """A duplicate of the connection's socket."""
        duplicate = socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno()))
        self._duplicates.append(duplicate)
        return duplicate

    def release(self) -> None:
        """Close the duplicates of the socket."""
        for duplicate in self._duplicates:
            duplicate.close()

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        duplicate = self.socket
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.release()
        self.writer.transport.abort()

    async def wait_closed(self) -> None:
        """Read and discard until the client has closed the connection."""
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 20):
                pass
        self.gone.set()


Script = Callable[[PeerConnection], Awaitable[None]]


class Peer:
    """Listens on a port of its own and runs the script on every connection, which it closes when the script returns."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.connections: list[PeerConnection] = []
        self.accepted = asyncio.Event()
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, limit=1 << 16)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.origin = Origin("127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.release()
            connection.writer.transport.abort()
        # A connection that is just being accepted reaches `_accept` only now, and would stay open.
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)

    def discard_finished(self) -> None:
        """Discard the connections whose script has returned."""
        self.connections = [connection for connection in self.connections if not connection.finished.is_set()]
        self._tasks = {task for task in self._tasks if not task.done()}

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:
            writer.transport.abort()
            return
        connection = PeerConnection(len(self.connections), reader, writer)
        self.connections.append(connection)
        self.accepted.set()
        task = asyncio.get_running_loop().create_task(self._run(connection))
        self._tasks.add(task)

    async def _run(self, connection: PeerConnection) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._script(connection)
        except RuntimeError:
            # uvloop raises it for a write to a connection that was reset.
            if not connection.writer.transport.is_closing():
                raise
        finally:
            connection.finished.set()
        connection.writer.close()


def reply_with(*parts: bytes) -> Script:
    """Answer every request with these bytes and keep the connection open."""

    async def script(connection: PeerConnection) -> None:
        while True:
            await connection.request()
            await connection.send(*parts)

    return script


def reply_and_close(*parts: bytes) -> Script:
    """Answer one request with these bytes, then close the connection."""

    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(*parts)

    return script


async def never_reply(connection: PeerConnection) -> None:
    """Read the request and never answer it."""
    await connection.request()
    await connection.wait_closed()


def request_to(
    peer: Peer,
    *,
    method: bytes = b"POST",
    target: bytes = b"/v1/messages",
    headers: tuple[Header, ...] = (),
    body: Body = b"{}",
    timeouts: Timeouts = Timeouts(connect=5, first_byte=10, silence=10),  # noqa: B008 - frozen
) -> HttpRequest:
    """Build a request to the peer."""
    return HttpRequest(peer.origin, method, target, headers, body, timeouts)


async def read(reply: HttpReply) -> bytes:
    """Read the whole body."""
    body = b""
    while data := await reply.more():
        body += data
    assert data == b""
    assert reply.done
    return body
