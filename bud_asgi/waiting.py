"""The time before an upstream's head: past fifteen seconds of it a stream is begun, and kept alive by pings."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from bud_asgi.clock import Clock
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import GatewayError, error_body
from bud_asgi.protocol.sse import PING, STREAM_HEADERS, error_event

PING_AFTER = 15.0
"""Seconds of silence after which a stream gets a ping of ours."""


class Waiting:
    """Watches how long a streaming request waits for an upstream, whichever is asked.

    Once the response is begun, whatever fails is told by an `error` event. Its owner calls `over` before it writes
    anything, and on every path out; when it is cancelled, `give_up` first.
    """

    def __init__(self, exchange: Exchange, send: Send, clock: Clock) -> None:
        self._exchange = exchange
        self._send = send
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + PING_AFTER
        self._writing: asyncio.Task[None] | None = None
        clock.watch(self)

    def on_tick(self, now: float) -> None:
        """Write a ping if it is time, unless the one before is still on its way, or could not be written."""
        if now >= self._due and (self._writing is None or (self._writing.done() and not self._writing.exception())):
            self._due = now + PING_AFTER
            self._writing = self._loop.create_task(self._write())

    async def over(self) -> None:
        """No more pings: what is being written is awaited. Raises what writing raised."""
        self._clock.unwatch(self)
        if self._writing is None:
            return
        try:
            await asyncio.wait({self._writing})
        finally:
            self._writing.cancel()
        self._writing.result()

    def give_up(self) -> None:
        """No more pings, nor what is being written: who is cancelled can't wait for a client that does not read."""
        self._clock.unwatch(self)
        writing, self._writing = self._writing, None
        if writing is not None and not writing.cancel() and not writing.cancelled():
            writing.exception()  # looked at: nobody is told of it any more

    async def _write(self) -> None:
        exchange = self._exchange
        if exchange.committed is None:
            await exchange.start_response(self._send, 200, STREAM_HEADERS)
            exchange.unfinished = self._last_words
        await self._send({"type": "http.response.body", "body": PING, "more_body": True})

    def _last_words(self, error: GatewayError) -> bytes:
        return error_event(error_body(error, self._exchange.request_id))
