"""One call through httpx: a task that sends the request, receives the reply and closes it.

httpx reads only when awaited, and closing it has to be awaited too; the `HttpReply` interface returns what has already
arrived, and closes at once. So a task sends, reads ahead up to `READ_AHEAD` bytes and closes; closing the reply cancels
the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, cast

from bud_asgi.clock import Clock
from bud_asgi.http.dial import os_error_text, tls_error_text
from bud_asgi.http.httpx.library import Library
from bud_asgi.http.parser import MAX_OVERHEAD
from bud_asgi.http.reply import READ_AHEAD, Reply
from bud_asgi.http.seam import HttpError, HttpRequest

if TYPE_CHECKING:
    import httpx

Kind = Literal["connect", "tls", "timeout", "reset", "protocol"]

_KIND_BY_CLASS: dict[str, Kind] = {
    "ConnectTimeout": "connect",
    "PoolTimeout": "connect",
    "ConnectError": "connect",
    "ProxyError": "connect",
    "UnsupportedProtocol": "connect",
    "TimeoutException": "timeout",
    "NetworkError": "reset",
    "ProtocolError": "protocol",
    "OSError": "reset",
}
"""The kind of `HttpError` for each error class of httpx and httpx2; the first match in the class's MRO counts."""

_CONNECTION_ENDED = (
    "Server disconnected",
    "peer closed connection",
    "peer unexpectedly closed connection",
    "<ConnectionTerminated",
    "<StreamReset",
)
"""First words of the messages of httpcore, h11 and h2 for a connection that ended: the error class is a general one."""


class _Stream(Protocol):
    """A network stream of httpcore."""

    async def aclose(self) -> None: ...


class _Trace:
    """The progress of a call, as httpcore reports it; `available` stays false with a transport that reports nothing."""

    __slots__ = ("_stream", "available", "dialled", "handshaking", "written")

    def __init__(self) -> None:
        self.available = self.dialled = self.handshaking = self.written = False
        self._stream: _Stream | None = None

    async def record(self, event: str, info: Mapping[str, object]) -> None:
        """Record an event: the callback of httpx's `trace` extension."""
        self.available = True
        step = event.partition(".")[2]
        if step in {"connect_tcp.started", "connect_unix_socket.started"}:
            self.dialled = True
        elif step in {"connect_tcp.complete", "connect_unix_socket.complete"}:
            self._stream = cast("_Stream | None", info.get("return_value"))
        elif step.startswith("start_tls."):
            self.handshaking = not step.endswith(".complete")
        elif step == "send_request_headers.started":
            self.written = True

    async def close_handshake(self) -> None:
        """Close the connection of an unfinished TLS handshake: httpcore does so if it fails, but not if cancelled."""
        if self.handshaking and self._stream is not None:
            with contextlib.suppress(Exception):  # a backend that is not ours
                await self._stream.aclose()


class HttpxCall:
    """A request sent through httpx, and the task that runs it.

    `reply` is what the caller of `send` gets; once `task` has ended, httpx holds no resources of the call.
    """

    __slots__ = (
        "_began_at",
        "_clock",
        "_has_room",
        "_loop",
        "_request",
        "_trace",
        "_upload_moved_at",
        "_uploaded_at",
        "reply",
        "task",
    )

    def __init__(
        self,
        request: HttpRequest,
        library: Library,
        send: Callable[[httpx.Request], Awaitable[httpx.Response]],
        clock: Clock,
    ) -> None:
        """Start the call. Raises `ValueError` for an invalid request."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._request = request
        self._trace = _Trace()
        self._has_room = asyncio.Event()
        self._began_at = self._loop.time()
        self._upload_moved_at: float | None = None
        self._uploaded_at: float | None = None
        self.reply = Reply(self, request.timeouts, self._loop)
        httpx_request = library.request(request, self._trace.record, self._upload_moved)
        self.task = self._loop.create_task(self._run(send, httpx_request))
        self.task.add_done_callback(self._finished)
        clock.watch(self)

    # Called by the reply and the clock.

    def resume_reading(self) -> None:
        """Resume reading ahead: the reader has taken what was buffered."""
        self.reply.last_read_at = self._loop.time()
        self._has_room.set()

    def abort(self, reply: object) -> None:
        """End the call: its reader has closed the reply."""
        self.fail("reset", "the reply was closed by its reader")

    def fail(self, kind: Kind, reason: str) -> None:
        """End the call with an `HttpError`, unless it is already over; httpx then closes the connection."""
        if self.reply.error is None and not self.reply.done:
            self.reply.error = self._http_error(kind, reason)
            self.reply.wake()
            self.task.cancel()

    def on_tick(self, now: float) -> None:
        """Check the deadline of the current state."""
        timeouts = self._request.timeouts
        if self.reply.has_head:
            if self.reply.check_deadlines(now):
                self.fail("timeout", f"no data for {timeouts.silence:g} s within the reply")
        elif self._uploaded_at is not None:
            if now - self._uploaded_at >= timeouts.first_byte:
                self.fail("timeout", f"no reply within {timeouts.first_byte:g} s")
        elif self._upload_moved_at is not None:
            if now - self._upload_moved_at >= timeouts.silence:
                self.fail("timeout", f"no byte of the request accepted for {timeouts.silence:g} s")
        elif now - self._began_at >= timeouts.connect + timeouts.first_byte:
            # Most likely it is waiting for a connection of the pool, and nothing has been sent.
            self.fail("timeout", f"no connection available within {timeouts.connect + timeouts.first_byte:g} s")

    # Run by the task.

    async def _run(
        self, send: Callable[[httpx.Request], Awaitable[httpx.Response]], httpx_request: httpx.Request
    ) -> None:
        try:
            response = await send(httpx_request)
            try:
                await self._receive(response)
            finally:
                await response.aclose()
            # Not before: only now can the connection serve another request.
            self.reply.done = self.reply.error is None
            self.reply.wake()
        except asyncio.CancelledError:
            await self._trace.close_handshake()
            raise
        except Exception as error:  # noqa: BLE001 - the end of a task: raised to the reader
            self._end(self._translate(error))

    async def _receive(self, response: httpx.Response) -> None:
        reply = self.reply
        reply.last_read_at = self._loop.time()
        if invalid := _set_head(reply, response):
            self._end(self._http_error("protocol", f"not a valid HTTP/1.1 reply: {invalid}"))
            return
        # Later, so that body bytes of the same read are buffered before the reader runs.
        self._loop.call_soon(reply.wake)
        async with contextlib.aclosing(_raw_chunks(response, reply)) as chunks:
            async for chunk in chunks:
                reply.chunks.append(chunk)
                reply.buffered += len(chunk)
                reply.last_read_at = self._loop.time()
                reply.wake()
                while reply.buffered >= READ_AHEAD:
                    self._has_room.clear()
                    await self._has_room.wait()

    def _upload_moved(self, last: bool) -> None:
        self._upload_moved_at = self._loop.time()
        if last:
            self._uploaded_at = self._upload_moved_at

    def _finished(self, task: asyncio.Task[None]) -> None:
        """Clean up. Not a `finally` in the task, because a task cancelled before its first step never runs."""
        self._clock.unwatch(self)
        if task.cancelled():
            self._end(self._http_error("reset", "the call was cancelled"))

    def _end(self, error: Exception) -> None:
        if self.reply.error is None:
            self.reply.error = error
        self.reply.wake()

    def _translate(self, error: Exception) -> Exception:
        """Return the `HttpError` for an error of httpx, and any other error unchanged."""
        kind: Kind | None = next(
            (_KIND_BY_CLASS[each.__name__] for each in type(error).__mro__ if each.__name__ in _KIND_BY_CLASS), None
        )
        if kind is None:
            return error
        cause = _os_error(error)
        if isinstance(cause, ssl.SSLError):
            reason = tls_error_text(cause)
        else:
            reason = os_error_text(cause) if cause else str(error)
        answered = kind == "protocol" and type(error).__name__ != "LocalProtocolError"
        if kind == "protocol" and str(error).startswith(_CONNECTION_ENDED):
            kind, answered = "reset", False
        if type(error).__name__ == "ConnectTimeout":
            reason = f"no connection within {self._request.timeouts.connect:g} s"
        elif self._trace.handshaking or (isinstance(cause, ssl.SSLError) and not self.reply.status):
            kind = "tls"
        origin = self._request.origin
        if kind in {"connect", "tls"}:
            reason = f"{origin.host}:{origin.port}: {reason}"
        translated = self._http_error(kind, reason)
        translated.answered |= answered
        translated.__cause__ = error
        return translated

    def _http_error(self, kind: Kind, reason: str) -> HttpError:
        """Build the error. Unknown facts err on the safe side: the request may have been sent, on a new connection."""
        trace = self._trace
        return HttpError(
            kind,
            reason,
            reused=trace.written and not trace.dialled,
            sent=trace.written if trace.available else kind not in {"connect", "tls"},
            answered=self.reply.status > 0,
        )


def _set_head(reply: Reply, response: httpx.Response) -> str:
    """Store the head; returns what is invalid about it, or `""`."""
    reply.status = response.status_code
    reply.headers = [(name.lower(), value) for name, value in response.headers.raw]
    if reply.status < 200:
        return "an unrequested upgrade"
    if {b"content-length", b"transfer-encoding"} <= dict(reply.headers).keys():
        return "a length beside a transfer-encoding"
    if sum(len(name) + len(value) + 4 for name, value in reply.headers) > MAX_OVERHEAD:
        return f"more than {MAX_OVERHEAD} bytes of head"
    reply.has_head = True
    return ""


async def _raw_chunks(response: httpx.Response, reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield the undecoded bytes of the body; if a hook of the host has already read it, the decoded body it read."""
    if not response.is_stream_consumed:
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            yield chunk
        return
    if any(name == b"content-encoding" for name, _ in reply.headers):
        stale = {b"content-encoding", b"content-length", b"transfer-encoding"}
        reply.headers = [header for header in reply.headers if header[0] not in stale]
    yield response.content


def _os_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system or of OpenSSL from the chain of causes, if there is one."""
    found: OSError | None = None
    each: BaseException | None = error
    while each is not None and not isinstance(found, ssl.SSLError):
        if isinstance(each, OSError):
            found = each
        each = each.__cause__ or each.__context__
    return found
