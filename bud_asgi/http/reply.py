"""The engines' `HttpReply`: a reader's view of a reply that is still being received."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

from bud_asgi.http.seam import Header, Timeouts

READ_AHEAD = 256 << 10
"""Bytes of memory that are buffered for the reader before the connection stops reading."""


class Received(Protocol):
    """What has been received of a reply.

    `has_head`: the final head is available. `complete`: the whole reply is. `buffered`: bytes of memory held for the
    reader.
    """

    status: int
    headers: list[Header]
    has_head: bool
    complete: bool
    buffered: int

    def take(self) -> bytes:
        """Remove and return the buffered body; `b""` if there is none."""
        ...


class ReplySource(Protocol):
    """What a reply needs of its connection."""

    def resume_reading(self) -> None:
        """Resume reading from the peer: the reader has taken what was buffered."""
        ...

    def abort(self, reply: object) -> None:
        """Close the connection at once, unless it has already finished with this reply."""
        ...


R = TypeVar("R", bound=Received)


class Reply(Generic[R]):
    """An `HttpReply`; made when its request is sent, returned to the caller when its head has arrived.

    `received` is what has arrived, `error` why nothing more will. The source fills the first or sets the second, then
    calls `wake`. Only one reader may wait at a time.
    """

    __slots__ = (
        "_loop",
        "_source",
        "_wait_expired",
        "_wait_until",
        "_waiter",
        "error",
        "last_read_at",
        "received",
        "timeouts",
    )

    def __init__(self, source: ReplySource, received: R, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.received = received
        self.timeouts = timeouts
        self.error: Exception | None = None
        self.last_read_at = 0.0
        self._source = source
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._wait_until = inf
        self._wait_expired = False

    @property
    def status(self) -> int:
        """The final status code."""
        return self.received.status

    @property
    def headers(self) -> Sequence[Header]:
        """The header fields in their order, with lower-case names and unchanged values."""
        return self.received.headers

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received."""
        return self.received.complete

    def take(self) -> bytes:
        """Remove and return the buffered body; `b""` if there is none."""
        received = self.received
        if not received.buffered:
            return b""
        full = received.buffered >= READ_AHEAD
        data = received.take()
        if full:
            self._source.resume_reading()
        return data

    async def more(self, within: float = inf) -> bytes | None:
        """Return the next bytes of the body, `b""` at its end, or `None` if none came within `within` seconds.

        `None` is late by at most one tick of the clock. Raises `HttpError` once everything received before the failure
        has been returned. If cancelled, nothing is lost.
        """
        data = self.take()
        if data or self.received.complete:
            return data
        self._wait_until = self._loop.time() + within
        self._wait_expired = False
        while self.error is None and not self._wait_expired:
            await self._wait()
            data = self.take()
            if data or self.received.complete:
                return data
        if self.error is not None:
            raise self.error
        return None

    def close(self) -> None:
        """End the exchange: unless the reply is done, its connection is closed at once. May be called twice."""
        self._source.abort(self)

    async def head(self) -> None:
        """Wait for the final head. Raises `HttpError`; if cancelled, the caller must call `close()`."""
        while not self.received.has_head:
            if self.error is not None:
                raise self.error
            await self._wait()

    def wake(self) -> None:
        """Wake the waiting reader, if any: the head, body bytes, the end or an error has arrived."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def check_deadlines(self, now: float) -> bool:
        """Wake a reader whose `within` has elapsed; return whether it has waited longer than `silence`.

        Only a waiting reader can time out: without one, it is not the peer that is waited for.
        """
        if self._waiter is None:
            return False
        if now >= self._wait_until:
            self._wait_expired = True
            self.wake()
        return now - self.last_read_at >= self.timeouts.silence

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a reply can have only one reader: another call is already waiting")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
