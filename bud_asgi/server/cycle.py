"""One request and its response on a connection: the `receive` and `send` of an ASGI scope."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from bud_asgi.server.channel import Channel
from bud_asgi.server.head import CONNECTION, LENGTH, STATUS_LINES, TRANSFER, has_token, render_lines

_BODILESS = frozenset({204, 304})

_SMALL = 16 << 10
"""Size in bytes up to which a body is copied behind its head, so that both are written a little later, in one piece."""

_FAILURE = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"21"),
    (b"connection", b"close"),
]

_log = logging.getLogger("uvicorn.error")
_access_log = logging.getLogger("uvicorn.access")


class Connection(Protocol):
    """What a cycle needs of its connection."""

    def default_lines(self) -> bytes:
        """The header lines that all responses begin with."""
        ...

    def on_stream(self) -> None:
        """Release what a stream does not need."""
        ...

    def on_response_complete(self, cycle: Cycle) -> None:
        """Go on with the next request, or close."""
        ...

    def close(self) -> None:
        """Close once everything has been sent."""
        ...


class Cycle:
    """A request from its head on, until its response is complete or its connection lost.

    `task` runs the app. `keep_alive` is whether another request may follow, `awaits_continue` whether the client sends
    the body only after a `100 Continue` that it has not got, `has_length` whether the response declares its length.
    """

    task: asyncio.Task[None] | None = None
    started = complete = disconnected = awaits_continue = has_length = False
    _ready = _chunked = False
    _more = True
    _body: bytes | bytearray = b""
    _left: int | None = None
    _logged: Scope | None = None
    _call_back: Callable[[], None] | None = None

    def __init__(
        self, connection: Connection, channel: Channel, scope: Scope, *, keep_alive: bool, body: bytes | None
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._version: str = scope["http_version"]
        self._silent: bool = scope["method"] == "HEAD"
        self.keep_alive = keep_alive and self._version != "1.0"
        if body is not None:  # all of it
            self._body, self._ready, self._more = body, True, False

    async def run(self, app: ASGIApp, scope: Scope, tasks: set[asyncio.Task[None]], *, log: bool) -> None:
        """Run the app in `task`, which is in `tasks` meanwhile.

        The scope is kept no longer than the app keeps it, or with `log` until the response starts.
        """
        if log:
            self._logged = scope
        try:
            running = app(scope, self.receive, self.send)
            del scope
            returned: object = await running
        except BaseException as error:  # noqa: BLE001 - also one that would end the server ends only this response
            _log.error("Exception in ASGI application\n", exc_info=error)
        else:
            if returned is not None:
                _log.error("ASGI callable should return None, but returned '%s'.", returned)
            elif not self.complete and not self.disconnected:
                missing = "completing" if self.started else "starting"
                _log.error("ASGI callable returned without %s response.", missing)
        finally:
            if self.task is not None:  # an eager task may end before it is known
                tasks.discard(self.task)
            self._fail()

    # The request.

    def expect(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """Return the declared length of a body that has not arrived with its head; 0 if there is none.

        Also finds out whether it waits for a `100 Continue` (RFC 9110, 10.1.1).
        """
        fields = dict(headers)
        self.awaits_continue = self._version != "1.0" and fields.get(b"expect", b"").lower() == b"100-continue"
        return int(fields.get(b"content-length", b"").lstrip(b"0") or 0)  # `int` refuses thousands of digits

    def feed(self, body: bytes) -> int:
        """Take a part of the body. Returns how many bytes the app has yet to receive."""
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body) + body
        self._ready = True
        if self._channel.waiters:
            self._channel.wake()
        return len(self._body)

    def end_body(self) -> None:
        """Note that the body is complete."""
        self._more = False
        self._ready = True
        if self._channel.waiters:
            self._channel.wake()

    def disconnect(self) -> None:
        """Note that the client has gone, or gets no more."""
        self.disconnected = True
        self._channel.wake()
        call_back, self._call_back = self._call_back, None
        if call_back is not None:
            call_back()

    def call_back_on_disconnect(self, call_back: Callable[[], None]) -> None:
        """Call back when the client disconnects before the response is complete. The extension `DISCONNECT`."""
        self._call_back = call_back
        if self.disconnected:
            self.disconnect()

    async def receive(self) -> Message:
        """Return a part of the body, or after its end wait for the disconnect or the end of the response."""
        channel = self._channel
        if self.awaits_continue and not self.started and not self.disconnected:
            self.awaits_continue = False
            channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.disconnected or self.complete):
            if channel.read_paused:
                channel.resume_reading()
            if self._ready:
                body, self._body, self._ready = self._body, b"", False
                return {"type": "http.request", "body": bytes(body), "more_body": self._more}
            await channel.wait()
        return {"type": "http.disconnect"}

    # The response.

    async def send(self, message: Message) -> None:
        """Send a part of the response, once the client reads. Raises `RuntimeError` for one that is out of order."""
        channel = self._channel
        while channel.write_paused and not self.disconnected:
            await channel.wait()
        if self.disconnected:
            return
        kind = message["type"]
        if self.complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if self.started and kind == "http.response.body":
            self._write(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.started:
            self._start(message["status"], message.get("headers", ()))
        else:
            expected = "http.response.body" if self.started else "http.response.start"
            raise RuntimeError(f"Expected ASGI message '{expected}', but got '{kind}'.")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines, framing = render_lines(headers)
        if CONNECTION in framing and has_token(framing[CONNECTION], b"close"):
            self.keep_alive = False
        elif not self.keep_alive:
            lines += CONNECTION + b"close"
        self._silent = self._silent or status in _BODILESS
        self._chunked = TRANSFER in framing and has_token(framing[TRANSFER], b"chunked")
        if LENGTH in framing:
            self.has_length = True
            self._left = None if self._silent or self._chunked else int(framing[LENGTH])
        else:
            self._connection.on_stream()
            if not (self._chunked or self._silent or self._version == "1.0"):
                self._chunked = True
                lines += TRANSFER + b"chunked"
        self._channel.held += b"".join((STATUS_LINES[status], self._connection.default_lines(), lines, b"\r\n\r\n"))
        self.started = True
        if self._logged is not None:
            self._log_request(self._logged, status)

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._silent:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif self._left is not None:
            if len(body) > self._left:
                raise RuntimeError("Response content longer than Content-Length")
            self._left -= len(body)
        if more:
            self._channel.write(body)
            return
        if self._left:
            self._channel.write(body)
            raise RuntimeError("Response content shorter than Content-Length")
        if self.keep_alive and self._channel.held and len(body) <= _SMALL:
            self._channel.write_soon(body)
        else:
            self._channel.write(body)
        self.complete = True
        self._call_back = None
        self._connection.on_response_complete(self)

    def _fail(self) -> None:
        """End the response if it has no end: as a 500, or by closing the connection if it has started."""
        if self.complete or self.disconnected:
            return
        if self.started:
            self._channel.write(b"")
            self._connection.close()
        else:
            self._start(500, _FAILURE)
            self._write(b"Internal Server Error", more=False)

    def _log_request(self, scope: Scope, status: int) -> None:
        """Write a line to uvicorn's access log, as uvicorn does."""
        self._logged = None
        line = scope["method"], get_path_with_query_string(scope), scope["http_version"], status  # pyright: ignore[reportArgumentType] - uvicorn's own type
        _access_log.info('%s - "%s %s HTTP/%s" %d', get_client_addr(scope), *line)  # pyright: ignore[reportArgumentType]
