"""The client's side of an exchange: the only caller of ASGI's `send`, the only one to name an outcome.

A failure is a status while nothing has been sent, an `error` event while a stream is running, and nothing once the
response has ended. Pings belong here, so they go on for as long as any attempt does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from math import inf

from starlette.types import Message, Receive, Send

from bud_asgi.clock import DEFAULT_TIMING, Timing
from bud_asgi.exchange import Exchange
from bud_asgi.observer import NO_OBSERVERS, Observers
from bud_asgi.protocol.errors import (
    ClientGone,
    GatewayError,
    Outcome,
    ShuttingDown,
    error_body,
    error_headers,
    read_error,
)
from bud_asgi.protocol.sse import PING, STREAM_HEADERS, EventStream, StreamState, error_event
from bud_asgi.reading import discard_body
from bud_asgi.response_state import TRANSITIONS, Action, State

PIECE = 256 << 10
"""The most that is given to the server at once, in bytes."""

_log = logging.getLogger("bud_asgi")


# An attribute of an enumeration costs more than a name of the module.
_NEW, _STARTING, _STARTED, _ENDED = State


class Response:
    """Writes the response of one exchange. `answer_error` makes it the error boundary of the code around it.

    `stream` is the upstream's stream once its events are relayed: whether all of it has arrived decides how the
    exchange ended. `has_content` is true once a byte of an upstream's has been sent. `sending_since` is when the `send`
    began that the server has not accepted yet, on the loop's clock: the client does not read.

    With a `receive` an error also reaches a client that is still uploading: the rest of the body is discarded. `now` is
    the clock of the running loop. `observers` are notified of the head.
    """

    # Not a struct: its attributes are set several times for each event, which costs more there.
    __slots__ = (
        "_exchange",
        "_idle_since",
        "_ping",
        "_send",
        "_timing",
        "has_content",
        "now",
        "observers",
        "receive",
        "sending_since",
        "state",
        "stream",
    )

    def __init__(
        self,
        exchange: Exchange,
        send: Send,
        timing: Timing = DEFAULT_TIMING,
        *,
        receive: Receive | None = None,
        now: Callable[[], float] | None = None,
        observers: Observers = NO_OBSERVERS,
    ) -> None:
        self._exchange = exchange
        self._send = send
        self._timing = timing
        self.receive = receive
        self.now = now or asyncio.get_running_loop().time
        self.observers = observers
        self.state = _NEW
        self.stream: EventStream | None = None
        self.has_content = False
        self.sending_since = self._idle_since = inf
        self._ping: asyncio.Task[None] | None = None

    async def answer_error(self, error: BaseException) -> bool:
        """Answer the client after an error that nothing has handled; return `False` if it has to travel on.

        A `GatewayError` is answered as it is, any other exception is logged and answered as a 500. An `OSError` after
        the start is the server's report of a disconnect (ASGI, "HTTP"). A cancellation gets the final event of a
        running stream in the same step, because a server lets no later one out, and travels on.
        """
        if isinstance(error, asyncio.CancelledError):
            await self._cancelled()
            return False
        if not isinstance(error, Exception):
            return False
        if isinstance(error, OSError) and self.state is not _NEW:
            error = ClientGone("the client disconnected while it was being answered")  # raised by the server's `send`
        if not isinstance(error, GatewayError):
            _log.error("%s: the request failed", self._exchange.request_id, exc_info=error)
            error = GatewayError("Internal server error")
        try:
            await self.fail(error)
        except OSError:  # the server's report of a disconnect
            self._exchange.outcome = self._exchange.outcome or "client_gone"
        return True

    # What a stage, an operation or a relay does with it.

    def send_whole(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> Coroutine[object, object, None]:
        """Send a whole response of known length."""
        if self.state is not _NEW:
            self._move("send_whole")
        self.state = _ENDED
        return self._send_whole(status, headers, body, outcome="answered")

    async def start(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of a 200, unless pings have started the response already."""
        await self._finish_ping()
        if self.state is not _STARTED:
            await self._send_head(headers)

    async def write(self, chunk: bytes, *, pings: bool = True) -> None:
        """Send bytes of an upstream's. Without `pings` none may follow: they end inside an event, or end the stream."""
        if self.state is not _STARTED:
            self._move("write")
        if self._ping is not None:
            await self._finish_ping()
        self.has_content = True
        exchange, now = self._exchange, self.now()
        if exchange.writes and (gap := now - exchange.last_write) > exchange.longest_gap:
            exchange.longest_gap = gap
        exchange.writes, exchange.last_write = exchange.writes + 1, now
        if len(chunk) > PIECE:
            await self._send_pieces(chunk, more=True)
        else:
            self.sending_since = now
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self.sending_since = inf
        self._idle_since = now if pings else inf

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last bytes. Without `message_stop` the exchange counts as failed by the upstream."""
        await self._finish_ping()
        self._move("finish")
        exchange, stream = self._exchange, self.stream
        exchange.outcome = "answered" if stream is None or stream.state is StreamState.COMPLETE else "upstream_failed"
        if stream is not None and stream.error is not None and (error := read_error(stream.error)):
            exchange.error_type = error.type
        await self._send_body(chunk, more=False)

    def break_off(self) -> None:
        """Leave a response without its end: a JSON reply broke off that was too large to be held."""
        self._move("break_off")
        self._exchange.outcome = "upstream_failed"

    async def fail(self, error: GatewayError) -> None:
        """Answer with an error, in the form that the state allows: after the head of a ping that is being sent."""
        if self.state is _STARTING and not isinstance(error, ClientGone | ShuttingDown):
            await self._finish_ping()
        if self.state is _STARTED:
            await self._fail_stream(error)
            return
        sendable = self.state is _NEW
        self._move("fail")
        self._stop_pings()
        if not sendable:
            self._exchange.outcome = self._exchange.outcome or _outcome_of_started(error)
            return
        self._exchange.outcome = error.outcome
        await self._send_refusal(error)

    def closing_event(self, error: GatewayError) -> bytes:
        """The bytes that end a running stream by an error; none if it has reached its own end, or is not running."""
        if self.state is not _STARTED or (self.stream is not None and self.stream.ended):
            return b""
        event = error_event(error_body(error, self._exchange.request_id))
        # Inside an event too large to be held, its line is ended: the last name of an event counts.
        return b"\n" + event if self.stream is not None and self.stream.partial else event

    # Pings.

    def enable_pings(self) -> None:
        """Keep a streaming response alive from now on, whatever its upstreams do."""
        self._idle_since = self.now()

    def on_tick(self, now: float) -> None:
        """Send a ping where nothing has been sent for long enough, and nothing is being sent."""
        if now - self._idle_since >= self._timing.ping_after and self.sending_since == inf:
            self._idle_since = inf
            self._ping = asyncio.get_running_loop().create_task(self._send_ping(), name="bud_asgi ping")

    async def _send_ping(self) -> None:
        if self.state is _NEW:
            await self._send_head(STREAM_HEADERS)
        await self._deliver({"type": "http.response.body", "body": PING, "more_body": True})
        self._idle_since = self.now()

    async def _finish_ping(self) -> None:
        """Stop pings, and wait for the one that is being sent. Raises what sending it raised."""
        self._idle_since = inf
        ping = self._ping
        if ping is None:
            return
        try:
            await asyncio.wait({ping})
        finally:
            ping.cancel()
        self._ping = None
        self._idle_since = inf
        ping.result()

    def _stop_pings(self) -> None:
        """Stop pings without waiting: a client that does not read may block one for ever."""
        self._idle_since = inf
        ping, self._ping = self._ping, None
        if ping is not None and not ping.cancel() and not ping.cancelled():
            ping.exception()  # retrieved, or asyncio would log it as never retrieved

    # A stack of middleware that is not ours, around the gateway.

    async def forward(self, message: Message) -> None:
        """An ASGI `send` for such a stack: passes everything on, and notes what a middleware answers by itself."""
        if self.state is _NEW:
            self.state = _ENDED
        exchange = self._exchange
        if message["type"] == "http.response.start":
            if exchange.status is None:
                exchange.status, exchange.committed = message["status"], time.monotonic()
            self._notify_started()
        await self._send(message)
        if exchange.outcome is None and message["type"] == "http.response.body" and not message.get("more_body", False):
            exchange.outcome = "refused" if (exchange.status or 0) >= 400 else "answered"

    # Sending.

    def _move(self, action: Action) -> None:
        following = TRANSITIONS[self.state].get(action)
        if following is None:
            raise RuntimeError(f"a response that is {self.state.value} cannot {action}")
        self.state = following

    async def _deliver(self, message: Message) -> None:
        self.sending_since = self.now()
        await self._send(message)
        self.sending_since = inf

    def _send_body(self, body: bytes, *, more: bool) -> Coroutine[object, object, None]:
        """Send in pieces: one that is accepted shows that the client reads."""
        if len(body) <= PIECE:
            return self._deliver({"type": "http.response.body", "body": body, "more_body": more})
        return self._send_pieces(body, more=more)

    async def _send_pieces(self, body: bytes, *, more: bool) -> None:
        for start in range(0, len(body), PIECE):
            piece, is_last = body[start : start + PIECE], start + PIECE >= len(body)
            await self._deliver({"type": "http.response.body", "body": piece, "more_body": more or not is_last})

    async def _send_head(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._move("start")
        await self._deliver(self._head(200, headers))
        if self.state is _STARTING:
            self._move("started")

    async def _send_whole(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        outcome: Outcome | None = None,
        more: bool = False,
    ) -> None:
        head = self._head(status, headers, len(body))
        if self._exchange.method == "HEAD":
            body = b""
        self.sending_since = self.now()
        await self._send(head)
        if len(body) > PIECE:
            await self._send_pieces(body, more=more)
        else:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self.sending_since = inf
        if outcome is not None:
            self._exchange.outcome = outcome

    async def _send_refusal(self, error: GatewayError) -> None:
        """Send an error as a whole response, and close the connection while the client is still uploading."""
        exchange, receive = self._exchange, self.receive
        headers = [(b"content-type", b"application/json"), *error_headers(error)]
        body = b"" if isinstance(error, ClientGone) else error_body(error, exchange.request_id)
        if body:
            self._exchange.error_type = error.type
        unread = exchange.body_unread and not isinstance(error, ClientGone)
        expects = exchange.headers.get(b"expect", b"").lower() == b"100-continue"  # to read on would ask for the body
        if expects or (isinstance(error, ShuttingDown) and exchange.upload.began):  # a drain does not wait
            receive = None
        elif unread and receive is not None:
            unread = not await discard_body(receive, exchange.headers, within=0.0)
        if not exchange.uses_connection_header:
            headers = [line for line in headers if line[0] != b"connection"]
        elif unread or isinstance(error, ShuttingDown):
            headers.append((b"connection", b"close"))
        if not unread or receive is None:
            await self._send_whole(error.status, headers, body)
            return
        await self._send_whole(error.status, headers, body, more=True)
        timing = self._timing
        try:  # to close a connection with unread bytes resets it, and the client could lose the answer
            within, silence = timing.discard_within, timing.discard_silence
            await discard_body(receive, exchange.headers, within=within, silence=silence)
        finally:
            await self._send_body(b"", more=False)

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]], length: int | None = None) -> Message:
        """The head: the given headers, what the stages added, and our `request-id`. `length` is that of the body."""
        exchange = self._exchange
        exchange.status, exchange.committed = status, time.monotonic()
        if self.observers.response_started:
            self._notify_started()
        lines = [*headers, *exchange.reply_headers, (b"request-id", exchange.request_id.encode())]
        if length is not None:
            lines.append((b"content-length", b"%d" % length))
        if exchange.attempts and exchange.attempts[-1].dropped:
            lines.append((b"bud-dropped", ", ".join(exchange.attempts[-1].dropped).encode("ascii", "replace")))
        if exchange.explain is not None:
            lines.append((b"bud-route", exchange.explain(exchange)))
        return {"type": "http.response.start", "status": status, "headers": lines}

    def _notify_started(self) -> None:
        if self.observers.response_started:
            self.observers.notify(self.observers.response_started, self._exchange)

    async def _fail_stream(self, error: GatewayError) -> None:
        """End a running stream by an error: what an upstream caused patiently, what ends the request quickly."""
        hurried = isinstance(error, ClientGone | ShuttingDown)
        if hurried:
            self._stop_pings()
        else:
            await self._finish_ping()
        closing = self.closing_event(error)
        self._exchange.outcome = self._outcome(error)
        if closing and not isinstance(error, ClientGone):
            self._exchange.error_type = error.type
        self._move("fail")
        if hurried:
            await self._send_closing(closing)
        else:
            await self._send_body(closing, more=False)

    async def _cancelled(self) -> None:
        """End a running stream in the step of a cancellation. If that fails, `FinalErrorEvent` may still do it."""
        error = ShuttingDown()
        self._stop_pings()
        if self.state is _STARTED:
            self._exchange.outcome = self._outcome(error)
            closing = self._exchange.unsent_event = self.closing_event(error)
            if closing:
                self._exchange.error_type = error.type
            await self._send_closing(closing)
            self._exchange.unsent_event = b""
        self._move("fail")

    async def _send_closing(self, closing: bytes) -> None:
        with suppress(OSError):  # a TimeoutError is one; a server may raise another for a client that has gone
            async with asyncio.timeout(self._timing.close_within):
                await self._send({"type": "http.response.body", "body": closing})

    def _outcome(self, error: GatewayError) -> Outcome:
        if self.stream is not None and self.stream.state is StreamState.COMPLETE:
            return "answered"
        return _outcome_of_started(error)


def _outcome_of_started(error: GatewayError) -> Outcome:
    """The outcome where the response has started: from then on, what would have been a refusal is a cancellation."""
    return "cancelled" if error.outcome == "refused" else error.outcome
