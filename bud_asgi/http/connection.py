"""One connection (RFC 9112, section 9): a request out, its reply in, one after the other and never two at once.

States: *idle* (no reply awaited: whatever arrives ends it), *busy* (`_reply` is being received, `_outgoing` is what is
left to write), *gone*. It leaves *busy* when the message is complete, by failing, or when its reader gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Iterator
from math import inf
from typing import Literal, Protocol, cast

from bud_asgi.clock import Clock
from bud_asgi.http.message import Message, MessageError
from bud_asgi.http.reply import HOLD, Reply
from bud_asgi.http.seam import HttpError, HttpRequest
from bud_asgi.http.wire import pieces

READ_BUFFER = 64 << 10
"""Bytes of the one buffer that all connections of a loop read into."""

STALE_WITHIN = 1.0
"""Seconds after the last write in which a break of a reused connection means that the peer had left already."""


class Common:
    """What the connections of one loop share."""

    __slots__ = ("buffer", "clock", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = Clock(loop)
        self.buffer = memoryview(bytearray(READ_BUFFER))


class Home(Protocol):
    """Where a connection is kept."""

    def opened(self, connection: Connection) -> None:
        """Its transport is up."""
        ...

    def give_back(self, connection: Connection) -> None:
        """It is idle and fit to serve again."""
        ...

    def drop(self, connection: Connection) -> None:
        """It must not serve again."""
        ...

    def lost(self, connection: Connection) -> None:
        """Its transport is gone."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One connection to one origin, from the moment that it is up.

    `stale` tells, after a failed exchange, that the peer had very likely left before the request: it may be sent once
    more (RFC 9112, 9.3.1).
    """

    __slots__ = (
        "_common",
        "_gone",
        "_home",
        "_idle_until",
        "_outgoing",
        "_plain",
        "_poll",
        "_pumping",
        "_reading",
        "_reply",
        "_served",
        "_socket",
        "_spent",
        "_transport",
        "_unsent",
        "_writable",
        "_wrote_at",
        "opened_at",
        "stale",
    )
    _transport: asyncio.Transport

    def __init__(self, common: Common, home: Home, connected: socket.socket) -> None:
        self.opened_at = common.loop.time()
        self.stale = False
        self._common = common
        self._home = home
        self._socket = connected
        self._plain = True
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._reply: Reply[Message] | None = None
        self._outgoing: Iterator[list[bytes | memoryview]] | None = None
        self._pumping = self._gone = self._served = self._spent = False
        self._reading = self._writable = True
        self._unsent: int = 0
        self._wrote_at = 0.0
        self._idle_until = inf

    async def exchange(self, request: HttpRequest, head: bytes) -> Reply[Message]:
        """Send a request whose head is written already, and wait for the head of its reply.

        Raises `HttpError`; cancelled, the connection is aborted.
        """
        if self._gone:
            raise HttpError("reset", "the connection ended before the request was sent", reused=self._served)
        message = Message(bodiless=request.method == b"HEAD")
        reply = Reply(self, message, request.timeouts, self._common.loop)
        self._reply = reply
        self._outgoing = pieces(head, request.body)
        self._pump()
        try:
            await reply.head()
        except BaseException:
            reply.close()
            raise
        return reply

    def fit(self, now: float) -> bool:
        """Whether it can serve again: nothing has arrived, not even unread in the kernel, and it is not too old."""
        return not (self._gone or now >= self._idle_until or self._transport.is_closing() or self._poll.poll(0))

    def rest(self, until: float) -> None:
        """Be idle up to this moment of the loop's time."""
        self._idle_until = until

    def disown(self) -> None:
        """Its dialling was cut short: uvloop closes such a transport without a word to us."""
        self._gone = True
        self._common.clock.unwatch(self)
        self._home.lost(self)

    def fail(self, kind: Literal["tls", "timeout", "reset", "protocol"], reason: str) -> None:
        """End the connection at once, and the exchange on it with an `HttpError`."""
        reply, self._reply = self._reply, None
        if reply is not None:
            # A busy connection has always written something.
            answered = reply.message.answered
            reply.error = HttpError(kind, reason, reused=self._served, sent=True, answered=answered)
            reply.message.release()
            reply.wake()
        self._abort()

    # Asked by the reply and the clock.

    def read_on(self) -> None:
        """Read from the peer again."""
        if not self._reading and not self._gone:
            self._reading = True
            if self._reply is not None:
                self._reply.heard_at = self._common.loop.time()
            self._transport.resume_reading()

    def give_up(self, reply: object) -> None:
        """End the connection, unless it has left this reply behind."""
        if self._reply is reply:
            self.fail("reset", "the reply was closed by its reader")

    def on_tick(self, now: float) -> None:
        """Look at the deadline of the state that it is in."""
        reply = self._reply
        if reply is None:
            if now >= self._idle_until:
                self._abort()
        elif reply.message.headed:
            if reply.overdue(now):
                self.fail("timeout", f"silent for {reply.timeouts.silence:g} s within the reply")
        elif self._unwritten(now):
            if now - self._wrote_at >= reply.timeouts.silence:
                self.fail("timeout", f"no byte of the request accepted for {reply.timeouts.silence:g} s")
        elif now - self._wrote_at >= reply.timeouts.first_byte:
            self.fail("timeout", f"no reply within {reply.timeouts.first_byte:g} s")

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is up, after the handshake if there is one."""
        self._transport = cast("asyncio.Transport", transport)
        self._plain = transport.get_extra_info("ssl_object") is None
        self._common.clock.watch(self)
        self._home.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that all connections of the loop share: it is parsed before anybody else can read."""
        return self._common.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes have come."""
        reply = self._reply
        if reply is None:
            self._abort()
            return
        message = reply.message
        reply.heard_at = self._common.loop.time()
        try:
            message.feed(self._common.buffer[:nbytes])
        except MessageError as error:
            self.fail("protocol", f"not a valid HTTP/1.1 reply: {error}")
            return
        if self._outgoing is not None and message.status >= 400:
            # Refused before it was read: the rest is not sent, so nothing can follow on this connection (9.3).
            self._outgoing = None
            self._spent = True
        if message.complete:
            self._finish(reply)
            return
        if message.held >= HOLD and self._reading:
            self._reading = False
            self._transport.pause_reading()
        if message.headed:
            reply.wake()

    def eof_received(self) -> bool:
        """The peer sends no more; the transport closes by itself."""
        self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if exc is not None:
            self._read_rest()
        if not self._gone:
            self._ended(exc)
        self._home.lost(self)

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._writable = False

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._writable = True
        self._pump()

    def _pump(self) -> None:
        """Write as much as the transport takes; `resume_writing` goes on."""
        if self._pumping:
            # A TLS transport may say that it has room while it is written to.
            return
        self._pumping = True
        # A write may fail at once: the transport then takes the rest in silence, and reports the end a turn later.
        while self._writable and self._outgoing is not None and not self._transport.is_closing():
            piece = next(self._outgoing, None)
            if piece is None:
                self._outgoing = None
                break
            self._wrote_at = self._common.loop.time()
            self._transport.writelines(piece)
        self._pumping = False

    def _read_rest(self) -> None:
        """Read what a write that failed has left in the kernel: a refusal, if the peer closed hard after it.

        Only on plain sockets, which are still open at this moment.
        """
        with contextlib.suppress(OSError):
            while self._plain and self._reply is not None and self._reply.message.held < HOLD:
                nbytes = self._socket.recv_into(self._common.buffer)
                if not nbytes:
                    return
                self.buffer_updated(nbytes)

    def _unwritten(self, now: float) -> bool:
        """Whether something of the request is left to write; takes note when the peer has accepted some."""
        unsent: int = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._wrote_at = unsent, now
        return unsent > 0 or self._outgoing is not None

    def _finish(self, reply: Reply[Message]) -> None:
        """The message is complete: the connection is free at once, whatever the reader still has to take."""
        self._reply = None
        reply.wake()
        message, transport = reply.message, self._transport
        written = self._outgoing is None and not self._spent and not transport.get_write_buffer_size()
        if not (message.persistent and written and not message.surplus) or transport.is_closing():
            self._abort()
            return
        self._served = True
        self.read_on()
        self._home.give_back(self)

    def _ended(self, exc: Exception | None) -> None:
        """No more will come: the end of the reply, or a break."""
        reply = self._reply
        if reply is None:
            self._abort()
        elif exc is None and reply.message.end():
            self._finish(reply)
        else:
            answered = reply.message.answered
            kind = "tls" if isinstance(exc, ssl.SSLError) and not answered else "reset"
            lately = self._common.loop.time() - self._wrote_at <= STALE_WITHIN
            self.stale = kind == "reset" and self._served and not answered and lately
            where = "within the reply" if answered else "before the reply"
            self.fail(kind, f"the connection ended {where}{f': {exc}' if exc else ''}")

    def _abort(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._outgoing = None
        self._common.clock.unwatch(self)
        self._home.drop(self)
        self._transport.abort()
