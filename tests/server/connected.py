"""One client on one connection, in the loop of a test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from bud_asgi.server import ConnectionFactory, ServerLimits
from bud_asgi.server.connection import ServerConnection

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"HEAD" + GET[3:]
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
START = POST.removesuffix(b"hello")
EMPTY = [(b"content-length", b"0")]


class Client:
    """The client's end, and what the server holds of it."""

    def __init__(self, sock: socket.socket, connection: ServerConnection, state: ServerState) -> None:
        self.sock = sock
        self.connection = connection
        self.state = state
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, mark: bytes) -> bytes:
        """Read up to and including `mark`."""
        while mark not in self._received:
            chunk = await self._read_chunk()
            assert chunk, self._received
            self._received += chunk
        head, _, self._received = self._received.partition(mark)
        return head + mark

    async def read_all(self) -> bytes:
        """Read until the server closes."""
        while chunk := await self._read_chunk():
            self._received += chunk
        received, self._received = self._received, b""
        return received

    async def _read_chunk(self) -> bytes:
        async with asyncio.timeout(30):
            return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)


@asynccontextmanager
async def connected(
    app: Any, *, state: dict[str, Any] | None = None, tick: float = 0.02, **options: Any
) -> AsyncGenerator[Client]:
    """Connect to `app`. `options` are those of `uvicorn.Config`; `state` is that of the lifespan."""
    settings: dict[str, Any] = {"log_config": None, "ws": "none", "proxy_headers": False, **options}
    config = uvicorn.Config(app, **settings)
    config.load()
    loop, server = asyncio.get_running_loop(), ServerState()
    factory = ConnectionFactory(ServerLimits(tick=tick))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        _, connection = await loop.connect_accepted_socket(
            lambda: factory(config, server, {} if state is None else state), theirs
        )
        yield Client(ours, connection, server)
        ours.close()
        if server.connections:
            connection.abort()
        async with asyncio.timeout(30):
            while server.tasks or server.connections:  # noqa: ASYNC110 - the tasks are not ours
                await asyncio.sleep(0.005)


def answering(body: bytes = b"Hello", *headers: tuple[bytes, bytes], status: int = 200) -> Any:
    """An app that reads the body and sends a response with a `content-length`, unless it gets other headers."""
    lines = list(headers) or [(b"content-length", str(len(body)).encode())]
    return sending(
        {"type": "http.response.start", "status": status, "headers": lines},
        {"type": "http.response.body", "body": body},
    )


def sending(*messages: Any) -> Any:
    """An app that reads the body, and sends these messages; an exception among them is raised."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in messages:
            if isinstance(message, Exception):
                raise message
            await send(message)

    return app


def seeing(look: Callable[[Scope], Any]) -> Any:
    """An app that answers with what `look` returns for its scope."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = repr(look(scope)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

    return app
