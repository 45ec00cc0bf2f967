"""One HTTP/1.1 connection (RFC 9112, section 9): one request and its reply at a time, without pipelining.

States: *idle* (no reply is pending; any received byte closes the connection), *busy* (`_reply` is being received and
`_outgoing` holds the rest of the request), *gone*. A connection stops being busy when the reply is complete, when the
exchange fails, or when the reader closes the reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from array import array
from collections.abc import Callable, Iterator
from math import inf
from typing import Literal, Protocol, cast

from bud_asgi.clock import Clock
from bud_asgi.http.parser import InvalidResponseError, ReplyParser
from bud_asgi.http.reply import READ_AHEAD, Reply
from bud_asgi.http.seam import HttpError, HttpRequest
from bud_asgi.http.socket_state import unacknowledged, unread_check
from bud_asgi.http.wire import joined, write_batches

READ_BUFFER = 64 << 10
"""Size in bytes of the read buffer that all connections of a loop share."""

STALE_WITHIN = 1.0
"""A reused connection that ends within so many seconds of the last write was most likely closed before the request."""

MAX_CHECKED = 16 << 10
"""Size in bytes of the largest request whose reply is checked for having been sent before the request arrived."""


class LoopState:
    """What the connections of one event loop share."""

    __slots__ = ("buffer", "clock", "count", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = Clock(loop)
        self.buffer = memoryview(bytearray(READ_BUFFER))
        self.count = array("i", [0])


class ConnectionOwner(Protocol):
    """The pool that a connection belongs to, as the connection sees it."""

    def opened(self, connection: Connection) -> None:
        """Add a connection whose transport is open."""
        ...

    def give_back(self, connection: Connection) -> None:
        """Take back a connection that is idle and reusable."""
        ...

    def drop(self, connection: Connection) -> None:
        """Stop offering a connection for reuse."""
        ...

    def lost(self, connection: Connection) -> None:
        """Remove a connection whose transport is closed."""
        ...


class Connection(asyncio.BufferedProtocol):
    """An open connection to one origin.

    `opened_at` and `idle_until` are times of the loop's clock; past the second, an idle connection is closed. After a
    failed exchange, `stale` is true if the request had not been written, or the peer had most likely closed the
    connection before it received it, so that the request may be sent once more (RFC 9112, 9.3.1).
    """

    __slots__ = (
        "_close_after",
        "_gone",
        "_has_unread",
        "_last_write_at",
        "_loop_state",
        "_outgoing",
        "_owner",
        "_parser",
        "_plain",
        "_pumping",
        "_reading",
        "_reply",
        "_served",
        "_socket",
        "_transport",
        "_unsent",
        "_unwritten",
        "_writable",
        "_written",
        "idle_until",
        "opened_at",
        "stale",
    )
    _transport: asyncio.Transport
    _has_unread: Callable[[], object]  # created when it first becomes idle: most streams have a new connection

    def __init__(self, loop_state: LoopState, owner: ConnectionOwner, connected: socket.socket) -> None:
        self.opened_at = loop_state.loop.time()
        self.stale = False
        self._loop_state = loop_state
        self._owner = owner
        self._socket = connected
        self._plain = True
        self._parser = ReplyParser()
        self._reply: Reply | None = None
        self._outgoing: Iterator[list[bytes | memoryview]] | None = None
        self._pumping = self._gone = self._served = self._close_after = False
        self._reading = self._writable = True
        self._unsent: int = 0
        self._unwritten = b""
        self._written = 0
        self._last_write_at = 0.0
        self.idle_until = inf

    def start(self, request: HttpRequest, head: bytes) -> Reply:
        """Send the request, whose head is already encoded, and return its reply, of which nothing has arrived yet.

        A small one is written in the next iteration of the event loop, together with those of other tasks. A write
        between two tasks costs more: it replaces what the processor's caches hold, and may wake another process.
        Raises `HttpError` if the connection has ended.
        """
        if self._gone:
            raise HttpError("reset", "the connection ended before the request was sent", reused=self._served)
        loop = self._loop_state.loop
        reply = self._reply = Reply(self, request.timeouts, loop)
        self._parser.begin(reply, is_head=request.method == b"HEAD")
        self._last_write_at = loop.time()
        whole = joined(head, request.body)
        if whole is None:
            self._written = 0
            self._outgoing = write_batches(head, request.body)
            self._pump()
        elif not self._transport.is_closing():
            self._written = len(whole)
            self._unwritten = whole
            loop.call_soon(self._write)
        return reply

    def is_reusable(self, now: float) -> bool:
        """Whether it can serve another request: open, not expired, and with no unread bytes in the kernel."""
        return not (self._gone or now >= self.idle_until or self._transport.is_closing() or self._has_unread())

    def disown(self) -> None:
        """Clean up after a cancelled dial: uvloop closes the transport without calling `connection_lost`."""
        self._leave()
        self._owner.lost(self)

    def fail(self, kind: Literal["tls", "timeout", "reset", "protocol"], reason: str) -> None:
        """Close the connection at once and fail the pending exchange, if any, with an `HttpError`."""
        reply = self._reply
        if reply is not None:
            sent, answered = not self._unwritten, self._parser.any_received
            self.stale = self.stale or not sent
            reply.error = HttpError(kind, reason, reused=self._served, sent=sent, answered=answered)
            self._release(reply)
        self._abort_transport()

    # Called by the reply and the clock.

    def resume_reading(self) -> None:
        """Resume reading from the peer."""
        if not self._reading and not self._gone:
            self._reading = True
            if self._reply is not None:
                self._reply.last_read_at = self._loop_state.loop.time()
            self._transport.resume_reading()

    def abort(self, reply: object) -> None:
        """Close the connection, unless it has already finished with this reply."""
        if self._reply is reply:
            self.fail("reset", "the reply was closed by its reader")

    def on_tick(self, now: float) -> None:
        """Check the deadline of the current state."""
        reply = self._reply
        if reply is None:
            if now >= self.idle_until:
                self._abort_transport()
        elif reply.has_head:
            if reply.check_deadlines(now):
                self.fail("timeout", f"no data for {reply.timeouts.silence:g} s within the reply")
        elif self._upload_pending(now):
            if now - self._last_write_at >= reply.timeouts.silence:
                self.fail("timeout", f"no byte of the request accepted for {reply.timeouts.silence:g} s")
        elif now - self._last_write_at >= reply.timeouts.first_byte:
            self.fail("timeout", f"no reply within {reply.timeouts.first_byte:g} s")

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving; with TLS, the handshake is complete."""
        self._transport = cast("asyncio.Transport", transport)
        self._plain = transport.get_extra_info("ssl_object") is None
        self._loop_state.clock.watch(self)
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the loop's shared buffer: it is parsed before any other connection can read into it."""
        return self._loop_state.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the received bytes and wake the reader."""
        reply = self._reply
        if reply is None:
            self._abort_transport()
            return
        state, parser = self._loop_state, self._parser
        if self._served and not parser.any_received and (self._unwritten or self._is_unrequested()):
            self.fail("protocol", "a reply arrived before the upstream had received the request")
            return
        if self._unwritten:  # a server without room for a new connection answers it at once
            self._write()
        reply.last_read_at = state.loop.time()
        try:
            parser.feed(state.buffer[:nbytes])
        except InvalidResponseError as error:
            self.fail("protocol", f"not a valid HTTP/1.1 reply: {error}")
            return
        if self._outgoing is not None and reply.status >= 400:
            # The upstream rejected the request before it had read it. The rest of the body is not sent, so the
            # connection cannot carry another request (RFC 9112, 9.3).
            self._outgoing = None
            self._close_after = True
        if reply.done:
            self._finish(reply)
            return
        if reply.buffered >= READ_AHEAD and self._reading:
            self._reading = False
            self._transport.pause_reading()
        if reply.has_head:
            reply.wake()

    def eof_received(self) -> bool:
        """Finish or fail the reply; returning `False` lets the transport close itself."""
        self._handle_end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish or fail the reply, and leave the pool."""
        if exc is not None:
            self._read_remaining()
        if not self._gone:
            self._handle_end(exc)
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """Stop writing: the transport's buffer is full."""
        self._writable = False

    def resume_writing(self) -> None:
        """Continue writing: the transport's buffer has room again."""
        self._writable = True
        self._pump()

    def _write(self) -> None:
        """Write a small request, unless the connection has ended, or has received something since it was chosen."""
        if self._unwritten and self._served and self._has_unread():
            self.fail("reset", "the connection can no longer be used")
        whole, self._unwritten = self._unwritten, b""
        if whole and not self._transport.is_closing():
            self._transport.write(whole)

    def _pump(self) -> None:
        """Write as much of the request as the transport accepts; `resume_writing` continues."""
        if self._pumping:
            # A TLS transport may call `resume_writing` from within a write.
            return
        self._pumping = True
        # After a failed write the transport discards further data silently and reports the failure one loop
        # iteration later.
        while self._writable and self._outgoing is not None and not self._transport.is_closing():
            batch = next(self._outgoing, None)
            if batch is None:
                self._outgoing = None
                break
            self._last_write_at = self._loop_state.loop.time()
            self._written += sum(map(len, batch))
            self._transport.writelines(batch)
        self._pumping = False

    def _is_unrequested(self) -> bool:
        """Whether the bytes that begin a reply were sent before any byte of the request had arrived.

        Only an upstream that sends two replies for one request does that; without the check, each caller after that
        would get the reply of the one before. Every segment acknowledges what its sender has received. So for a small
        request, of one TLS record at most for each of head and body, the kernel knows.
        """
        return self._written <= MAX_CHECKED and unacknowledged(self._socket, self._loop_state.count) >= self._written

    def _read_remaining(self) -> None:
        """Read what the kernel still holds after a failed write: an error reply that the peer sent before its reset.

        Only on plain sockets, which are still open at this point.
        """
        with contextlib.suppress(OSError):
            while self._plain and self._reply is not None and self._reply.buffered < READ_AHEAD:
                nbytes = self._socket.recv_into(self._loop_state.buffer)
                if not nbytes:
                    return
                self.buffer_updated(nbytes)

    def _upload_pending(self, now: float) -> bool:
        """Whether part of the request is still unsent; if the peer has accepted some, restarts the write timeout."""
        unsent: int = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._last_write_at = unsent, now
        return unsent > 0 or self._outgoing is not None

    def _finish(self, reply: Reply) -> None:
        """Free the connection of a complete reply at once, even if its reader has not taken all of it yet."""
        self._release(reply)
        parser, transport = self._parser, self._transport
        reusable = parser.persistent and not (parser.trailing_data or self._close_after or self._outgoing is not None)
        if not reusable or transport.get_write_buffer_size() or transport.is_closing():
            self._abort_transport()
            return
        if not self._served:
            self._served = True
            self._has_unread = unread_check(self._socket)
        if not self._reading:
            self.resume_reading()
        self._owner.give_back(self)

    def _release(self, reply: Reply) -> None:
        """Wake the reader of a reply that is complete or has failed, and forget it."""
        self._reply = None
        self._parser.release()
        reply.wake()

    def _handle_end(self, exc: Exception | None) -> None:
        """Handle the end of the input: it completes the reply, or it is an error."""
        reply = self._reply
        if reply is None:
            self._abort_transport()
        elif exc is None and self._parser.end():
            self._finish(reply)
        else:
            answered = self._parser.any_received
            kind = "tls" if isinstance(exc, ssl.SSLError) and not answered else "reset"
            recent = self._loop_state.loop.time() - self._last_write_at <= STALE_WITHIN
            self.stale = kind == "reset" and self._served and not answered and recent
            where = "within the reply" if answered else "before the reply"
            self.fail(kind, f"the connection ended {where}{f': {exc}' if exc else ''}")

    def _abort_transport(self) -> None:
        if not self._gone:
            self._leave()
            self._owner.drop(self)
            self._transport.abort()

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self._outgoing = None
            self._unwritten = b""
            self._parser.close()
            self._loop_state.clock.unwatch(self)
