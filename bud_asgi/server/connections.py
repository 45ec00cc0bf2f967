"""All connections of one server: how many there are, and one clock for their deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, cast
from weakref import WeakKeyDictionary

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from bud_asgi.clock import Clock
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.server.concurrency import ConcurrencyLimit
from bud_asgi.server.connection import ServerConnection
from bud_asgi.server.limits import ServerLimits

_REPORT_EVERY = 10.0

_log = logging.getLogger("bud_asgi")


class Connections:
    """The open connections of a server, in one event loop.

    `now` is the loop's time at the last tick: deadlines are measured from it, so that no request reads a clock. `idle`
    are those that run no request, or linger after a refusal, with the time since when; the longest idle one is first.
    At the limit they make room for new ones, so that clients without a request cannot keep others out.
    """

    def __init__(self, limits: ServerLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.now = loop.time()
        self.idle: dict[ServerConnection, float] = {}
        self._loop = loop
        self._clock = Clock(loop, tick=limits.tick)
        self._open: set[ServerConnection] = set()
        self._refused: Counter[int] = Counter()
        self._report_at = self.now

    def add(self, connection: ServerConnection) -> bool:
        """Register a connection; return whether it is within the limit, perhaps in the place of an idle one."""
        if not self._open:
            self.now = self._loop.time()
            self._clock.watch(self)
        limit = self.limits.connections
        if limit is not None and len(self._open) >= limit:
            self._make_room()
        self._open.add(connection)
        self.idle[connection] = self.now
        return limit is None or len(self._open) <= limit

    @property
    def may_answer_more(self) -> bool:
        """Whether a connection beyond the limit gets an answer. Each one that lingers to be read holds a descriptor."""
        limit = self.limits.connections
        return limit is None or len(self._open) <= limit + limit // 4 + 16

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, unless its request may just be arriving."""
        longest_idle, since = next(iter(self.idle.items()), (None, 0.0))
        if longest_idle is not None and self._loop.time() - since >= self.limits.idle_grace:
            self.discard(longest_idle)
            longest_idle.abort()

    def discard(self, connection: ServerConnection) -> None:
        """Unregister a connection that has been lost."""
        self._open.discard(connection)
        self.idle.pop(connection, None)
        if not self._open:
            self._clock.unwatch(self)
            self._report(self._loop.time())

    def count(self, error: GatewayError) -> None:
        """Count a request or a connection that was refused before it reached the app."""
        self._refused[error.status] += 1

    def on_tick(self, now: float) -> None:
        """Let the connections whose deadline is over do what is due."""
        self.now = now
        for connection in tuple(self._open):
            if now >= connection.deadline:
                connection.on_deadline()
        self._report(now)

    def _report(self, now: float) -> None:
        """Log what was refused: one line in ten seconds, however many clients there were."""
        if self._refused and now >= self._report_at:
            self._report_at = now + _REPORT_EVERY
            counts = ", ".join(f"{count} with {status}" for status, count in sorted(self._refused.items()))
            _log.warning("refused requests before they reached the app: %s", counts)
            self._refused.clear()


class ConnectionFactory:
    """Makes the protocol of each connection, as `http=` of `uvicorn.Config`. The limits are those of each server."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._servers: WeakKeyDictionary[ServerState, tuple[Connections, ASGIApp]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[ConnectionFactory], tuple[ServerLimits]]:
        """Workers get a factory with the same limits."""
        return ConnectionFactory, (self._limits,)

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ServerConnection:
        """Make the protocol of one connection. The arguments are uvicorn's."""
        loop = _loop or asyncio.get_running_loop()
        server = self._servers.get(server_state)
        if server is None:
            server = self._servers[server_state] = self._new_server(config, loop)
        connection = ServerConnection(config, server_state, app_state, loop, register=server[0])
        connection.app = server[1]  # pyright: ignore[reportAttributeAccessIssue] - uvicorn has a type of its own
        return connection

    def _new_server(self, config: Config, loop: asyncio.AbstractEventLoop) -> tuple[Connections, ASGIApp]:
        connections = Connections(self._limits, loop)
        app = cast("ASGIApp", config.loaded_app)  # pyright: ignore[reportUnknownMemberType] - uvicorn's
        if self._limits.concurrency is not None:
            app = ConcurrencyLimit(app, self._limits.concurrency, connections.count)
        return connections, app
