"""The httpx engine: an `HttpClient` over a client or transport of httpx or httpx2 that the host provides.

For what the project's own engine does not do: proxies, HTTP/2, instrumentation, mocks. It costs many times as much, and
implements the interface as far as httpx allows; `tests/http/differences.py` lists the differences and their reasons.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from bud_asgi.clock import Clock
from bud_asgi.http.httpx.call import HttpxCall
from bud_asgi.http.httpx.library import Library
from bud_asgi.http.reply import Reply
from bud_asgi.http.seam import HttpRequest, loop_for_engine

if TYPE_CHECKING:
    import httpx
    import httpx2

Source: TypeAlias = "httpx.AsyncClient | httpx.AsyncBaseTransport | httpx2.AsyncClient | httpx2.AsyncBaseTransport"
"""What requests are sent through."""

_loop_of: weakref.WeakKeyDictionary[object, weakref.ref[asyncio.AbstractEventLoop]] = weakref.WeakKeyDictionary()
"""The event loop of each client and transport that a host has passed in: its connections belong to that loop."""


class HttpxEngine:
    """An `HttpClient` for one event loop, over httpx or httpx2.

    A client or transport that is passed in stays the host's to close, and works in one loop only. A function is called
    once per engine, and so once per loop; what it returns is closed with the engine.

    Of a client's settings, the transports, proxies, certificates, limits and event hooks apply; its headers, cookies,
    `auth` and timeouts do not. Redirects are not followed and bodies are not decompressed.
    """

    def __init__(self, source: Source | Callable[[], Source]) -> None:
        """Bind to the running loop.

        Raises `RuntimeError` if there is none or the client is used in another one, `TypeError` if `source` is not a
        client, a transport, or a function that returns one.
        """
        self._loop = loop_for_engine()
        self._owned = isinstance(source, type) or not hasattr(source, "aclose")
        client: object = cast("Callable[[], object]", source)() if self._owned and callable(source) else source
        self._library = Library(client)
        self._source = cast("httpx.AsyncClient | httpx.AsyncBaseTransport", client)
        self._send = self._send_function()
        self._clock = Clock(self._loop)
        self._calls: set[HttpxCall] = set()
        self._closed = False
        if not self._owned:
            self._claim()

    async def send(self, request: HttpRequest) -> Reply:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for an invalid method, target or header (before anything is sent);
        `RuntimeError` in another loop, or after `aclose`; and any other exception that the host's transport or hooks
        raise. If cancelled, the exchange is aborted.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("an engine belongs to the event loop that it was made in")
        if self._closed:
            raise RuntimeError("the engine is closed")
        call = HttpxCall(request, self._library, self._send, self._clock)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        return await call.reply.head()

    async def aclose(self) -> None:
        """Abort every exchange, and close the client that a function returned. May be called twice."""
        self._closed = True
        tasks = [call.task for call in self._calls]
        for call in tuple(self._calls):
            call.fail("reset", "the engine was closed")
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._owned:
            self._owned = False
            await self._source.aclose()

    def _send_function(self) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
        source = self._source
        if hasattr(source, "handle_async_request"):
            return cast("httpx.AsyncBaseTransport", source).handle_async_request
        client = cast("httpx.AsyncClient", source)
        if self._owned:
            client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))

        async def send(request: httpx.Request) -> httpx.Response:
            return await client.send(request, stream=True, auth=None, follow_redirects=False)

        return send

    def _claim(self) -> None:
        claimed = _loop_of.get(self._source)
        if claimed is not None and claimed() is not self._loop:
            raise RuntimeError(
                "this httpx client is used in another event loop; pass a function that creates a client, "
                "so that every loop gets its own"
            )
        _loop_of[self._source] = weakref.ref(self._loop)
