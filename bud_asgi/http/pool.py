"""The connection pool of one origin: which connection serves the next request, and which are closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from bud_asgi.http.connection import Connection, LoopState
from bud_asgi.http.dial import dial
from bud_asgi.http.seam import HttpError, Origin
from bud_asgi.options import check_integer, check_seconds


class PoolLimits(msgspec.Struct, frozen=True):
    """How many connections to one origin are kept, and for how long.

    `keep_alive`: seconds that a connection may be idle; keep it below the upstream's idle timeout, or the upstream may
    close while a request is being sent. `max_age`: seconds after which a connection takes no new requests, so that DNS
    changes are picked up. `max_idle`: the number of idle connections; past it, those idle longest are closed.
    `max_open`: the number of open connections; past it, a request fails at once with an `HttpError` of kind `connect`;
    `None` for no limit. Raises `OptionError` for values out of range.
    """

    keep_alive: float = 55.0
    max_age: float = 300.0
    max_idle: int = 100
    max_open: int | None = None

    def __post_init__(self) -> None:
        check_seconds("keep_alive", self.keep_alive)
        check_seconds("max_age", self.max_age)
        check_integer("max_idle", self.max_idle, "a whole number, at least 0", minimum=0)
        if self.max_open is not None:
            check_integer("max_open", self.max_open, "a whole number, at least 1, or None")


class PoolStats(msgspec.Struct, frozen=True):
    """The connections to one origin, in numbers.

    `open`: open now, including idle ones. `idle`: idle now. Since the engine was made: `reused`, the requests sent on
    a connection that had served before; `stale_retries`, those of them that found it closed by the peer and were sent
    once more.
    """

    open: int
    idle: int
    reused: int
    stale_retries: int


@runtime_checkable
class ReportsPools(Protocol):
    """An HTTP client that can report its connections."""

    def pool_stats(self) -> Mapping[Origin, PoolStats]:
        """Return the connection counts of every origin that a request has been sent to."""
        ...


class Pool:
    """The connections to one origin. The last used is reused first, so that surplus ones expire."""

    __slots__ = (
        "_closed",
        "_dialling",
        "_empty",
        "_idle",
        "_limits",
        "_loop_state",
        "_open",
        "_origin",
        "_reused",
        "stale_retries",
    )

    def __init__(self, origin: Origin, limits: PoolLimits, loop_state: LoopState) -> None:
        self._origin = origin
        self._limits = limits
        self._loop_state = loop_state
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._dialling = 0
        self._reused = 0
        self.stale_retries = 0
        self._closed = False
        self._empty = asyncio.Event()

    @property
    def open(self) -> int:
        """Number of open connections, including idle ones."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return len(self._idle)

    @property
    def stats(self) -> PoolStats:
        """The current counts."""
        return PoolStats(len(self._open), len(self._idle), self._reused, self.stale_retries)

    def reuse(self) -> Connection | None:
        """Take an idle connection that is still usable, if there is one."""
        now = self._loop_state.loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable(now):
                self._reused += 1
                return connection
            connection.fail("reset", "the idle connection can no longer be used")
        return None

    async def dial(self, timeout: float) -> Connection:
        """Open a new connection within `timeout` seconds.

        Raises `HttpError` of kind `connect` or `tls`. If cancelled, nothing stays open.
        """
        cap = self._limits.max_open
        if cap is not None and len(self._open) + self._dialling >= cap:
            raise HttpError(
                "connect", f"{self._origin.host}: the limit of {cap} open connections (max_open) is reached"
            )
        made: list[Connection] = []

        def make(connected: socket.socket) -> Connection:
            made.append(Connection(self._loop_state, self, connected))
            return made[-1]

        self._dialling += 1
        try:
            connection = await dial(self._origin, make, timeout)
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
        """Abort every connection and wait until all are closed. May be called twice."""
        self._closed = True
        for connection in tuple(self._open):
            connection.fail("reset", "the engine was closed")
        while self._open:
            self._empty.clear()
            await self._empty.wait()

    # Called by the connections.

    def opened(self, connection: Connection) -> None:
        """Add a connection whose transport is open."""
        self._open.add(connection)

    def give_back(self, connection: Connection) -> None:
        """Take back a connection that is idle and reusable."""
        limits = self._limits
        now = self._loop_state.loop.time()
        connection.idle_until = min(now + limits.keep_alive, connection.opened_at + limits.max_age)
        self._idle.append(connection)
        if len(self._idle) > limits.max_idle:
            self._idle[0].fail("reset", "too many idle connections")

    def drop(self, connection: Connection) -> None:
        """Stop offering a connection for reuse."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """Remove a connection whose transport is closed."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
