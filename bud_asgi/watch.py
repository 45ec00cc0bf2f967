"""The block in which a request is answered: ended early when its client leaves, or by a drain."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from starlette.types import Receive

from bud_asgi.clock import Clock
from bud_asgi.protocol.errors import ClientGone, GatewayError

_log = logging.getLogger("bud_asgi")

BEGINS_AFTER = 0.2
"""Seconds that an answer takes at least before its client is watched: many are over by then, and a task costs 25 µs."""


class ClientWatch:
    """Ends the block within it when the client leaves, by `ClientGone`, or by another error on `end`.

    No server cancels an ASGI app whose client has left, nor raises in `send`; `receive` is where it is told. The block
    is ended as `asyncio.timeout` ends one: its task is cancelled, and the cancellation becomes the error at the edge.
    A cancellation by anybody else travels on. The body must have been read; what `receive` says of it is passed over.
    Watching begins at a tick of `clock`.
    """

    __slots__ = ("_begins_at", "_cancelling", "_clock", "_loop", "_receive", "_task", "_waiter", "ended_by")

    def __init__(self, receive: Receive, clock: Clock) -> None:
        self._receive = receive
        self._clock = clock
        self.ended_by: GatewayError | None = None
        self._waiter: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an ASGI app must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._begins_at = self._loop.time() + BEGINS_AFTER
        self._clock.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.unwatch(self)
        if self._waiter is not None:
            self._waiter.cancel()
        if self.ended_by is None:
            return
        if self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise self.ended_by from error

    def end(self, error: GatewayError) -> None:
        """End the block by this error, from another task. Only the first call counts."""
        if self.ended_by is None:
            self.ended_by = error
            self._task.cancel()

    def on_tick(self, now: float) -> None:
        """Begin to watch, if it is time."""
        if now >= self._begins_at:
            self._clock.unwatch(self)
            self._waiter = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001 - the end of a task: it reports, and nobody can be reached behind this
            _log.warning("the server failed to say whether the client is there", exc_info=True)
        self.end(ClientGone("the client left before it was answered"))
