"""One connection to a Redis or Valkey server: calls are sent together, and their replies arrive in the same order.

redis-py takes a lock, a connection from a pool and a timer for each call, which costs three times as much as the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

import hiredis

from bud_asgi.limits.redis.errors import CallFailed, ServerError

MAX_REPLY = 16 << 20
"""The most bytes of a reply that is not complete yet; ours have a few hundred."""

_LATE = 0.005  # seconds; if a timer is later than that, replies are read first
_NOTHING: Final = object()


class Channel(asyncio.Protocol):
    """A connection. One timer watches the oldest call: the replies arrive in order, so none can be later than its own.

    `silence` is how many seconds a call may stay unanswered, long after its caller has given up, before the connection
    is closed. `closed` is set to the reason.
    """

    __slots__ = (
        "_flushing",
        "_last",
        "_looked_again",
        "_loop",
        "_pending",
        "_reader",
        "_silence",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "closed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, silence: float) -> None:
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._silence = silence
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=_NOTHING)
        self._pending: deque[tuple[asyncio.Future[object], float]] = deque()  # with the time when the caller gives up
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._flushing = self._looked_again = False
        self._last = loop.time()

    def send(self, command: bytes, deadline: float) -> asyncio.Future[object]:
        """Send a packed command. The reply, a `ServerError` or a `CallFailed` becomes the result of the future.

        While an older call is overdue, it fails at once.
        """
        reply: asyncio.Future[object] = self._loop.create_future()
        if self.closed.done():
            reply.set_result(CallFailed(self.closed.result(), sent=False))
            return reply
        pending = self._pending
        if pending and pending[0][1] <= self._loop.time():
            reply.set_result(CallFailed("an earlier call has not been answered in time", sent=False))
            return reply
        pending.append((reply, deadline))
        self._unsent.append(command)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._timer is None:
            self._set_timer(deadline)
        elif deadline < self._timer_at:  # a call that is sent again
            self._timer.cancel()
            self._set_timer(deadline)
        return reply

    def close(self, reason: str) -> None:
        """Close the connection at once; calls without a reply fail. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(reason)
        while self._pending:
            _resolve(self._pending.popleft()[0], CallFailed(reason, sent=True))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Match replies to calls. Late ones are dropped: their callers have gone."""
        self._last = self._loop.time()
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := cast("object", reader.gets())) is not _NOTHING:
                if not pending:
                    self.close("the server sent an unrequested reply")
                    return
                _resolve(pending.popleft()[0], reply)
        except hiredis.HiredisError:
            self.close("the server sent what is not in the Redis protocol")
            return
        if reader.has_data() and reader.len() > MAX_REPLY:
            self.close("the server sent a reply that is too large")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls that wait."""
        self.close("the connection was lost")

    def _flush(self) -> None:
        self._flushing = False
        commands, self._unsent = self._unsent, []
        if self._transport is not None and not self.closed.done():
            self._transport.write(b"".join(commands))

    def _set_timer(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._on_timer)
        self._timer_at = when  # uvloop's handle does not know it if that is now

    def _on_timer(self) -> None:
        """Fail the calls that are overdue, and close a connection that is silent.

        If the loop was busy for long, replies may have arrived, and some loops run timers before they read.
        """
        self._timer = None
        now = self._loop.time()
        if not self._pending:
            return
        if now > self._timer_at + _LATE and not self._looked_again:
            self._looked_again = True
            self._set_timer(now + 0.001)
            return
        self._looked_again = False
        for reply, deadline in self._pending:
            if deadline <= now:
                _resolve(reply, CallFailed("no reply in time", sent=True))
        oldest = self._pending[0][1]
        if oldest <= now:
            silent_at = max(self._last, oldest) + self._silence
            if silent_at <= now:
                self.close(f"no reply for {self._silence:g} s")
                return
            waiting = [deadline for reply, deadline in self._pending if not reply.done()]
            oldest = min([silent_at, *waiting])
        self._set_timer(oldest)


def _resolve(reply: asyncio.Future[object], result: object) -> None:
    if not reply.done():
        reply.set_result(result)
