"""A guest's manners: the path below its prefix, resources for each event loop, the lifespan, being installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.clock import Clock
from bud_asgi.exchange import SCOPE_KEY, Exchange
from bud_asgi.http import HttpClient
from bud_asgi.models.upstream_lists import UpstreamModelLists
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.providers import Provider
from bud_asgi.tasks import BackgroundTasks

EnterLifespan = Callable[[], AbstractAsyncContextManager[None]]

SETTLE_WITHIN = 5.0
"""Seconds that settlements get at shutdown, before the connections to the upstreams are closed."""

END_WITHIN = 2.0
"""Seconds in which the requests that a drain has ended must be gone."""

_log = logging.getLogger("bud_asgi")


def local_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted at.

    ASGI puts the prefix into `root_path` and keeps it in `path`; a proxy in front may have stripped the first part of
    it, so the longest tail of `root_path` that the path begins with is what is taken off.
    """
    path: str = scope["path"]
    if path.endswith("/"):
        raw_path: bytes = scope.get("raw_path") or b"/"
        if not raw_path.partition(b"?")[0].endswith(b"/"):
            path = path.removesuffix("/")  # Litestar adds one
    prefix: str = scope.get("root_path", "").rstrip("/")
    while prefix:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return path[len(prefix) :]
        _, slash, tail = prefix[1:].partition("/")
        prefix = slash + tail
    return path


class LoopResources:
    """What belongs to one event loop: the engine, the clock, the requests in flight, the tasks that outlive them."""

    def __init__(self, client: HttpClient, providers: Sequence[Provider]) -> None:
        self.client = client
        self.clock = Clock(asyncio.get_running_loop())
        self.listings = UpstreamModelLists(providers, client)
        self.tasks = BackgroundTasks()
        self.in_flight: set[Exchange] = set()
        self.draining = False
        self._empty = asyncio.Event()

    def entered(self, exchange: Exchange) -> None:
        """Note that a request has come."""
        self.in_flight.add(exchange)

    def left(self, exchange: Exchange) -> None:
        """Note that a request has been answered, or given up."""
        self.in_flight.discard(exchange)
        if not self.in_flight:
            self._empty.set()

    async def drain(self, timeout: float) -> None:
        """Refuse what comes new, wait `timeout` seconds for what is in flight, end the rest, await settlements."""
        self.draining = True
        if not await self._wait_until_empty(timeout):
            _log.warning("%d requests were still in flight after %g s and are ended", len(self.in_flight), timeout)
            for exchange in tuple(self.in_flight):
                if exchange.end is not None:
                    exchange.end(ShuttingDown())
            await self._wait_until_empty(END_WITHIN)
        await self.tasks.drain(SETTLE_WITHIN)

    async def aclose(self) -> None:
        """Let settlements end, then close the connections to the upstreams."""
        self.listings.close()
        await self.tasks.drain(SETTLE_WITHIN)
        await self.client.aclose()

    async def _wait_until_empty(self, timeout: float) -> bool:
        self._empty.clear()
        if self.in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)
        return not self.in_flight


class PerLoop:
    """Resources by event loop: made on first use, closed with the lifespan or else when their loop ends.

    A test client may run each request in a loop of its own, and hardly a host runs the lifespan of what it mounts. So
    each loop gets a keeper task; cancelled when the loop ends, it closes what the loop had.
    """

    def __init__(self, client: Callable[[], HttpClient], providers: Sequence[Provider]) -> None:
        self._client = client
        self._providers = providers
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[LoopResources, asyncio.Task[None]]] = {}

    def get(self) -> LoopResources:
        """The resources of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._by_loop.get(loop)
        if kept is None:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            resources = LoopResources(self._client(), self._providers)
            kept = self._by_loop[loop] = (resources, loop.create_task(self._keep(loop, resources)))
        return kept[0]

    async def drain(self, timeout: float) -> None:
        """Drain the running loop, if anything was served in it."""
        kept = self._by_loop.get(asyncio.get_running_loop())
        if kept is not None:
            await kept[0].drain(timeout)

    async def aclose(self) -> None:
        """Close the resources of the running loop, if there are any."""
        resources, keeper = self._by_loop.pop(asyncio.get_running_loop(), (None, None))
        if resources is not None and keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
            await resources.aclose()

    async def _keep(self, loop: asyncio.AbstractEventLoop, resources: LoopResources) -> None:
        try:
            await loop.create_future()
        finally:
            self._by_loop.pop(loop, None)
            await resources.aclose()


async def run_lifespan(lifespan: EnterLifespan, receive: Receive, send: Send) -> None:
    """Speak the lifespan protocol of ASGI for an app that is served alone, or by a host that runs its guests'."""
    await receive()
    failed = "lifespan.startup.failed"
    try:
        async with lifespan():
            await send({"type": "lifespan.startup.complete"})
            failed = "lifespan.shutdown.failed"
            await receive()
    except Exception as error:  # noqa: BLE001 - the boundary to the server: it reports
        _log.exception("the lifespan failed")
        await send({"type": failed, "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})


class FinalErrorEvent:
    """A layer for the very outside of a host: ends a guest's stream when the layers between can't any more.

    Past its grace a server cancels what runs; a `BaseHTTPMiddleware` in the host then lets nothing of the guest's out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; write the last event in the step of the cancellation."""
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            exchange: Exchange | None = scope.get(SCOPE_KEY)
            if exchange is not None and exchange.unfinished is not None:
                await send({"type": "http.response.body", "body": exchange.unfinished(ShuttingDown())})
            raise


class _BarePrefix:
    """Hands on a request for the prefix itself: all of its path is prefix, even one that reads like a path of ours."""

    def __init__(self, guest: ASGIApp) -> None:
        self.guest = guest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = scope["path"]
        await self.guest(scope, receive, send)


def install(
    host: Starlette, path: str, guest: ASGIApp, lifespan: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    """Mount a guest in a Starlette or FastAPI host at a prefix, and enter its lifespan inside the host's.

    Raises `ValueError` for a path that is none, or that something is mounted at already.
    """
    prefix = path.rstrip("/")
    if not path.startswith("/"):
        raise ValueError(f"the path to install at must begin with a slash, not {path!r}")
    if any(isinstance(route, Mount) and route.path == prefix for route in host.router.routes):
        raise ValueError(f"something is mounted at {prefix or '/'!r} already, and would be asked first")
    if prefix:
        host.router.routes.append(Route(prefix, _BarePrefix(guest)))  # without it, Starlette redirects there
    host.router.routes.append(Mount(prefix, guest))
    inner = host.router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state, lifespan():
            yield state

    host.router.lifespan_context = both
