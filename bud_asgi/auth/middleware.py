"""The authenticating stage as a middleware, for custom stacks and for other apps."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.authentication import AuthenticationBackend
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.auth.chain import as_chain
from bud_asgi.auth.stage import authenticate, authenticate_websocket
from bud_asgi.exchange import Exchange
from bud_asgi.host_code import check_app
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.response import Response


class AuthMiddleware:
    """Passes authenticated requests on; answers others with 401, without reading the body.

    `backend` is any Starlette `AuthenticationBackend`, or a list of them (`FirstOf`). Its user becomes the exchange's
    `Principal`, `scope["user"]` and `scope["auth"]`. Websockets are authenticated too, and closed (policy violation,
    1008) if that fails. `chain` is the backend, or all of them, as one. Raises `OptionError`.
    """

    def __init__(self, app: ASGIApp, *, backend: AuthenticationBackend | Sequence[AuthenticationBackend]) -> None:
        check_app(app)
        self.app = app
        self.chain = as_chain("backend", backend)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, then call the app behind."""
        if scope["type"] == "http":
            exchange = Exchange.of(scope)
            try:
                await authenticate(self.chain, exchange, scope)
            except GatewayError as error:
                await Response(exchange, send, receive=receive).fail(error)
                return
        elif scope["type"] == "websocket":
            try:
                await authenticate_websocket(self.chain, scope)
            except GatewayError as error:
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
                return
        await self.app(scope, receive, send)
