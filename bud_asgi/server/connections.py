"""All connections of one server: how many there are, and one clock for their deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol, cast

from starlette.types import ASGIApp, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from bud_asgi.clock import Clock
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.server.concurrency import ConcurrencyLimit
from bud_asgi.server.cycle import Cycle
from bud_asgi.server.head import render_lines
from bud_asgi.server.limits import ServerLimits

READ_BUFFER = 256 << 10
"""Size in bytes of the read buffer that all connections of a server share: the most of a body in one read."""

_REPORT_EVERY = 10.0

_log = logging.getLogger("bud_asgi")


class Connection(Protocol):
    """What `Connections` needs of a connection."""

    deadline: float

    def send_held(self) -> None:
        """Send the head of a response whose body has not begun."""
        ...

    def on_deadline(self) -> None:
        """Do what is due."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Connections:
    """The open connections of a server, in one event loop.

    `now` is the loop's time at the last tick: deadlines are measured from it, so that no request reads a clock. `idle`
    are those that run no request, or linger after a refusal, with the time since when; the longest idle one is first.
    At the limit they make room for new ones, so that clients without a request cannot keep others out.
    """

    def __init__(
        self,
        limits: ServerLimits,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.limits = limits
        self.loop = loop
        self.received = bytearray(max(READ_BUFFER, limits.head))
        self.buffer = memoryview(self.received)
        self.head_buffer = self.buffer[: limits.head]
        self.now = loop.time()
        self.idle: dict[Connection, float] = {}
        self.asgi_version, self.root_path, self.app_state = config.asgi_version, config.root_path, app_state
        self._app = _with_limit(config, limits, self.count)
        self.state = state
        self._log_requests = logging.getLogger("uvicorn.access").hasHandlers()
        self._reset_context: bool = getattr(config, "reset_contextvars", False)  # since uvicorn 0.38
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self.default_lines = b""
        self._clock = Clock(loop, tick=limits.tick)
        self._open = cast("set[Connection]", state.connections)  # uvicorn calls their `shutdown`
        self._refused: Counter[int] = Counter()
        self._report_at = self.now

    def add(self, connection: Connection) -> bool:
        """Register a connection; return whether it is within the limit, perhaps in the place of an idle one."""
        if not self._open:
            self.now = self.loop.time()
            self._renew_lines()
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
        if longest_idle is not None and self.loop.time() - since >= self.limits.idle_grace:
            self.discard(longest_idle)
            longest_idle.abort()

    def discard(self, connection: Connection) -> None:
        """Unregister a connection that has been lost."""
        self._open.discard(connection)
        self.idle.pop(connection, None)
        if not self._open:
            self._clock.unwatch(self)
            self._report(self.loop.time())

    def count(self, error: GatewayError) -> None:
        """Count a request or a connection that was refused before it reached the app."""
        self._refused[error.status] += 1

    def start(self, cycle: Cycle, scope: Scope) -> None:
        """Run the app for a request, in a task of its own."""
        tasks = self.state.tasks
        running = cycle.run(self._app, scope, tasks, log=self._log_requests)
        task = self.loop.create_task(running, context=Context() if self._reset_context else None)
        if not task.done():
            cycle.task = task
            tasks.add(task)

    def _renew_lines(self) -> None:
        """Render the lines that all responses begin with. uvicorn lists them anew every second, for the date."""
        headers = self.state.default_headers
        if headers is not self._default_headers:
            self._default_headers, self.default_lines = headers, render_lines(headers)[0]

    def on_tick(self, now: float) -> None:
        """Let the connections whose deadline is over do what is due, and send the heads that are held."""
        self.now = now
        self._renew_lines()
        for connection in tuple(self._open):
            connection.send_held()
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


def _with_limit(config: Config, limits: ServerLimits, on_refusal: Callable[[GatewayError], None]) -> ASGIApp:
    """The app that a server runs, behind the limit of the factory or else that of uvicorn's `--limit-concurrency`."""
    app = cast("ASGIApp", config.loaded_app)  # pyright: ignore[reportUnknownMemberType] - uvicorn's
    limit = config.limit_concurrency if limits.concurrency is None else limits.concurrency
    return app if limit is None else ConcurrencyLimit(app, limit, on_refusal)
