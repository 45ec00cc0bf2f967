"""A guest's manners: the path below its prefix, resources for each event loop, the lifespan, being installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.http import HttpClient
from bud_asgi.tasks import OwnTasks

SETTLE_WITHIN = 5.0
"""Seconds that settlements get at shutdown, before the connections to the upstreams are closed."""

_log = logging.getLogger("bud_asgi")


def local_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted at.

    ASGI puts the prefix into `root_path` and keeps it in `path`; a proxy in front may have stripped the first part of
    it, so the longest tail of `root_path` that the path begins with is what is taken off.
    """
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "").rstrip("/")
    while prefix:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return path[len(prefix) :]
        _, slash, tail = prefix[1:].partition("/")
        prefix = slash + tail
    return path


class LoopResources:
    """What belongs to one event loop: the engine, and the tasks that outlive a request."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.tasks = OwnTasks()

    async def aclose(self) -> None:
        """Let settlements end, then close the connections to the upstreams."""
        await self.tasks.drain(SETTLE_WITHIN)
        await self.client.aclose()


class PerLoop:
    """Resources by event loop: made on first use, closed with the lifespan or else when their loop ends.

    A test client may run each request in a loop of its own, and hardly a host runs the lifespan of what it mounts. So
    each loop gets a keeper task; cancelled when the loop ends, it closes what the loop had.
    """

    def __init__(self, client: Callable[[], HttpClient]) -> None:
        self._client = client
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[LoopResources, asyncio.Task[None]]] = {}

    def get(self) -> LoopResources:
        """The resources of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._by_loop.get(loop)
        if kept is None:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            resources = LoopResources(self._client())
            kept = self._by_loop[loop] = (resources, loop.create_task(self._keep(loop, resources)))
        return kept[0]

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


async def run_lifespan(per_loop: PerLoop, receive: Receive, send: Send) -> None:
    """Speak the lifespan protocol of ASGI for an app that is served alone."""
    await receive()
    per_loop.get()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await per_loop.aclose()
    await send({"type": "lifespan.shutdown.complete"})


def install(host: Starlette, path: str, guest: ASGIApp, lifespan: Callable[[Any], Any]) -> None:
    """Mount a guest in a Starlette or FastAPI host at a prefix, and enter its lifespan inside the host's."""
    prefix = path.rstrip("/")
    if not path.startswith("/"):
        raise ValueError(f"the path to install at must begin with a slash, not {path!r}")
    if prefix:
        host.router.routes.append(Route(prefix, guest))  # without it, Starlette redirects the bare prefix
    host.router.routes.append(Mount(prefix, guest))
    inner = host.router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state, lifespan(app):
            yield state

    host.router.lifespan_context = both
