"""Backends for a host that authenticates its own users, or has no authentication."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from inspect import isawaitable

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.api_keys import Authenticated, authenticated
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import check_choice, check_function, check_texts, mismatch, one_of
from bud_asgi.protocol.headers import Headers, credential_headers, merge_headers

Found = Principal | BaseUser | str | None
"""What a host's function returns: a principal, a Starlette user, an id, or `None` for an unauthenticated request."""

CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""The headers in which clients of the Messages API send a credential (vendor page "API overview")."""

MAX_TOKEN = 8192
"""The longest token that a host's function is called with, in characters."""


class HostUser(AuthenticationBackend):
    """Uses the host application's own authentication. `user` reads the ASGI scope, and may be async.

    By default it is the user that the host's own middleware left in `scope["user"]`. It returns a `Principal`, another
    Starlette user (its `identity` becomes the id), an id, or `None` for an unauthenticated request (401); an empty id
    is none. It may raise Starlette's `HTTPException` (FastAPI's is one) to refuse the request with that status, detail
    and headers.

    `credential_headers` are those that the host's login reads, `authorization` and `x-api-key` by default: a provider
    with `auth="client"` does not forward them. Pass `()` for a login by cookie, for example.

    Raises `OptionError`. A function that returns anything else is reported in the log, and the request answered with a
    500.
    """

    def __init__(
        self,
        user: Callable[[Scope], Found | Awaitable[Found]] | None = None,
        *,
        credential_headers: Collection[str] = CREDENTIAL_HEADERS,
    ) -> None:
        expected = "a function of the ASGI scope"
        if isinstance(user, type):  # what it makes would be taken for a user
            raise mismatch("user", expected, user)
        if user is not None:
            check_function("user", user, expected, {})
        self._user = user or _user_of_scope
        self._credential_headers = check_credential_headers(credential_headers)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Call the host's function."""
        if conn.scope["type"] == "http":
            Exchange.of(conn.scope).credential_headers = self._credential_headers
        found = self._user(conn.scope)
        return user_found(await found if isawaitable(found) else found)


class HostToken(AuthenticationBackend):
    """Authenticates by tokens of the host's own: `user` finds the user of a token, and may be async.

    The token is what a client sends as its API key: in `Authorization: Bearer` or in `x-api-key`. Where a request has
    two different ones, the bearer token is tried first. `user` returns and raises what the function of `HostUser` does,
    `None` for an unknown token (401); what it is called with is never logged. The header of a token that was accepted
    is not forwarded by a provider with `auth="client"`. Raises `OptionError`.
    """

    def __init__(self, user: Callable[[str], Found | Awaitable[Found]]) -> None:
        expected = "a function of the token"
        if isinstance(user, type):
            raise mismatch("user", expected, user)
        check_function("user", user, expected, "")
        self._user = user

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Find the user of the request's token. Raises `AuthenticationError` without a known one."""
        scope = conn.scope
        headers = Exchange.of(scope).headers if scope["type"] == "http" else merge_headers(scope["headers"])
        tokens = _tokens(headers)
        for token in dict.fromkeys(tokens.values()):
            found = self._user(token)
            user = user_found(await found if isawaitable(found) else found)
            if user is not None:
                if scope["type"] == "http":
                    proved = tuple(name for name, value in tokens.items() if value == token)
                    Exchange.of(scope).credential_headers = proved
                return user
        if b"authorization" in tokens:
            raise AuthenticationError("Invalid bearer token")
        raise AuthenticationError("invalid x-api-key" if tokens else "x-api-key header is required")


class Anonymous(AuthenticationBackend):
    """Accepts every request, as one principal with the id `anonymous`: for local use."""

    def __init__(self) -> None:
        self._principal = Principal(id="anonymous")

    async def authenticate(self, conn: HTTPConnection) -> Authenticated | None:
        """Return the anonymous principal."""
        return authenticated(self._principal)


def user_found(found: object) -> tuple[AuthCredentials, BaseUser] | None:
    """What a host's function returned, as the result of a backend. Raises `OptionError`."""
    if found is None or found is False or found == "":
        return None
    if isinstance(found, str):
        return authenticated(Principal(id=found))
    if isinstance(found, Principal):
        return authenticated(found)
    if not isinstance(found, BaseUser):
        raise mismatch("the result of user()", "a Principal, another Starlette user, an id or None", found)
    return AuthCredentials(["authenticated"]), found


def check_credential_headers(value: object) -> tuple[bytes, ...]:
    """Check names of headers in which clients send a credential, and return them as the wire has them."""
    names = check_texts("credential_headers", value, f"names out of {one_of(CREDENTIAL_HEADERS)}")
    for name in names:
        check_choice("credential_headers", name, CREDENTIAL_HEADERS)
    return tuple(name.encode() for name in names)


def _user_of_scope(scope: Scope) -> Found:
    return scope.get("user")


def _tokens(headers: Headers) -> dict[bytes, str]:
    """The tokens of a request by header name, the bearer token first."""
    tokens: dict[bytes, str] = {}
    for name, value in sorted(credential_headers(headers)):
        text = value.decode("ascii").strip()
        if name == b"authorization":
            scheme, _, text = text.partition(" ")
            text = text.strip() if scheme.lower() == "bearer" else ""
        if text and len(text) <= MAX_TOKEN:
            tokens[name] = text
    return tokens
