"""Calls from the host's own code to the app in the same process, through httpx or httpx2, without a socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, cast, overload

from starlette.types import ASGIApp, Message, Scope

from bud_asgi.disconnect import DISCONNECT
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import check_function, mismatch

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _AnyTransport(  # pyright: ignore[reportIncompatibleMethodOverride] - each has its own classes of requests
        httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport
    ): ...
else:
    _AnyTransport = object

Caller = Principal | str | Callable[[], Principal | str]
"""Who calls: a principal, its id, or a function that returns one of them for each request."""

BUFFERED = 256 << 10
"""Bytes of a response that may wait for their reader; past them, the app waits."""

_LIBRARIES = ("httpx", "httpx2")


class InProcessTransport(_AnyTransport):
    """A transport for `httpx.AsyncClient` and `httpx2.AsyncClient` that calls an ASGI app, as one principal.

    Only the path and the query of a URL count. A response is streamed as the app sends it; closing it, or cancelling
    the call, is a disconnect of the client, which ends the upstream call. Of a request's timeouts only `read` applies.
    It works in any event loop of asyncio, also in several. `aclose` ends the calls that are running in this one; others
    may follow.
    """

    def __init__(self, app: ASGIApp, principal: Caller) -> None:
        self._app = app
        self._principal = _principal_function(principal)
        self._calls: set[_Call] = set()

    @overload
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response: ...
    @overload
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response: ...
    async def handle_async_request(self, request: httpx.Request | httpx2.Request) -> httpx.Response | httpx2.Response:
        """Call the app, and return its response once the head is there.

        Raises the library's `ReadTimeout`, and `RemoteProtocolError` for a response that the app does not complete.
        """
        request = cast("httpx.Request", request)
        body = b"".join([chunk async for chunk in cast("httpx.AsyncByteStream", request.stream)])
        call = _Call(request, body)
        scope = _scope(request, call)
        Exchange.of(scope).principal = self._principal()
        call.begin(self._app, scope)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        try:
            head = await call.head()
        except BaseException:
            call.close()
            raise
        return call.library.Response(
            head["status"],
            headers=head["headers"],
            stream=_stream_class(call.library)(call),
            extensions={"http_version": b"HTTP/2"},
        )

    def handle_request(self, _request: object) -> NoReturn:
        """Refuse a call by a synchronous client. Raises `TypeError`."""
        raise TypeError("this transport is for httpx.AsyncClient and httpx2.AsyncClient, not for synchronous clients")

    def __enter__(self) -> NoReturn:
        """Refuse the `with` block of a synchronous client. Raises `TypeError`."""
        self.handle_request(None)

    async def aclose(self) -> None:
        """End the calls that are running in this event loop, and wait for their end."""
        loop = asyncio.get_running_loop()
        calls = [call for call in self._calls if call.task.get_loop() is loop]
        for call in calls:
            call.close()
        if calls:
            await asyncio.wait([call.task for call in calls])

    async def __aenter__(self) -> Self:
        """Open nothing: every call has its own task."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close."""
        await self.aclose()


class _Call:
    """One request: the app writes its response here, in a task of its own, and httpx reads it."""

    task: asyncio.Task[None]

    def __init__(self, request: httpx.Request, body: bytes) -> None:
        timeout = cast("dict[str, float | None]", request.extensions.get("timeout", {}))
        self.library = _library(type(request))
        self._timeout = timeout.get("read")
        self._body: bytes | None = body
        self._head: Message | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._complete = False
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()
        """The app has sent something, or has ended."""
        self._taken = asyncio.Event()
        """There is room for more."""
        self._on_close: Callable[[], None] | None = None

    def begin(self, app: ASGIApp, scope: Scope) -> None:
        """Start the app. The caller keeps the task."""
        self.task = asyncio.create_task(self._run(app, scope), name="bud_asgi in-process call")

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        finally:
            self._changed.set()

    # The app's side.

    async def receive(self) -> Message:
        """ASGI's `receive`: the body, then the disconnect."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send`. Waits while the reader is behind. Raises `OSError` once the response has been closed."""
        if self._closed.is_set():
            raise OSError("the response has been closed")
        if message["type"] == "http.response.start":
            self._head = message
        elif message["type"] == "http.response.body":
            if chunk := message.get("body", b""):
                self._chunks.append(chunk)
                self._size += len(chunk)
            self._complete = not message.get("more_body", False)
        self._changed.set()
        if self._size > BUFFERED and not self._complete:
            self._taken.clear()
            await self._taken.wait()

    def call_back_on_close(self, call_back: Callable[[], None]) -> None:
        """Call back when the response is closed before it is complete. The extension `DISCONNECT`."""
        self._on_close = call_back
        if self._closed.is_set():
            call_back()

    # The client's side.

    async def head(self) -> Message:
        """Wait for the head of the response."""
        while self._head is None:
            await self._wait()
        return self._head

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what there is, as it comes."""
        while True:
            if self._chunks:
                chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks, self._size = [], 0
                self._taken.set()
                yield chunk
            elif self._complete:
                return
            else:
                await self._wait()

    def close(self) -> None:
        """Disconnect, unless all has been sent. The app ends by itself."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._taken.set()
        if self._on_close is not None and not self._complete:
            self._on_close()

    async def _wait(self) -> None:
        """Wait until the app has sent something. Raises the library's `ReadTimeout` and `RemoteProtocolError`."""
        if self.task.done():
            cause = None if self.task.cancelled() else self.task.exception()
            raise self.library.RemoteProtocolError("the app ended before its response was complete") from cause
        self._changed.clear()
        if self._timeout is None:
            await self._changed.wait()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._changed.wait()
        except TimeoutError as error:
            raise self.library.ReadTimeout("the app has sent nothing for too long") from error


class _Stream:
    """The body of a response, as either library reads it."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._call.chunks()

    async def aclose(self) -> None:
        """Disconnect, unless all has been sent."""
        self._call.close()


def _scope(request: httpx.Request, call: _Call) -> Scope:
    """The scope of a request. In HTTP/2, unlike 1.1, an early answer is the end of the request."""
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "2",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": None,
        "server": (url.host, url.port),
        "extensions": {DISCONNECT: call.call_back_on_close},
    }


def _principal_function(principal: object) -> Callable[[], Principal]:
    if isinstance(principal, type):
        raise mismatch("principal", "a Principal, an id, or a function that returns one", principal)
    if not callable(principal):
        fixed = _principal(principal)
        return lambda: fixed
    check_function("principal", principal, "a Principal, an id, or a function without arguments that returns one")
    return lambda: _principal(principal())


def _principal(found: object) -> Principal:
    if isinstance(found, str):
        return Principal(id=found)
    if not isinstance(found, Principal):
        raise mismatch("principal", "a Principal or its id", found)
    return found


@lru_cache
def _library(kind: type) -> ModuleType:
    """The library of a class of requests: the two do not accept each other's objects."""
    return next(
        sys.modules[name] for name in _LIBRARIES if name in sys.modules and issubclass(kind, sys.modules[name].Request)
    )


@lru_cache
def _stream_class(library: ModuleType) -> Callable[[_Call], httpx.AsyncByteStream]:
    return cast(
        "Callable[[_Call], httpx.AsyncByteStream]", type("InProcessStream", (_Stream, library.AsyncByteStream), {})
    )
