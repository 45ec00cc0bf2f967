"""One connection: uvicorn's httptools protocol, with bounds on what arrives and a close that can be read."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from itertools import chain
from math import inf
from typing import Any, Protocol, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bud_asgi.protocol.errors import GatewayError
from bud_asgi.server.limits import ServerLimits
from bud_asgi.server.refusals import (
    SlowHead,
    TooManyConnections,
    framing_too_large,
    head_too_large,
    not_http,
    render,
)
from bud_asgi.server.transport import ConnectionTransport

_CHUNK_FRAMING = 64
"""Bytes that a chunk may need beside its content: its size, line ends, a short extension."""


class Phase(Enum):
    """What is being received."""

    IDLE = "idle"
    """Nothing: no byte of a request has arrived since the last one was complete."""
    HEAD = "head"
    """The request line or the header fields."""
    BODY = "body"
    """The body, its chunks and trailers. It stays unfinished if the client does not send all of it."""


IDLE, HEAD, BODY = Phase


class Register(Protocol):
    """What a connection knows of all connections."""

    limits: ServerLimits
    now: float
    idle: dict[ServerConnection, float]

    def add(self, connection: ServerConnection) -> bool:
        """Register it; return whether it is within the limit."""
        ...

    def discard(self, connection: ServerConnection) -> None:
        """Unregister it."""
        ...

    @property
    def may_answer_more(self) -> bool:
        """Whether a connection beyond the limit gets an answer."""
        ...

    def count(self, error: GatewayError) -> None:
        """Count a refusal."""
        ...


class ServerConnection(HttpToolsProtocol):
    """Parses requests within the limits, runs the app for each, and closes so that a client can read its answer.

    `deadline` is when `on_deadline` has to be called, in seconds of the loop's time.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        *,
        register: Register,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.deadline = inf
        self._register = register
        self._limits = register.limits
        self._socket: asyncio.Transport
        self._phase = IDLE
        self._piece = 0
        self._head = 0
        self._framing = 0
        self._body = 0
        self._unread = 0
        self._unsent = 0
        self._error: GatewayError | None = None
        self._closing = False

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn does
        """Start, or refuse a connection beyond the limit."""
        super().connection_made(transport)
        self._socket = transport
        self.transport = cast("asyncio.Transport", ConnectionTransport(transport, self._close))
        self.deadline = self._register.now + self._limits.first_byte
        if self._register.add(self):
            return
        if self._register.may_answer_more:
            self._refuse(TooManyConnections())
            self._register.idle.pop(self, None)
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request in progress, if there is one."""
        self._closing = True
        self._register.discard(self)
        self._detach()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, without an answer."""
        self._socket.abort()

    def on_deadline(self) -> None:
        """Do what is due: refuse a slow head, close an idle connection, give up one that is being closed."""
        if self._closing:
            self._finish_closing()
        elif self._phase is not HEAD:
            self.transport.close()
        elif self.flow.read_paused:  # the rest of the head may have been sent: the request before has to end first
            self.deadline = self._register.now + self._limits.head_timeout
        else:
            self._refuse(SlowHead())

    # Parsing.

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, so that no head can grow far beyond its limit in one call."""
        size = self._limits.head
        if len(data) <= size:
            self._parse(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), size):
            self._parse(view[start : start + size])

    def _parse(self, piece: bytes | memoryview) -> None:
        if self._closing or self._error is not None or self.parser is None:
            self._discard(len(piece))
            return
        in_body = self._phase is BODY
        self._piece, self._body = len(piece), 0
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if upgrade.args[0] < len(piece):  # what follows is in the other protocol
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(self._error or not_http())
            return
        if self._phase is HEAD:
            self._head += len(piece)  # may count bytes before the head as well, but no more than a piece of them
            if self._head > 2 * self._limits.head:
                self._refuse(head_too_large())
        elif in_body and self._phase is BODY:
            self._check_framing(len(piece) - self._body)
            if self.cycle.response_complete:
                self._discard(len(piece))

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._phase = HEAD
        self._head = 0
        self.deadline = self._register.now + self._limits.head_timeout

    def on_headers_complete(self) -> None:
        """Check the head, and run the app."""
        if len(self.headers) > self._limits.header_lines or self._head_is_too_large():
            self._error = head_too_large()
            raise self._error
        self._phase = BODY
        self.deadline = inf
        self._register.idle.pop(self, None)
        self._framing = self._unread = 0
        super().on_headers_complete()
        self.headers = []  # takes the trailers, which the scope must not show as headers

    def on_chunk_header(self) -> None:
        """Begin a chunk."""
        self._framing -= _CHUNK_FRAMING

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        super().on_message_complete()
        self._phase = IDLE
        if self.cycle.response_complete:
            self._wait()

    def _head_is_too_large(self) -> bool:
        if self._head + self._piece <= self._limits.head:
            return False
        lines = b"".join(chain.from_iterable(self.headers))
        return len(self.url) + len(lines) + 4 * len(self.headers) > self._limits.head

    def _check_framing(self, size: int) -> None:
        self._framing = max(0, self._framing + size)
        if self._framing > self._limits.framing:
            self._refuse(framing_too_large())

    # Responses.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self._closing:
            return
        if self.pipeline:
            self.flow.resume_reading()
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._error is not None:
            self._send_refusal(self._error)
        elif self._phase is BODY and self.expect_100_continue:
            self.transport.close()  # whether the body will be sent is unknown
        else:
            self.flow.resume_reading()
            self._wait()

    def _wait(self) -> None:
        """Wait for the next request, or first for the rest of a body that the app did not read."""
        if self._phase is BODY:
            self.deadline = self._register.now + self._limits.linger
            return
        self._register.idle[self] = self._register.now
        if self._phase is IDLE:
            self.deadline = self._register.now + self._limits.keep_alive

    def _refuse(self, error: GatewayError) -> None:
        """Answer a request that the app does not get, or has not answered yet; parse nothing more."""
        self._error = error
        cycle = self.cycle
        if cycle is None or cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison] - uvicorn's type is wrong
            self._send_refusal(error)
        elif self._phase is not BODY:  # the requests before this one are answered first
            self.deadline = inf
            self.flow.pause_reading()
        elif cycle.response_started or self.pipeline:
            self.abort()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._send_refusal(error)

    def _send_refusal(self, error: GatewayError) -> None:
        self._register.count(error)
        self.transport.write(render(error, self.server_state.default_headers))
        self.transport.close()

    # Closing.

    def _close(self) -> None:
        """Close once all is sent. If the client may still be sending, tell it that nothing more comes, and linger."""
        self._closing = True
        self._detach()
        if self._error is None and self._phase is not BODY:
            self._close_socket()
            return
        with suppress(OSError, RuntimeError):  # the client has reset it, and that is about to be reported
            if self._socket.can_write_eof():
                self._socket.write_eof()
            self.flow.resume_reading()
        self._register.idle[self] = self._register.now
        self.deadline = self._register.now + self._limits.linger

    def _discard(self, size: int) -> None:
        """Discard what the client still sends after its answer, within bounds."""
        self._unread += size
        if self._unread > self._limits.linger_bytes:
            self.deadline = self._register.now  # at the next tick, so that the answer can be read until then
            self._socket.pause_reading()

    def _finish_closing(self) -> None:
        """Close the socket; give it up if the client has read nothing since the last deadline."""
        unsent = self._socket.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            self.abort()
        else:
            self._close_socket()

    def _close_socket(self) -> None:
        self._unsent = self._socket.get_write_buffer_size()
        self.deadline = self._register.now + self._limits.close_timeout
        self._socket.close()

    def _detach(self) -> None:
        if isinstance(self.transport, ConnectionTransport):
            self.transport.detach()
