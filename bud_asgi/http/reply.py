"""The engines' `HttpReply`: one record of a reply, filled while it is received, and read meanwhile."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol, Self

from bud_asgi.http.seam import Header
from bud_asgi.timeouts import Timeouts

READ_AHEAD = 256 << 10
"""Bytes of memory that are buffered for the reader before the connection stops reading."""


class ReplySource(Protocol):
    """What a reply needs of its connection."""

    def resume_reading(self) -> None:
        """Resume reading from the peer: the reader has taken what was buffered."""
        ...

    def abort(self, reply: object) -> None:
        """Close the connection at once, unless it has already finished with this reply."""
        ...


class Reply:
    """An `HttpReply`; made when its request is sent, returned to the caller when its head has arrived.

    The source fills it and then calls `wake`: `status` and `headers`, complete once `has_head` is true; `chunks`, the
    body that the reader has not taken, of at most `buffered` bytes of memory; at the end either `done`, the whole reply
    has been received, or `error`, why nothing more will be. `last_read_at` is when something arrived. Only one reader
    may wait at a time.
    """

    __slots__ = (
        "_loop",
        "_source",
        "_wait_until",
        "_waiter",
        "buffered",
        "chunks",
        "done",
        "error",
        "has_head",
        "headers",
        "last_read_at",
        "status",
        "timeouts",
    )

    def __init__(self, source: ReplySource, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.has_head = self.done = False
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.error: Exception | None = None
        self.timeouts = timeouts
        self.last_read_at = 0.0
        self._source = source
        self._loop = loop
        self._waiter: asyncio.Future[bool] | None = None
        self._wait_until = inf

    def take(self) -> bytes:
        """Remove and return the buffered body; `b""` if there is none."""
        chunks = self.chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        full = self.buffered >= READ_AHEAD
        self.buffered = 0
        if full and not self.done:
            self._source.resume_reading()
        return data

    async def more(self, within: float = inf) -> bytes | None:
        """Return the next bytes of the body, `b""` at its end, or `None` if none came within `within` seconds.

        `None` is late by at most one tick of the clock. Raises `HttpError` once everything received before the failure
        has been returned. If cancelled, nothing is lost.
        """
        data = self.take()
        if data or self.done:
            return data
        self._wait_until = self._loop.time() + within
        while self.error is None:
            timely = await self._next_wake()
            data = self.take()
            if data or self.done:
                return data
            if not timely and self.error is None:
                return None
        raise self.error

    def close(self) -> None:
        """End the exchange: unless the reply is done, its connection is closed at once. May be called twice."""
        if not self.done:
            self._source.abort(self)

    async def head(self) -> Self:
        """Wait for the final head and return the reply. Raises `HttpError`; then, or if cancelled, it is closed."""
        try:
            while not self.has_head:
                if self.error is not None:
                    raise self.error  # noqa: TRY301 - closes the reply, as a cancellation does
                await self._next_wake()
        except BaseException:
            self.close()
            raise
        return self

    def wake(self, *, timely: bool = True) -> None:
        """Wake the waiting reader, if any: something has arrived or, if not `timely`, its `within` has elapsed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(timely)

    def check_deadlines(self, now: float) -> bool:
        """Wake a reader whose `within` has elapsed; return whether it has waited longer than `silence`.

        Only a waiting reader can time out: without one, it is not the peer that is waited for.
        """
        if self._waiter is None or self._waiter.done():
            return False
        if now >= self._wait_until:
            self.wake(timely=False)
        return now - self.last_read_at >= self.timeouts.silence

    def _next_wake(self) -> asyncio.Future[bool]:
        """Return what the next wake resolves: to `False` if that is because `within` has elapsed."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("a reply can have only one reader: another call is already waiting")
        waiter = self._waiter = self._loop.create_future()
        return waiter
