"""A TCP proxy that can hold back, cut or spoil what passes through it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Relays connections to a local port. It may be told to misbehave at any time.

    While `requests` is not set, nothing reaches the server; while `replies` is not set, nothing comes back. Both are
    kept, and go on later. `garbage` replaces what the server replies. While it is not `open`, connections are refused.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.tls = tls
        self.port = 0
        self.requests, self.replies = asyncio.Event(), asyncio.Event()
        self.requests.set()
        self.replies.set()
        self.garbage = b""
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL of the store behind the proxy, with a password that no log line may show."""
        return f"redis://:hidden-password@127.0.0.1:{self.port}/0"

    async def open(self) -> None:
        """Accept connections, at the same port as before."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break all connections, and accept no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Break all connections."""
        for relay in tuple(self._relays):
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            back, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            down = asyncio.create_task(self._copy(back, writer, self.replies, replies=True))
            up = asyncio.create_task(self._copy(reader, upstream, self.requests, replies=False))
            try:
                await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                down.cancel()
                up.cancel()
                await asyncio.wait({down, up})
        except (asyncio.CancelledError, OSError):  # cut, or the server is away
            pass
        finally:
            self._relays.discard(task)
            for stream in (writer, upstream):
                if stream is not None:
                    stream.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, *, replies: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await gate.wait()
                writer.write(self.garbage if replies and self.garbage else data)
                await writer.drain()


@asynccontextmanager
async def proxy_to(port: int, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Proxy]:
    """A proxy to a local port; with a context it accepts only TLS."""
    proxy = Proxy(port, tls)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.cut()
