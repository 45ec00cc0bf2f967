"""The httpx engine: an `HttpClient` over a client or transport of httpx or httpx2 that the host hands in.

For what our own engine doesn't do: proxies, HTTP/2, instrumentation, mocks. It costs many times as much, and keeps the
promises of the seam as far as httpx lets it: where it can't, `tests/http/differences.py` says so and why.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from bud_asgi.clock import Clock
from bud_asgi.http.httpx.call import Call, Incoming
from bud_asgi.http.httpx.library import Library
from bud_asgi.http.reply import Reply
from bud_asgi.http.seam import HttpRequest

if TYPE_CHECKING:
    import httpx
    import httpx2

Source: TypeAlias = "httpx.AsyncClient | httpx.AsyncBaseTransport | httpx2.AsyncClient | httpx2.AsyncBaseTransport"
"""What carries the requests."""

_serving: weakref.WeakKeyDictionary[object, weakref.ref[asyncio.AbstractEventLoop]] = weakref.WeakKeyDictionary()
"""The loop of every client and transport that was handed in: its connections live there."""


class HttpxEngine:
    """An `HttpClient` for one event loop, over httpx or httpx2.

    A client or transport that is handed in belongs to the host, who closes it; it serves one loop. A function is called
    for each engine, so for each loop, and what it makes is closed with the engine.

    Headers are the request's own, redirects are not followed, bodies not decompressed; of the client's settings, its
    transports, proxies, certificates, limits and event hooks count, not its headers, cookies, `auth` and timeouts.
    """

    def __init__(self, source: Source | Callable[[], Source]) -> None:
        """Belong to the running loop.

        Raises `RuntimeError` where there is none or the client serves another, `TypeError` for what is neither client,
        transport nor a function that makes one.
        """
        self._loop = asyncio.get_running_loop()
        self._owned = isinstance(source, type) or not hasattr(source, "aclose")
        made: object = cast("Callable[[], object]", source)() if self._owned and callable(source) else source
        self._library = Library(made)
        self._source = cast("httpx.AsyncClient | httpx.AsyncBaseTransport", made)
        self._send = self._sending()
        self._clock = Clock(self._loop)
        self._calls: set[Call] = set()
        self._closed = False
        if not self._owned:
            self._claim()

    async def send(self, request: HttpRequest) -> Reply[Incoming]:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for a target or header that can't be written (nothing has been sent then);
        `RuntimeError` in another loop, or after `aclose`; whatever a transport or a hook of the host raises that is no
        error of httpx. Cancelled, the exchange is aborted.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("an engine belongs to the event loop that it was made in")
        if self._closed:
            raise RuntimeError("the engine is closed")
        call = Call(request, self._library, self._send, self._clock)
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._calls.discard(call))
        try:
            await call.reply.head()
        except BaseException:
            call.reply.close()
            raise
        return call.reply

    async def aclose(self) -> None:
        """End every exchange, and close what a function made. May be called twice."""
        self._closed = True
        tasks = [call.task for call in self._calls]
        for call in tuple(self._calls):
            call.fail("reset", "the engine was closed")
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._owned:
            self._owned = False
            await self._source.aclose()

    def _sending(self) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
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
        claimed = _serving.get(self._source)
        if claimed is not None and claimed() is not self._loop:
            raise RuntimeError(
                "this httpx client serves another event loop; hand in a function that makes one, "
                "and every loop gets its own"
            )
        _serving[self._source] = weakref.ref(self._loop)
