"""The reply as its reader holds it: the `HttpReply` of the seam, over what has come and whoever brings it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

from bud_asgi.http.seam import Header, Timeouts

HOLD = 256 << 10
"""Bytes of memory that may wait for the reader before the connection stops reading."""


class Received(Protocol):
    """What has come of a reply so far: `headed` when its head is here, `complete` when all is; `held` bytes wait."""

    status: int
    headers: list[Header]
    headed: bool
    complete: bool
    held: int

    def take(self) -> bytes:
        """What is here of the body, and forget it; `b""` if nothing."""
        ...


class Bringer(Protocol):
    """What a reply needs of its connection."""

    def read_on(self) -> None:
        """The reader has taken what was here: read from the peer again."""
        ...

    def give_up(self, reply: object) -> None:
        """The reader of this reply wants no more: end the connection at once, unless it is no longer this reply's."""
        ...


R = TypeVar("R", bound=Received)


class Reply(Generic[R]):
    """An `HttpReply`; made when its request goes out, handed to the caller when its head is here.

    `message` is what has come, `error` why no more will. The connection feeds the one, sets the other, and wakes the
    reader; one reader at a time.
    """

    __slots__ = ("_bringer", "_loop", "_silent", "_waiter", "_wakes_at", "error", "heard_at", "message", "timeouts")

    def __init__(self, bringer: Bringer, message: R, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.timeouts = timeouts
        self.error: Exception | None = None
        self.heard_at = 0.0
        self._bringer = bringer
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._wakes_at = inf
        self._silent = False

    @property
    def status(self) -> int:
        """The final status."""
        return self.message.status

    @property
    def headers(self) -> Sequence[Header]:
        """Names in lower case, order kept, values as they came."""
        return self.message.headers

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received."""
        return self.message.complete

    def take(self) -> bytes:
        """What is here already, `b""` if nothing."""
        message = self.message
        if not message.held:
            return b""
        full = message.held >= HOLD
        data = message.take()
        if full:
            self._bringer.read_on()
        return data

    async def more(self, within: float = inf) -> bytes | None:
        """The next bytes; `b""` only at the true end; `None` after `within` seconds, late by at most one tick.

        Raises `HttpError` once all that came before it has been handed out. Cancelled, it loses nothing.
        """
        data = self.take()
        if data or self.message.complete:
            return data
        self._wakes_at = self._loop.time() + within
        self._silent = False
        while self.error is None and not self._silent:
            await self._wait()
            data = self.take()
            if data or self.message.complete:
                return data
        if self.error is not None:
            raise self.error
        return None

    def close(self) -> None:
        """End the exchange: unless done, the connection is gone at once. May be called twice."""
        self._bringer.give_up(self)

    async def head(self) -> None:
        """Wait for the final head. Raises `HttpError`; cancelled, the caller must `close()`."""
        while not self.message.headed:
            if self.error is not None:
                raise self.error
            await self._wait()

    def wake(self) -> None:
        """Something has come that the reader waits for: its head, some body, the end, an error."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def overdue(self, now: float) -> bool:
        """Whether its reader has waited for `silence` seconds; wakes one whose `within` is over.

        A reader that does not wait is not waiting for the peer: nothing runs out then.
        """
        if self._waiter is None:
            return False
        if now >= self._wakes_at:
            self._silent = True
            self.wake()
        return now - self.heard_at >= self.timeouts.silence

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a reply has one reader: another call is already waiting")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
