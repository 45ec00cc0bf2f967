"""The engine: the project's own `HttpClient`, HTTP/1.1 over llhttp, made for relaying."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bud_asgi.http.connection import LoopState
from bud_asgi.http.pool import Pool, PoolLimits, PoolStats
from bud_asgi.http.reply import Reply
from bud_asgi.http.seam import HttpError, HttpRequest, Origin, loop_for_engine
from bud_asgi.http.wire import request_head
from bud_asgi.options import check_type


class Engine:
    """An `HttpClient` for one event loop: create, use and close it in the same loop.

    It does not follow redirects, keep cookies, decompress bodies or read proxies from the environment. A request is
    sent once, with one exception: if a reused connection turns out to have been closed by the peer, the request is
    sent once more on a new connection (counted by `stale_retries`).
    """

    __slots__ = ("_closed", "_limits", "_loop_state", "_pools")

    def __init__(self, limits: PoolLimits | None = None) -> None:
        """Bind to the running loop; raises `RuntimeError` if there is none, `OptionError` for other `limits`."""
        if limits is not None:
            check_type("limits", limits, PoolLimits, "a PoolLimits")
        self._loop_state = LoopState(loop_for_engine())
        self._limits = limits or PoolLimits()
        self._pools: dict[Origin, Pool] = {}
        self._closed = False

    @property
    def open(self) -> int:
        """Number of open connections, including idle ones."""
        return sum(pool.open for pool in self._pools.values())

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return sum(pool.idle for pool in self._pools.values())

    @property
    def stale_retries(self) -> int:
        """Number of requests that were sent once more because the peer had closed their connection."""
        return sum(pool.stale_retries for pool in self._pools.values())

    def pool_stats(self) -> Mapping[Origin, PoolStats]:
        """Return the connection counts of every origin that a request has been sent to."""
        return {origin: pool.stats for origin, pool in tuple(self._pools.items())}

    async def send(self, request: HttpRequest) -> Reply:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for an invalid method, target or header (before a connection is used);
        `RuntimeError` in another loop, or after `aclose`. If cancelled, the exchange is aborted at once.
        """
        head = request_head(request)
        pool = self._pool(request.origin)
        connection = pool.reuse()
        if connection is not None:
            try:
                return await connection.start(request, head).head()
            except HttpError:
                if not connection.stale or self._closed:
                    raise
                pool.stale_retries += 1
        connection = await pool.dial(request.timeouts.connect)
        return await connection.start(request, head).head()

    async def forget(self, origin: Origin) -> None:
        """Close all connections to an origin, and wait until they are. A later request opens new ones."""
        pool = self._pools.pop(origin, None)
        if pool is not None:
            await pool.aclose()

    async def aclose(self) -> None:
        """Abort every connection and wait until all are closed. May be called twice."""
        self._closed = True
        for pool in tuple(self._pools.values()):
            await pool.aclose()

    def _pool(self, origin: Origin) -> Pool:
        if asyncio.get_running_loop() is not self._loop_state.loop:
            raise RuntimeError("an engine belongs to the event loop that it was made in")
        if self._closed:
            raise RuntimeError("the engine is closed")
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin, self._limits, self._loop_state)
        return pool
