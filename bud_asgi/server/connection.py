"""One connection: an HTTP/1.1 protocol with bounds on what arrives, and a close that can be read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from enum import Enum
from math import inf
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from bud_asgi.disconnect import DISCONNECT
from bud_asgi.http.fields import Header, lower_name, lower_names
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.server.channel import Channel
from bud_asgi.server.connections import Connections
from bud_asgi.server.cycle import Cycle
from bud_asgi.server.head import below_root, head_size, split_target
from bud_asgi.server.refusals import (
    SlowHead,
    TooManyConnections,
    framing_too_large,
    head_too_large,
    not_http,
    render,
    too_many_pipelined,
)
from bud_asgi.server.repeated import RepeatedHead, repeated_head

_CHUNK_FRAMING = 64
"""Bytes that a chunk may need beside its content: its size, line ends, a short extension."""

_DROPPED: deque[Header] = deque(maxlen=0)
"""Takes the trailers, which the scope must not show as headers."""

_HELD_BODY = 32 << 10
"""Bytes of a body that may wait for the app before reading is paused: less than one read, so that no two are joined."""


class Phase(Enum):
    """What is being received."""

    IDLE = "idle"
    """Nothing: no byte of a request has arrived since the last one was complete."""
    HEAD = "head"
    """The request line or the header fields."""
    BODY = "body"
    """The body, its chunks and trailers. It stays unfinished if the client does not send all of it."""


IDLE, HEAD, BODY = Phase


class ServerConnection(asyncio.BufferedProtocol):
    """Parses requests within the limits, runs the app for each, and closes so that a client can read its answer.

    `deadline` is when `on_deadline` has to be called, in seconds of the loop's time. One request runs at a time; others
    that have arrived wait in a queue.
    """

    def __init__(self, register: Connections) -> None:
        self.deadline = inf
        self._register = register
        self._limits = register.limits
        self._channel: Channel
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # such data is ignored here
        self._running: Cycle | None = None
        self._last: Cycle | None = None
        self._queue: list[tuple[Cycle, Scope]] = []
        self._url = b""
        self._headers: list[Header] | deque[Header] = _DROPPED
        self._begun: dict[str, Any] | None = None
        self._repeated: RepeatedHead | None = None
        self._keeps_head = False
        self._phase = IDLE
        self._piece = self._head = self._framing = self._body = self._left = self._unread = self._unsent = 0
        self._error: GatewayError | None = None
        self._closing = False

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - it is one
        """Start, or refuse a connection beyond the limit."""
        self._channel = Channel(transport, self._register.loop)
        self._local, self._client = get_local_addr(transport), get_remote_addr(transport)
        self._scheme = "https" if is_ssl(transport) else "http"
        self.deadline = self._register.now + self._limits.first_byte
        if self._register.add(self):
            return
        if self._register.may_answer_more:
            self._refuse(TooManyConnections())
            self._register.idle.pop(self, None)
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the requests in progress know, and forget them."""
        self._closing = True
        self._register.discard(self)
        running, self._running, self._last = self._running, None, None
        if running is not None:
            running.disconnect()
        self._queue.clear()
        del self._parser  # it refers to this connection

    def shutdown(self) -> None:
        """Close after the requests that have arrived; uvicorn calls it when the server stops."""
        if self._last is None:
            self.close()
        else:
            self._last.keep_alive = False

    def abort(self) -> None:
        """Close at once, without an answer."""
        self._channel.transport.abort()

    def send_held(self) -> None:
        """Send the head of a response whose body has not begun."""
        self._channel.write_held()

    def on_deadline(self) -> None:
        """Do what is due: refuse a slow head, close an idle connection, give up one that is being closed."""
        if self._closing:
            self._finish_closing()
        elif self._phase is not HEAD:
            self.close()
        elif self._channel.read_paused:  # the rest of the head may have been sent: the request before has to end first
            self.deadline = self._register.now + self._limits.head_timeout
        else:
            self._refuse(SlowHead())

    def pause_writing(self) -> None:
        """Let `send` wait."""
        self._channel.write_paused = True

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._channel.write_paused = False
        self._channel.wake()

    # Parsing.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return a part of the shared buffer: as much as a head may take, or what is left of a body if that is more."""
        register = self._register
        return register.head_buffer if self._left <= self._limits.head else register.buffer[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has been read, unless it is the head of the last request again, with a whole body."""
        if self._closing or self._error is not None:
            self._discard(nbytes)
        elif self._last is not None or self._phase is not IDLE:
            self._parse(nbytes)
        elif (repeated := self._repeated) and (found := repeated.match(self._register.received, nbytes)):
            headers, body = found
            self._run(repeated.scope, headers, keep_alive=True, body=body)
        else:
            begun, last = self._parse(nbytes), self._last
            if self._keeps_head and begun is not None and self._phase is IDLE and last is not None and last.keep_alive:
                self._repeated = repeated_head(begun, bytes(self._register.received[: nbytes - self._body]))

    def _parse(self, nbytes: int) -> dict[str, Any] | None:
        """Parse what has been read. Returns the scope of the last head that is complete in it."""
        self._piece, self._body = nbytes, 0
        try:
            self._parser.feed_data(self._register.buffer[:nbytes])
        except httptools.HttpParserUpgrade as upgrade:
            self._begun = None  # the parser reads no body of such a request
            if upgrade.args[0] < nbytes and self._last is not None:  # what follows is in the other protocol
                self._last.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(self._error or not_http())
            return None
        begun, self._begun = self._begun, None
        if self._phase is HEAD:
            self._head += nbytes  # may count bytes before the head as well, but no more than a piece of them
            if self._head > 2 * self._limits.head:
                self._refuse(head_too_large())
        elif self._phase is BODY and begun is not None and self._last is not None:
            self._left = self._last.expect(begun["headers"]) - self._body
        elif self._phase is BODY:
            self._left -= self._body
            self._framing = max(0, self._framing + nbytes - self._body)
            if self._framing > self._limits.framing:
                self._refuse(framing_too_large())
            if self._last is None:
                self._discard(nbytes)
        return begun

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._url = b""
        self._headers = []
        self._phase = HEAD
        self._head = 0
        self.deadline = self._register.now + self._limits.head_timeout

    def on_url(self, url: bytes) -> None:
        """Receive a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header field. Trailers are dropped."""
        self._headers.append((lower_names.get(name) or lower_name(name), value))

    def on_headers_complete(self) -> None:
        """Check the head, and run the app."""
        headers, self._headers = self._headers, _DROPPED
        self._check_head(headers)
        path, raw_path, query = split_target(self._url)  # may raise, while the request before this one runs
        self._url = b""
        parser, register = self._parser, self._register
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {},
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("ascii"),
            "scheme": self._scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "server": self._local,
            "client": self._client,
            "state": {},
            "extensions": {},
        }
        if root_path := register.root_path:
            scope |= below_root(root_path, path, raw_path)
        self._begun = scope
        self._run(scope, list(headers), keep_alive=parser.should_keep_alive())  # the app may change its list

    def _run(
        self, scope: dict[str, Any], headers: list[Header], *, keep_alive: bool, body: bytes | None = None
    ) -> None:
        """Run the app for a request, or let it wait. `body` is the whole body, if that has arrived."""
        register = self._register
        self._phase = BODY if body is None else IDLE
        self.deadline = inf
        self._framing = self._unread = 0
        register.idle.pop(self, None)
        self._last = cycle = Cycle(self, self._channel, scope, keep_alive=keep_alive, body=body)
        own = scope.copy()
        own["asgi"] = {"version": register.asgi_version, "spec_version": "2.3"}
        own["headers"] = headers
        own["state"] = register.app_state.copy()
        own["extensions"] = {DISCONNECT: cycle.call_back_on_disconnect}
        if self._running is None:
            self._running = cycle
            register.start(cycle, own)
        else:
            self._channel.pause_reading()
            self._queue.append((cycle, own))

    def _check_head(self, headers: Collection[Header]) -> None:
        limits, most = self._limits, self._head + self._piece
        if len(headers) > limits.header_lines or (most > limits.head and head_size(self._url, headers) > limits.head):
            self._error = head_too_large()
        elif len(self._queue) >= limits.pipelined:
            self._error = too_many_pipelined()
        if self._error is not None:
            raise self._error

    def on_chunk_header(self) -> None:
        """Begin a chunk."""
        self._framing -= _CHUNK_FRAMING

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self._body += len(body)
        if self._last is not None and self._last.feed(body) > _HELD_BODY:
            self._channel.pause_reading()

    def on_message_complete(self) -> None:
        """End the body."""
        self._phase = IDLE
        self._left = 0
        if self._last is None:
            self._wait()
        else:
            self._last.end_body()

    # Responses.

    def default_lines(self) -> bytes:
        """The header lines that all responses begin with."""
        return self._register.default_lines

    def on_stream(self) -> None:
        """Release the head that is kept: an idle stream would retain it."""
        self._repeated = None

    def on_response_complete(self, cycle: Cycle) -> None:
        """Go on with the next request, or wait for it."""
        self._register.state.total_requests += 1  # uvicorn can stop after so many
        self._running = None
        self._keeps_head = cycle.has_length  # a client that streams mostly goes on with streams
        if self._last is cycle:
            self._last = None
        self._channel.wake()
        if not cycle.keep_alive:
            self.close()
        elif self._queue:
            self._channel.resume_reading()
            self._running, scope = self._queue.pop(0)
            self._register.start(self._running, scope)
        elif self._error is not None:
            self._send_refusal(self._error)
        elif self._phase is BODY and cycle.awaits_continue:
            self.close()  # whether the body will be sent is unknown
        else:
            self._channel.resume_reading()
            self._wait()

    def _wait(self) -> None:
        """Wait for the next request, or first for the rest of a body that the app did not read."""
        register = self._register
        if self._phase is BODY:
            self.deadline = register.now + self._limits.linger
            return
        register.idle[self] = register.now
        if self._phase is IDLE:
            self.deadline = register.now + self._limits.keep_alive

    def _refuse(self, error: GatewayError) -> None:
        """Answer a request that the app does not get, or has not answered yet; parse nothing more."""
        self._error = error
        if self._last is None:
            self._send_refusal(error)
        elif self._phase is not BODY:  # the requests before this one are answered first
            self.deadline = inf
            self._channel.pause_reading()
        elif self._last.started or self._queue:
            self.abort()
        else:
            self._last.disconnect()
            self._send_refusal(error)

    def _send_refusal(self, error: GatewayError) -> None:
        self._register.count(error)
        self._channel.write(render(error, self._register.default_lines))
        self.close()

    # Closing.

    def close(self) -> None:
        """Close once all is sent. If the client may still be sending, let it know that nothing follows, and linger."""
        if self._closing:
            return
        self._closing = True
        self._channel.write_held()
        if self._running is not None:
            self._running.disconnect()
        self._queue.clear()
        if self._error is None and self._phase is not BODY:
            self._close_socket()
            return
        with suppress(OSError, RuntimeError):  # the client has reset it, and that is about to be reported
            if self._channel.transport.can_write_eof():
                self._channel.transport.write_eof()
            self._channel.resume_reading()
        self._register.idle[self] = self._register.now
        self.deadline = self._register.now + self._limits.linger

    def _discard(self, size: int) -> None:
        """Discard what the client still sends after its answer, within bounds."""
        self._unread += size
        if self._unread > self._limits.linger_bytes:
            self.deadline = self._register.now  # at the next tick, so that the answer can be read until then
            self._channel.transport.pause_reading()

    def _finish_closing(self) -> None:
        """Close the socket; give it up if the client has read nothing since the last deadline."""
        unsent = self._channel.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            self.abort()
        else:
            self._close_socket()

    def _close_socket(self) -> None:
        self._unsent = self._channel.transport.get_write_buffer_size()
        self.deadline = self._register.now + self._limits.close_timeout
        self._channel.transport.close()
