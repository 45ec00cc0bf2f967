"""The engine: an `HttpClient` of our own, HTTP/1.1 over llhttp, made for relaying."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bud_asgi.http.connection import Common
from bud_asgi.http.message import Message
from bud_asgi.http.pool import Pool, PoolLimits, PoolStats
from bud_asgi.http.reply import Reply
from bud_asgi.http.seam import HttpError, HttpRequest, Origin
from bud_asgi.http.wire import request_head


class Engine:
    """An `HttpClient` for one event loop: made in it, used in it, closed in it.

    Follows no redirects, keeps no cookies, decompresses nothing, reads no proxies from the environment. A request goes
    out once; the one exception is a connection that had served before and turns out to have been left by its peer
    (`stale_retries` counts them).
    """

    __slots__ = ("_closed", "_common", "_limits", "_pools")

    def __init__(self, limits: PoolLimits | None = None) -> None:
        """Belong to the running loop; raises `RuntimeError` where there is none."""
        self._common = Common(asyncio.get_running_loop())
        self._limits = limits or PoolLimits()
        self._pools: dict[Origin, Pool] = {}
        self._closed = False

    @property
    def open(self) -> int:
        """How many connections are up, the idle ones included."""
        return sum(pool.open for pool in self._pools.values())

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return sum(pool.idle for pool in self._pools.values())

    @property
    def stale_retries(self) -> int:
        """How many requests were sent once more because their connection had been left by its peer."""
        return sum(pool.stale_retries for pool in self._pools.values())

    def figures(self) -> Mapping[Origin, PoolStats]:
        """How the connections are doing, by origin; an origin is in it from its first request on."""
        return {origin: pool.figures for origin, pool in self._pools.items()}

    async def send(self, request: HttpRequest) -> Reply[Message]:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for a target or header that can't be written (no connection has been taken
        then); `RuntimeError` in another loop, or after `aclose`. Cancelled, the exchange is aborted at once.
        """
        head = request_head(request)
        pool = self._pool(request.origin)
        connection = pool.reuse()
        if connection is not None:
            try:
                return await connection.exchange(request, head)
            except HttpError:
                if not connection.stale or self._closed:
                    raise
                pool.stale_retries += 1
        connection = await pool.dial(request.timeouts.connect)
        return await connection.exchange(request, head)

    async def aclose(self) -> None:
        """End every connection and wait until they are gone. May be called twice."""
        self._closed = True
        for pool in tuple(self._pools.values()):
            await pool.aclose()

    def _pool(self, origin: Origin) -> Pool:
        if asyncio.get_running_loop() is not self._common.loop:
            raise RuntimeError("an engine belongs to the event loop that it was made in")
        if self._closed:
            raise RuntimeError("the engine is closed")
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin, self._limits, self._common)
        return pool
