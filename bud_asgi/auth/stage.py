"""Authenticating: from headers alone, before any body is read."""

from __future__ import annotations

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.protocol.errors import GatewayError

Authenticated = tuple[AuthCredentials, BaseUser]
"""What a Starlette backend returns: the scopes that a user has, and the user."""


class AuthenticationFailed(GatewayError):
    """The request has no credential, or one that is not valid."""

    status = 401
    type = "authentication_error"
    retryable = False


async def authenticate(backend: AuthenticationBackend, exchange: Exchange, scope: Scope) -> None:
    """Set the exchange's principal, and Starlette's `scope["user"]` and `scope["auth"]`.

    A user that is a `Principal` is taken as it is, any other by its `identity` and `display_name`. Raises
    `AuthenticationFailed`.
    """
    exchange.principal = await authenticate_scope(backend, scope)


async def authenticate_scope(backend: AuthenticationBackend, scope: Scope) -> Principal:
    """The same for a scope without an exchange: a websocket's."""
    try:
        result = await backend.authenticate(HTTPConnection(scope))
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
    """A backend's result for a principal, in Starlette's terms."""
    return AuthCredentials(["authenticated"]), principal
