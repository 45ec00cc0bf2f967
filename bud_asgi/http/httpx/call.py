"""One call through httpx: its request, its reply and its end, in a task of its own.

httpx reads when it is asked and closes when it is awaited; the seam hands out what is here already, and closes at once.
So a task sends, reads ahead up to `HOLD` bytes and closes, and who wants no more cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Literal, cast

from bud_asgi.clock import Clock
from bud_asgi.http.dial import reason, words
from bud_asgi.http.httpx.library import Library
from bud_asgi.http.message import MAX_OVERHEAD
from bud_asgi.http.reply import HOLD, Reply
from bud_asgi.http.seam import Header, HttpError, HttpRequest

if TYPE_CHECKING:
    import httpx

Kind = Literal["connect", "tls", "timeout", "reset", "protocol"]

_KINDS: dict[str, Kind] = {
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
"""What an error of httpx or httpx2 is to the seam: the first of its classes that stands here counts."""

_ENDED = (
    "Server disconnected",
    "peer closed connection",
    "peer unexpectedly closed connection",
    "<ConnectionTerminated",
    "<StreamReset",
)
"""How httpcore, h11 and h2 begin to tell of an end: they raise it as the same error as text that is not HTTP."""


class Incoming:
    """What has come of a reply: the `Received` of a reply, filled by its call."""

    __slots__ = ("_chunks", "complete", "headed", "headers", "held", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.headed = self.complete = False
        self.held = 0
        self._chunks: list[bytes] = []

    def begin(self, response: httpx.Response) -> str:
        """Take the head; returns why it can't be trusted, `""` if it can."""
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        if self.status < 200:
            return "an upgrade that nobody asked for"
        if {b"content-length", b"transfer-encoding"} <= dict(self.headers).keys():
            return "a length beside a transfer-encoding"
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_OVERHEAD:
            return f"more than {MAX_OVERHEAD} bytes of head"
        self.headed = True
        return ""

    def add(self, data: bytes) -> None:
        """Some bytes of the body."""
        self._chunks.append(data)
        self.held += len(data)

    def take(self) -> bytes:
        """What is here of the body, and forget it; `b""` if nothing."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.held = 0
        return data


class _Facts:
    """What httpcore tells of a call on its way; a transport that tells nothing leaves `told` false."""

    __slots__ = ("dialled", "handshaking", "told", "written")

    def __init__(self) -> None:
        self.told = self.dialled = self.handshaking = self.written = False

    async def trace(self, event: str, info: object) -> None:
        """The `trace` extension of httpx."""
        self.told = True
        step = event.partition(".")[2]
        if step in {"connect_tcp.started", "connect_unix_socket.started"}:
            self.dialled = True
        elif step.startswith("start_tls."):
            self.handshaking = not step.endswith(".complete")
        elif step == "send_request_headers.started":
            self.written = True


class Call:
    """A request on its way through httpx, and the task that carries it.

    `reply` is the seam's; when `task` has ended, httpx holds nothing of the call.
    """

    __slots__ = (
        "_began_at",
        "_clock",
        "_facts",
        "_incoming",
        "_loop",
        "_moved_at",
        "_request",
        "_room",
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
        """Begin. Raises `ValueError` for a request that can't be written."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._request = request
        self._facts = _Facts()
        self._incoming = Incoming()
        self._room = asyncio.Event()
        self._began_at = self._loop.time()
        self._moved_at: float | None = None
        self._uploaded_at: float | None = None
        self.reply = Reply(self, self._incoming, request.timeouts, self._loop)
        made = library.request(request, self._facts.trace, self._asked)
        self.task = self._loop.create_task(self._run(send, made))
        self.task.add_done_callback(self._finished)
        clock.watch(self)

    # Asked by the reply and the clock.

    def read_on(self) -> None:
        """The reader has taken what was here: read ahead again."""
        self.reply.heard_at = self._loop.time()
        self._room.set()

    def give_up(self, reply: object) -> None:
        """The reader wants no more."""
        self.fail("reset", "the reply was closed by its reader")

    def fail(self, kind: Kind, reason: str) -> None:
        """End the call with an `HttpError`, unless it is over; httpx then closes the connection."""
        if self.reply.error is None and not self._incoming.complete:
            self.reply.error = self._error(kind, reason)
            self.reply.wake()
            self.task.cancel()

    def on_tick(self, now: float) -> None:
        """Look at the deadline of the state that it is in."""
        timeouts = self._request.timeouts
        if self._incoming.headed:
            if self.reply.overdue(now):
                self.fail("timeout", f"silent for {timeouts.silence:g} s within the reply")
        elif self._uploaded_at is not None:
            if now - self._uploaded_at >= timeouts.first_byte:
                self.fail("timeout", f"no reply within {timeouts.first_byte:g} s")
        elif self._moved_at is not None:
            if now - self._moved_at >= timeouts.silence:
                self.fail("timeout", f"no byte of the request accepted for {timeouts.silence:g} s")
        elif now - self._began_at >= timeouts.connect + timeouts.first_byte:
            # Most likely it waits for a connection of the pool, and nothing of it has been sent.
            self.fail("timeout", f"nothing sent for {timeouts.connect + timeouts.first_byte:g} s")

    # In the task.

    async def _run(self, send: Callable[[httpx.Request], Awaitable[httpx.Response]], made: httpx.Request) -> None:
        try:
            response = await send(made)
            try:
                await self._receive(response)
            finally:
                await response.aclose()
            # Only now may its connection serve another.
            self._incoming.complete = self.reply.error is None
            self.reply.wake()
        except Exception as error:  # noqa: BLE001 - the end of a task: the reader gets it
            self._end(self._named(error))

    async def _receive(self, response: httpx.Response) -> None:
        incoming, reply = self._incoming, self.reply
        reply.heard_at = self._loop.time()
        if distrust := incoming.begin(response):
            self._end(self._error("protocol", f"not a valid HTTP/1.1 reply: {distrust}"))
            return
        # After what has come in the same read.
        self._loop.call_soon(reply.wake)
        async with contextlib.aclosing(_raw(response, incoming)) as chunks:
            async for chunk in chunks:
                incoming.add(chunk)
                reply.heard_at = self._loop.time()
                reply.wake()
                while incoming.held >= HOLD:
                    self._room.clear()
                    await self._room.wait()

    def _asked(self, last: bool) -> None:
        self._moved_at = self._loop.time()
        if last:
            self._uploaded_at = self._moved_at

    def _finished(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step runs nothing, so this is no `finally` in it."""
        self._clock.unwatch(self)
        if task.cancelled():
            self._end(self._error("reset", "the call was cancelled"))

    def _end(self, error: Exception) -> None:
        if self.reply.error is None:
            self.reply.error = error
        self.reply.wake()

    def _named(self, error: Exception) -> Exception:
        """The seam's error for one of httpx; one that is not about the exchange stays itself."""
        kind: Kind | None = next(
            (_KINDS[each.__name__] for each in type(error).__mro__ if each.__name__ in _KINDS), None
        )
        if kind is None:
            return error
        cause = _cause(error)
        said = reason(cause) if isinstance(cause, ssl.SSLError) else words(cause) if cause else str(error)
        answered = kind == "protocol" and type(error).__name__ != "LocalProtocolError"
        if kind == "protocol" and str(error).startswith(_ENDED):
            kind, answered = "reset", False
        if type(error).__name__ == "ConnectTimeout":
            said = f"no connection within {self._request.timeouts.connect:g} s"
        elif self._facts.handshaking or (isinstance(cause, ssl.SSLError) and not self._incoming.status):
            kind = "tls"
        origin = self._request.origin
        named = self._error(kind, f"{origin.host}:{origin.port}: {said}" if kind in {"connect", "tls"} else said)
        named.answered |= answered
        named.__cause__ = error
        return named

    def _error(self, kind: Kind, reason: str) -> HttpError:
        """What is not known is told on the safe side: a request may have left, a connection had not served before."""
        facts = self._facts
        return HttpError(
            kind,
            reason,
            reused=facts.written and not facts.dialled,
            sent=facts.written if facts.told else kind not in {"connect", "tls"},
            answered=self._incoming.status > 0,
        )


async def _raw(response: httpx.Response, incoming: Incoming) -> AsyncGenerator[bytes, None]:
    """The bytes of the body as they came; of one that a hook of the host has read already, what it had read."""
    if not response.is_stream_consumed:
        async for chunk in cast("httpx.AsyncByteStream", response.stream):
            yield chunk
        return
    if any(name == b"content-encoding" for name, _ in incoming.headers):
        changed = {b"content-encoding", b"content-length", b"transfer-encoding"}
        incoming.headers = [header for header in incoming.headers if header[0] not in changed]
    yield response.content


def _cause(error: BaseException) -> OSError | None:
    """What the system or OpenSSL said: httpx keeps it as the cause of the cause."""
    found: OSError | None = None
    each: BaseException | None = error
    while each is not None and not isinstance(found, ssl.SSLError):
        if isinstance(each, OSError):
            found = each
        each = each.__cause__ or each.__context__
    return found
