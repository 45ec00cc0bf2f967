"""Running inside a host app: the path below the prefix, the lifespan, mounting, the final event of a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import SCOPE_KEY, Exchange

EnterLifespan = Callable[[], AbstractAsyncContextManager[None]]

_log = logging.getLogger("bud_asgi")


def local_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted at.

    ASGI puts the prefix into `root_path` and keeps it in `path`. A proxy in front may have stripped the first part of
    it, so the longest tail of `root_path` that the path starts with is removed.
    """
    path: str = scope["path"]
    if path.endswith("/"):
        raw_path: bytes = scope.get("raw_path") or b"/"
        if not raw_path.partition(b"?")[0].endswith(b"/"):
            path = path.removesuffix("/")  # Litestar appends one
    prefix: str = scope.get("root_path", "").rstrip("/")
    while prefix:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return path[len(prefix) :]
        _, slash, tail = prefix[1:].partition("/")
        prefix = slash + tail
    return path


async def run_lifespan(lifespan: EnterLifespan, receive: Receive, send: Send) -> None:
    """Run the ASGI lifespan of an app that is served alone, or by a host that runs the lifespans of its mounts."""
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
    """The outermost middleware of a host: ends a running stream with an `error` event when the request is cancelled.

    A server cancels running requests at the end of its grace period. A `BaseHTTPMiddleware` in the host then drops what
    the mounted app sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through. The closing event is sent in the same step as the cancellation."""
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            exchange: Exchange | None = scope.get(SCOPE_KEY)
            if exchange is not None and exchange.unsent_event:
                await send({"type": "http.response.body", "body": exchange.unsent_event})
            raise


class _ExactPrefix:
    """Serves the bare prefix: the whole path is prefix, even if it looks like a path of the Messages API."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = scope["path"]
        await self.app(scope, receive, send)


def install(
    host: Starlette, path: str, app: ASGIApp, lifespan: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    """Mount an app in a Starlette or FastAPI host at a prefix, and enter its lifespan within the host's.

    Raises `ValueError` for a path without a leading slash, or where an app is mounted already.
    """
    prefix = path.rstrip("/")
    if not path.startswith("/"):
        raise ValueError(f"the path to install at must begin with a slash, not {path!r}")
    if any(isinstance(route, Mount) and route.path == prefix for route in host.router.routes):
        raise ValueError(f"an app is mounted at {prefix or '/'!r} already, and would get the requests first")
    if prefix:
        host.router.routes.append(Route(prefix, _ExactPrefix(app)))  # without it, Starlette redirects there
    host.router.routes.append(Mount(prefix, app))
    inner = host.router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state, lifespan():
            yield state

    host.router.lifespan_context = both
