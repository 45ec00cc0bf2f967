"""Authenticating: from headers alone, before any body is read."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, cast

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.chain import FirstOf, Proof
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.host_code import host_code_error
from bud_asgi.options import OptionError, mismatch
from bud_asgi.protocol.errors import GatewayError, HostRefused
from bud_asgi.protocol.headers import Headers, merge_headers

_NO_IDENTITY = (None, "")


class AuthenticationFailed(GatewayError):
    """The request has no credential, or one that is not valid."""

    status = 401
    type = "authentication_error"
    retryable = False


async def authenticate(chain: FirstOf, exchange: Exchange, scope: Scope) -> None:
    """Set the exchange's principal, and Starlette's `scope["user"]` and `scope["auth"]`.

    A request that has a principal already is not authenticated again. A user that is a `Principal` is taken as it is,
    any other by its `identity` and `display_name`. Raises `AuthenticationFailed`, `TooManyFailures`, `HostRefused` for
    an `HTTPException` of a backend's, and a `GatewayError` (500) if a backend returns what is neither `None` nor
    `AuthCredentials` with a user. Any other exception is the backend's own.
    """
    if (pending := authenticate_now(chain, exchange, scope)) is not None:
        await pending


def authenticate_now(chain: FirstOf, exchange: Exchange, scope: Scope) -> Coroutine[Any, Any, None] | None:
    """Do what `authenticate` does, at once if the caller is known in memory. Else return what has to be awaited."""
    if exchange.principal is not None:
        return None
    proof = chain.find(exchange.headers, scope)
    if isinstance(proof, tuple):
        _note(exchange, scope, proof)
        return None
    return _authenticate_later(chain, exchange, scope, proof)


async def authenticate_websocket(chain: FirstOf, scope: Scope) -> None:
    """Do the same for a websocket, which has no exchange."""
    headers = merge_headers(scope["headers"])
    proof = await _proof(chain.find(headers, scope))
    if proof is None:
        await _ask_others(chain, headers, scope, "websocket")
    else:
        scope["auth"], scope["user"] = proof[0]


async def _authenticate_later(
    chain: FirstOf, exchange: Exchange, scope: Scope, pending: Coroutine[Any, Any, Proof | None] | None
) -> None:
    proof = await _proof(pending)
    if proof is None:
        exchange.principal = await _ask_others(chain, exchange.headers, scope, exchange.request_id)
    else:
        _note(exchange, scope, proof)


def _note(exchange: Exchange, scope: Scope, proof: Proof) -> None:
    (scope["auth"], principal), exchange.credential_headers = proof
    scope["user"] = exchange.principal = principal


async def _proof(pending: Proof | Coroutine[Any, Any, Proof | None] | None) -> Proof | None:
    if pending is None or isinstance(pending, tuple):
        return pending
    try:
        return await pending
    except AuthenticationError as error:
        raise AuthenticationFailed(str(error)) from error


async def _ask_others(chain: FirstOf, headers: Headers, scope: Scope, name: str) -> Principal:
    """Ask the backends that get the whole connection. `name` is what log lines call the request."""
    for backend in chain.others:
        if (principal := await _ask(backend, scope, name)) is not None:
            return principal
    raise AuthenticationFailed(str(chain.refusal(headers, scope)))


async def _ask(backend: AuthenticationBackend, scope: Scope, name: str) -> Principal | None:
    try:
        result = _checked(await backend.authenticate(HTTPConnection(scope)))
        principal = None if result is None else principal_of(result[1])
    except AuthenticationError as error:
        raise AuthenticationFailed(str(error) or "invalid credential") from error
    except HTTPException as error:
        raise HostRefused(error.status_code, error.detail, error.headers) from error
    except OptionError as error:
        fault = f"the authentication backend {type(backend).__name__} returned a wrong result: {error}"
        raise host_code_error(name, fault, "The authentication of this gateway is misconfigured.") from error
    except Exception as error:
        if not isinstance(error, GatewayError) and not hasattr(error, "__notes__"):  # it may be raised again
            error.add_note(
                f"Raised by {type(backend).__name__}. To refuse a request, raise AuthenticationError or HTTPException."
            )
        raise
    if result is not None and principal is not None:
        scope["auth"], scope["user"] = result
    return principal


def _checked(result: object) -> tuple[AuthCredentials, BaseUser] | None:
    """The result of a backend. Raises `OptionError` for anything else."""
    if result is None:
        return None
    parts = cast("Sequence[object]", result) if isinstance(result, (tuple, list)) else ()
    if len(parts) != 2 or not isinstance(parts[0], AuthCredentials):
        raise mismatch("the result of authenticate()", "None, or AuthCredentials and a user", cast("object", result))
    return parts[0], cast("BaseUser", parts[1])


def principal_of(user: BaseUser) -> Principal | None:
    """The principal of a backend's user; `None` if that is not authenticated. Raises `OptionError`."""
    if isinstance(user, Principal):
        return user
    is_authenticated: object = getattr(user, "is_authenticated", None)
    if is_authenticated is False:
        return None
    if is_authenticated is not True:  # a method in place of the property would be true for everyone
        raise mismatch("user.is_authenticated", "a property that is True or False", is_authenticated)
    try:
        identity = user.identity
    except (NotImplementedError, AttributeError):
        kind = type(user).__name__
        raise OptionError("user.identity", f"{kind} has none; return a Principal, or a user with one") from None
    if identity in _NO_IDENTITY:
        return None
    return Principal(id=identity, name=_display_name(user))


def _display_name(user: BaseUser) -> str:
    try:
        return user.display_name
    except (NotImplementedError, AttributeError):
        return ""
