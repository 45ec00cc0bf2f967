"""A proxy that forwards requests and replies unchanged, except for what its bender changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from bud_asgi.testing.server.serving import serving

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"host"})


class ProxiedRequest(msgspec.Struct, frozen=True):
    """A request: method, raw path and query, headers as they came, the whole body."""

    method: str
    target: bytes
    headers: Headers
    body: bytes

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class ProxiedReply(msgspec.Struct, frozen=True):
    """A reply: its head, and its body as it comes. `watched`: it is cancelled when the client disconnects."""

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]
    watched: bool = True


Forward = Callable[[ProxiedRequest], Awaitable[ProxiedReply]]
Bender = Callable[[ProxiedRequest, Forward], Awaitable[ProxiedReply]]


class Bent:
    """Which bender works where: between client and gateway, and between gateway and upstream."""

    def __init__(self) -> None:
        self.before: Bender = passes_on
        self.behind: Bender = passes_on

    @property
    def bends(self) -> bool:
        """Whether there is a bender."""
        return self.before is not passes_on or self.behind is not passes_on


async def passes_on(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Change nothing."""
    return await forward(request)


class Proxy:
    """An ASGI app in front of `target`, a base URL; `bender` returns the current bender."""

    def __init__(self, target: str, bender: Callable[[], Bender]) -> None:
        self._url = httpx.URL(target)
        self._bender = bender
        self._up: httpx.AsyncClient | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        request = await _read(scope, receive)
        async with AsyncExitStack() as opened:
            reply = await self._bender()(request, self._forward(opened))
            await _write(reply, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=30, limits=limits) as self._up:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _forward(self, opened: AsyncExitStack) -> Forward:
        up = self._up
        assert up is not None

        async def forward(request: ProxiedRequest) -> ProxiedReply:
            lines = [line for line in request.headers if line[0].lower() not in _HOP_BY_HOP | {b"content-length"}]
            target = self._url.copy_with(raw_path=self._url.raw_path.rstrip(b"/") + request.target)
            content = request.body if request.body or request.method == "POST" else None
            received = await up.send(httpx.Request(request.method, target, headers=lines, content=content), stream=True)
            opened.push_async_callback(received.aclose)
            kept = [line for line in received.headers.raw if line[0].lower() not in _HOP_BY_HOP]
            return ProxiedReply(received.status_code, kept, received.aiter_raw())

        return forward


async def _read(scope: Scope, receive: Receive) -> ProxiedRequest:
    chunks: list[bytes] = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return ProxiedRequest(scope["method"], target, list(scope["headers"]), b"".join(chunks))


async def _write(reply: ProxiedReply, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})

    async def flow() -> None:
        async for chunk in reply.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    flowing, leaving = asyncio.create_task(flow()), asyncio.create_task(left())
    for task in (flowing, leaving):  # what they end by is looked at, also when this is cancelled before they end
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    await asyncio.wait({flowing, leaving} if reply.watched else {flowing}, return_when=asyncio.FIRST_COMPLETED)
    gone = not flowing.done()
    flowing.cancel()
    leaving.cancel()
    done = await asyncio.gather(flowing, leaving, return_exceptions=True)
    if not gone and isinstance(done[0], Exception):
        raise done[0]  # the client gets a cut reply, as the proxy did


@contextmanager
def proxying(target: str, bender: Callable[[], Bender]) -> Generator[str]:
    """Serve a proxy; yields its base URL."""
    with serving(
        Proxy(target, bender), log_level="critical", date_header=False, server_header=False, timeout_graceful_shutdown=0
    ) as url:
        yield url
