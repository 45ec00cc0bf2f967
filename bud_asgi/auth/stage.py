"""Authenticating: from headers alone, before any body is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.api_keys import ApiKeys
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.host_code import add_note_once, host_code_error
from bud_asgi.options import OptionError, check_function, check_methods, mismatch
from bud_asgi.protocol.errors import GatewayError

BACKEND_EXPECTED = (
    "an object with an async method authenticate(connection), such as ApiKeys({...}), HostUser(...) or Anonymous()"
)
_NO_IDENTITY = (None, "")
_REQUIRED = "x-api-key header is required"


class AuthenticationFailed(GatewayError):
    """The request has no credential, or one that is not valid."""

    status = 401
    type = "authentication_error"
    retryable = False


async def authenticate(backend: AuthenticationBackend, exchange: Exchange, scope: Scope) -> None:
    """Set the exchange's principal, and Starlette's `scope["user"]` and `scope["auth"]`.

    A user that is a `Principal` is taken as it is, any other by its `identity` and `display_name`. Raises
    `AuthenticationFailed`, and a `GatewayError` (500) if the backend returns what is neither `None` nor
    `AuthCredentials` with a user. Any other exception is the backend's own.
    """
    if authenticate_now(backend, exchange, scope):
        return
    exchange.principal = await authenticate_scope(backend, scope, exchange.request_id)


def authenticate_now(backend: AuthenticationBackend, exchange: Exchange, scope: Scope) -> bool:
    """Do what `authenticate` does, without a coroutine, if the backend is `ApiKeys`. Otherwise return `False`."""
    if type(backend) is not ApiKeys:  # a subclass may have an `authenticate` of its own
        return False
    try:
        found, exchange.credential_headers = backend.find(exchange.headers)
    except AuthenticationError as error:
        raise AuthenticationFailed(str(error)) from error
    if found is None:
        raise AuthenticationFailed(_REQUIRED)
    scope["auth"], scope["user"] = found
    exchange.principal = found[1]
    return True


async def authenticate_scope(backend: AuthenticationBackend, scope: Scope, name: str) -> Principal:
    """The same for a scope without an exchange: a websocket's. `name` is what log lines call the request."""
    try:
        result = _checked(await backend.authenticate(HTTPConnection(scope)))
        principal = _principal_of(result[1])
    except AuthenticationError as error:
        raise AuthenticationFailed(str(error) or "invalid credential") from error
    except OptionError as error:
        fault = f"the authentication backend {type(backend).__name__} returned a wrong result: {error}"
        raise host_code_error(name, fault, "The authentication of this gateway is misconfigured.") from error
    except Exception as error:
        add_note_once(error, f"Raised by {type(backend).__name__}. To refuse a request, raise AuthenticationError.")
        raise
    scope["auth"], scope["user"] = result
    return principal


def check_backend(option: str, value: object) -> None:
    """Check for an authentication backend: not its class, and no function. Raises `OptionError`."""
    check_methods(option, value, BACKEND_EXPECTED, ("authenticate",))
    if getattr(type(value), "authenticate", None) is AuthenticationBackend.authenticate:  # which is not implemented
        raise mismatch(option, BACKEND_EXPECTED, value)
    check_function(option, cast("AuthenticationBackend", value).authenticate, BACKEND_EXPECTED, None)


def _checked(result: object) -> tuple[AuthCredentials, BaseUser]:
    """The result of a backend. Raises `AuthenticationFailed` for `None`, `OptionError` for anything else."""
    if result is None:
        raise AuthenticationFailed(_REQUIRED)
    parts = cast("Sequence[object]", result) if isinstance(result, (tuple, list)) else ()
    if len(parts) != 2 or not isinstance(parts[0], AuthCredentials):
        raise mismatch("the result of authenticate()", "None, or AuthCredentials and a user", cast("object", result))
    return parts[0], cast("BaseUser", parts[1])


def _principal_of(user: BaseUser) -> Principal:
    if isinstance(user, Principal):
        return user
    is_authenticated: object = getattr(user, "is_authenticated", None)
    if is_authenticated is False:
        raise AuthenticationFailed(_REQUIRED)
    if is_authenticated is not True:  # a method in place of the property would be true for everyone
        raise mismatch("user.is_authenticated", "a property that is True or False", is_authenticated)
    try:
        identity = user.identity
    except (NotImplementedError, AttributeError):
        kind = type(user).__name__
        raise OptionError("user.identity", f"{kind} has none; return a Principal, or a user with one") from None
    if identity in _NO_IDENTITY:
        raise AuthenticationFailed(_REQUIRED)
    return Principal(id=identity, name=_display_name(user))


def _display_name(user: BaseUser) -> str:
    try:
        return user.display_name
    except (NotImplementedError, AttributeError):
        return ""
