"""A request in flight: cancelled when its client disconnects or the app drains, kept alive by pings meanwhile."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from types import TracebackType
from typing import Self

import msgspec
from starlette.types import Receive, Scope

from bud_asgi.budget import Upload
from bud_asgi.clock import Timing
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import ClientGone, GatewayError, RequestTimeout
from bud_asgi.response import Response

DISCONNECT = "bud_asgi.disconnect"
"""The ASGI extension of our own server: a function that takes a callback for when the client has disconnected."""

_log = logging.getLogger("bud_asgi")


class ActiveRequest(msgspec.Struct, eq=False):
    """One request in flight, registered once: for drains, disconnects and pings.

    As a context manager it can be aborted from another task. It works like `asyncio.timeout`: the task within is
    cancelled, and the cancellation becomes the error at the edge of the block; any other cancellation travels on.
    Blocks may be nested, in tasks of their own: an abort ends the innermost.
    """

    exchange: Exchange
    response: Response
    _timing: Timing
    _loop: asyncio.AbstractEventLoop
    aborted_by: GatewayError | None = None
    _blocks: list[tuple[asyncio.Task[object], int]] = []
    _delivered: bool = False
    _watch_at: float = inf
    _receive: Receive | None = None
    _is_read: bool = True
    _watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("an ASGI app must run in a task")
        self._blocks.append((task, task.cancelling()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch_at = inf
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # the cancelled task refers to this record by its traceback
        task, cancelling = self._blocks.pop()
        if self.aborted_by is None or self._delivered:
            return
        self._delivered = True
        if task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError):
            raise self.aborted_by from error

    def watch_disconnect(self, scope: Scope, receive: Receive, *, is_read: bool = True) -> None:
        """Abort with `ClientGone` when the client disconnects. Calling it again changes nothing once it watches.

        Unless `is_read`, it calls `receive` only when the body has been read: until then, its reader sees a disconnect.
        Our own server calls back. No other server cancels an ASGI app whose client has disconnected, or raises in
        `send`: `receive` reports it. A task costs 25 µs and many requests are over by then, so it starts at a tick,
        `watch_after` seconds from now.
        """
        extensions = scope.get("extensions")
        if extensions and (call_back := extensions.get(DISCONNECT)) is not None:
            call_back(self._on_disconnect)
            return
        if self._watcher is None:
            self._receive, self._is_read = receive, is_read
            self._watch_at = self._loop.time() + self._timing.watch_after

    def _on_disconnect(self) -> None:
        self.abort(ClientGone("the client disconnected before it was answered"))

    def abort(self, error: GatewayError) -> None:
        """End the block by this error, from another task. Only the first call counts; none does outside the block."""
        if self.aborted_by is None and self._blocks:
            self.aborted_by = error
            self._blocks[-1][0].cancel()

    def on_tick(self, now: float) -> None:
        """Do what it is time for: end a stalled upload or download, watch for a disconnect, send a ping."""
        upload = self.exchange.upload
        if upload.waiting_since is not None:
            self._check_upload(upload, now)
        if now - self.response.sending_since >= self._timing.silence:
            self.abort(ClientGone("the client stopped reading its response"))
        if now >= self._watch_at and self._receive is not None and (self._is_read or upload.complete):
            self._watch_at = inf
            self._watcher = self._loop.create_task(self._wait_for_disconnect(self._receive), name="bud_asgi disconnect")
        self.response.on_tick(now)

    def _check_upload(self, upload: Upload, now: float) -> None:
        timing = self._timing
        began = upload.began_at = upload.began_at or now
        waiting_since = upload.waiting_since = upload.waiting_since or now
        if now - waiting_since >= timing.body_silence:
            self.abort(RequestTimeout(f"The request body stalled for {timing.body_silence:g} seconds."))
        elif now - began >= timing.body_within:
            self.abort(RequestTimeout(f"The request body was not complete within {timing.body_within:g} seconds."))

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001 - the end of a task: it reports, and the client can't be reached behind it
            _log.warning("the server failed to report whether the client is connected", exc_info=True)
        self._on_disconnect()
