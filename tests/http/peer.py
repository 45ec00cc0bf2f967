"""A scripted peer: a server that says exactly the bytes it is told to, and notices when the client is gone."""

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


@dataclass(frozen=True)
class Certificates:
    """TLS contexts of a server called `localhost` and of a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Line:
    """One accepted connection, the peer's side."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.over = asyncio.Event()

    async def request(self) -> bytes:
        """Read one request and return it whole."""
        head = await self.head()
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), 0)
        return head + await self.reader.readexactly(length)

    async def head(self) -> bytes:
        """Read the head of a request, and leave its body unread."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def say(self, *parts: bytes) -> None:
        """Send these bytes, each part by itself."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            if len(parts) > 1:
                await asyncio.sleep(0.001)

    def say_at_once(self, data: bytes) -> None:
        """Put bytes into the kernel's hands before anything else can run. Plain sockets only."""
        self.socket.send(data)

    @property
    def socket(self) -> socket.socket:
        """A copy of the connection's socket."""
        copy = socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno()))
        self._copies = [*getattr(self, "_copies", []), copy]
        return copy

    def release(self) -> None:
        """Close the copies of the socket."""
        for copy in getattr(self, "_copies", []):
            copy.close()

    def reset(self) -> None:
        """End the connection hard: the client gets a reset."""
        copy = self.socket
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.release()
        self.writer.transport.abort()

    async def watch(self) -> None:
        """Read on and throw away, until the client has ended the connection."""
        with contextlib.suppress(OSError):
            while await self.reader.read(1 << 20):
                pass
        self.gone.set()


Script = Callable[[Line], Awaitable[None]]


class Peer:
    """Listens on a port of its own and plays the script on every connection, which it closes when that returns."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.lines: list[Line] = []
        self.arrived = asyncio.Event()
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, limit=1 << 16)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.origin = Origin("127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self.lines:
            line.release()
            line.writer.transport.abort()
        await asyncio.sleep(0)

    def forget(self) -> None:
        """Forget the connections that are over."""
        self.lines = [line for line in self.lines if not line.over.is_set()]
        self._tasks = {task for task in self._tasks if not task.done()}

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(len(self.lines), reader, writer)
        self.lines.append(line)
        self.arrived.set()
        task = asyncio.get_running_loop().create_task(self._play(line))
        self._tasks.add(task)

    async def _play(self, line: Line) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._script(line)
        except RuntimeError:
            # What uvloop raises for a write to a connection that was reset.
            if not line.writer.transport.is_closing():
                raise
        finally:
            line.over.set()
        line.writer.close()


def says(*parts: bytes) -> Script:
    """Answer every request with these bytes, then keep the connection open."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.say(*parts)

    return script


def says_and_closes(*parts: bytes) -> Script:
    """Answer one request with these bytes, then close."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(*parts)

    return script


async def is_silent(line: Line) -> None:
    """Take the request, never answer, notice the end."""
    await line.request()
    await line.watch()


def ask(
    peer: Peer,
    *,
    method: bytes = b"POST",
    target: bytes = b"/v1/messages",
    headers: tuple[Header, ...] = (),
    body: Body = b"{}",
    timeouts: Timeouts = Timeouts(connect=5, first_byte=10, silence=10),  # noqa: B008 - frozen
) -> HttpRequest:
    """A request to the peer."""
    return HttpRequest(peer.origin, method, target, headers, body, timeouts)


async def read(reply: HttpReply) -> bytes:
    """The whole body, to its true end."""
    body = b""
    while data := await reply.more():
        body += data
    assert data == b""
    assert reply.done
    return body
