"""The connections to one origin: which one serves next, and which may serve no more."""

from __future__ import annotations

import asyncio
import socket

import msgspec

from bud_asgi.http.connection import Common, Connection
from bud_asgi.http.dial import dial
from bud_asgi.http.seam import HttpError, Origin


class PoolLimits(msgspec.Struct, frozen=True):
    """How many connections to one origin are kept, and how long.

    `keep_alive`: seconds that one may be idle; below the upstream's own, or it closes first, under a request.
    `max_age`: seconds after which one serves no more, so that a changed DNS record is noticed. `max_idle`: the longest
    idle go first past it. `max_open`: past it a request fails at once with `connect`; `None` for no cap.
    """

    keep_alive: float = 55.0
    max_age: float = 300.0
    max_idle: int = 100
    max_open: int | None = None


class PoolStats(msgspec.Struct, frozen=True):
    """How the connections to one origin are doing.

    `open`: up now, the idle ones included. `idle`: waiting for a request. Since the engine was made, `reused`: requests
    that went out on a connection that had served before; `stale_retries`: those of them that met one which its peer
    had left, and were sent once more.
    """

    open: int
    idle: int
    reused: int
    stale_retries: int


class Pool:
    """The connections to one origin. Last used first: the rest grow old and are closed."""

    __slots__ = (
        "_closed",
        "_common",
        "_dialling",
        "_empty",
        "_idle",
        "_limits",
        "_open",
        "_origin",
        "_reused",
        "stale_retries",
    )

    def __init__(self, origin: Origin, limits: PoolLimits, common: Common) -> None:
        self._origin = origin
        self._limits = limits
        self._common = common
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._dialling = 0
        self._reused = 0
        self.stale_retries = 0
        self._closed = False
        self._empty = asyncio.Event()

    @property
    def open(self) -> int:
        """How many connections are up, the idle ones included."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        return len(self._idle)

    @property
    def figures(self) -> PoolStats:
        """How they are doing at this moment."""
        return PoolStats(len(self._open), len(self._idle), self._reused, self.stale_retries)

    def reuse(self) -> Connection | None:
        """A connection that has served and may serve again, if there is one."""
        now = self._common.loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.fit(now):
                self._reused += 1
                return connection
            connection.fail("reset", "no longer fit for use")
        return None

    async def dial(self, within: float) -> Connection:
        """A new connection, up within so many seconds.

        Raises `HttpError` of kind `connect` or `tls`. Cancelled, nothing stays open.
        """
        cap = self._limits.max_open
        if cap is not None and len(self._open) + self._dialling >= cap:
            raise HttpError("connect", f"{self._origin.host}: {cap} connections are in use, no more are allowed")
        made: list[Connection] = []

        def make(connected: socket.socket) -> Connection:
            made.append(Connection(self._common, self, connected))
            return made[-1]

        self._dialling += 1
        try:
            connection = await dial(self._origin, make, within)
        except BaseException:
            for unfinished in made:
                unfinished.disown()
            raise
        finally:
            self._dialling -= 1
        if self._closed:
            connection.fail("reset", "the engine was closed")
            raise HttpError("connect", "the engine was closed while connecting")
        return connection

    async def aclose(self) -> None:
        """End every connection and wait until the transports are gone. May be called twice."""
        self._closed = True
        for connection in tuple(self._open):
            connection.fail("reset", "the engine was closed")
        while self._open:
            self._empty.clear()
            await self._empty.wait()

    # Told by the connections.

    def opened(self, connection: Connection) -> None:
        """Its transport is up."""
        self._open.add(connection)

    def give_back(self, connection: Connection) -> None:
        """It is idle and fit to serve again."""
        limits = self._limits
        until = min(self._common.loop.time() + limits.keep_alive, connection.opened_at + limits.max_age)
        connection.rest(until)
        self._idle.append(connection)
        if len(self._idle) > limits.max_idle:
            self._idle[0].fail("reset", "too many are idle")

    def drop(self, connection: Connection) -> None:
        """It must not serve again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """Its transport is gone."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
