"""A limit on the requests that run at once."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.protocol.errors import GatewayError
from bud_asgi.server.refusals import Overloaded, render_parts

_HEALTH = frozenset({"/healthz", "/readyz"})


class ConcurrencyLimit:
    """An ASGI app in front of another: refuses requests beyond `limit` at once with a 529, except for health checks.

    `on_refusal` is called with each error that is sent.
    """

    def __init__(self, app: ASGIApp, limit: int, on_refusal: Callable[[GatewayError], None]) -> None:
        self._app = app
        self._limit = limit
        self._on_refusal = on_refusal
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the scope on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        if self._running >= self._limit:
            error = Overloaded()
            self._on_refusal(error)
            headers, body = render_parts(error)
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
