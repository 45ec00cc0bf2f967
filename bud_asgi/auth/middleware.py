"""The middleware that finds out who is asking, from headers alone, before any body is read."""

from __future__ import annotations

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.protocol.errors import GatewayError

Authenticated = tuple[AuthCredentials, BaseUser]
"""What a Starlette backend answers: what the user may do, and who it is."""


class AuthenticationFailed(GatewayError):
    """Nobody we know: no credential, or one that is not valid."""

    status = 401
    type = "authentication_error"
    retryable = False


class AuthMiddleware:
    """Lets a request pass once a backend has said who it is from; anything else is a 401, its body unread.

    `backend` is any Starlette `AuthenticationBackend`. The user it gives becomes the exchange's `Principal` (as it is,
    if it is one; else by its `identity` and `display_name`), and stands in `scope["user"]` and `scope["auth"]`.
    Websockets are authenticated too, and closed (policy violation, 1008) when that fails.
    """

    def __init__(self, app: ASGIApp, *, backend: AuthenticationBackend) -> None:
        self.app = app
        self.backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, then call the app behind."""
        if scope["type"] == "http":
            exchange = Exchange.of(scope)
            try:
                exchange.principal = await self._authenticate(scope)
            except GatewayError as error:
                await exchange.refuse(error, send)
                return
        elif scope["type"] == "websocket":
            try:
                await self._authenticate(scope)
            except GatewayError as error:
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
                return
        await self.app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Principal:
        try:
            result = await self.backend.authenticate(HTTPConnection(scope))
        except AuthenticationError as error:
            raise AuthenticationFailed(str(error) or "invalid credential") from error
        if result is None:
            raise AuthenticationFailed("x-api-key header is required")
        credentials, user = result
        principal = _principal_of(user)
        scope["auth"], scope["user"] = credentials, user
        return principal


def _principal_of(user: BaseUser) -> Principal:
    if isinstance(user, Principal):
        return user
    if not user.is_authenticated:
        raise AuthenticationFailed("x-api-key header is required")
    return Principal(id=user.identity, name=user.display_name)


def authenticated(principal: Principal) -> Authenticated:
    """What a backend answers for a principal, in Starlette's terms."""
    return AuthCredentials(["authenticated"]), principal
