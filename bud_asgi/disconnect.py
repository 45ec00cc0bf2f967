"""A request in flight: cancelled when its client disconnects or the app drains, kept alive by pings meanwhile."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from types import TracebackType
from typing import Self

from starlette.types import Receive

from bud_asgi.clock import Timing
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import ClientGone, GatewayError
from bud_asgi.response import Response

_log = logging.getLogger("bud_asgi")


class ActiveRequest:
    """One request in flight, registered once: for drains, disconnects and pings.

    As a context manager it can be aborted from another task. It works like `asyncio.timeout`: the task within is
    cancelled, and the cancellation becomes the error at the edge of the block; any other cancellation travels on.
    """

    __slots__ = (
        "_cancelling",
        "_receive",
        "_task",
        "_timing",
        "_watch_at",
        "_watcher",
        "aborted_by",
        "exchange",
        "response",
    )

    def __init__(self, exchange: Exchange, response: Response, timing: Timing) -> None:
        self.exchange = exchange
        self.response = response
        self.aborted_by: GatewayError | None = None
        self._timing = timing
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._watch_at = inf
        self._receive: Receive | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an ASGI app must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch_at = inf
        self._receive = None
        if self._watcher is not None:
            self._watcher.cancel()
        task, self._task = self._task, None
        if self.aborted_by is None or task is None:
            return
        if task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise self.aborted_by from error

    def watch_disconnect(self, receive: Receive) -> None:
        """Abort with `ClientGone` when the client disconnects. The body must have been read.

        No server cancels an ASGI app whose client has disconnected, or raises in `send`: `receive` reports it. A task
        costs 25 µs and many requests are over by then, so it starts at a tick, `watch_after` seconds from now.
        """
        self._receive = receive
        self._watch_at = asyncio.get_running_loop().time() + self._timing.watch_after

    def abort(self, error: GatewayError) -> None:
        """End the block by this error, from another task. Only the first call counts; none does outside the block."""
        if self.aborted_by is None and self._task is not None:
            self.aborted_by = error
            self._task.cancel()

    def on_tick(self, now: float) -> None:
        """Start to watch for a disconnect, and send a ping, where it is time."""
        if now >= self._watch_at and self._receive is not None:
            self._watch_at = inf
            self._watcher = asyncio.get_running_loop().create_task(
                self._wait_for_disconnect(self._receive), name="bud_asgi disconnect"
            )
        self.response.on_tick(now)

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001 - the end of a task: it reports, and the client can't be reached behind it
            _log.warning("the server failed to report whether the client is connected", exc_info=True)
        self.abort(ClientGone("the client disconnected before it was answered"))
