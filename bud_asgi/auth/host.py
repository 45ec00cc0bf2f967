"""Backends for a host that authenticates its own users, or has no authentication."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection
from inspect import isawaitable

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.chain import UNAUTHENTICATED, CredentialBackend, Pending
from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.auth.stage import principal_of
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import check_choice, check_function, check_text, check_texts, mismatch, one_of
from bud_asgi.protocol.errors import HostRefused

Found = Principal | BaseUser | str | None
"""What a host's function returns: a principal, a Starlette user, an id, or `None` for an unauthenticated request."""

CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""The headers in which clients of the Messages API send a credential (vendor page "API overview")."""

MAX_TOKEN = 8192
"""The longest token that a host's function is called with, in bytes."""

MAX_REMEMBERED = 10_000
"""The number of valid tokens that are remembered, by their digests."""


_VISIBLE = re.compile(r"[!-~]+")


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

    required = UNAUTHENTICATED

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
        self._credential_headers = _checked_headers(credential_headers)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Call the host's function."""
        found = self._user(conn.scope)
        user = _user_found(await found if isawaitable(found) else found)
        if user is None:
            return None
        if conn.scope["type"] == "http":
            Exchange.of(conn.scope).credential_headers = self._credential_headers
        return AuthCredentials(["authenticated"]), user


class HostToken(CredentialBackend):
    """Authenticates by tokens of the host's own: `user` finds the user of a token, and may be async.

    The token is what a client sends as its API key: in `Authorization: Bearer` or in `x-api-key`. `user` returns and
    raises what the function of `HostUser` does, `None` for an unknown token (401).

    Only tokens that begin with `prefix` are looked up; others are left to the next backend, or are the caller's own key
    for a provider with `auth="client"`. Without a prefix, every token is one of the host's, and none is forwarded.
    Raises `OptionError`.
    """

    def __init__(self, user: Callable[[str], Found | Awaitable[Found]], *, prefix: str = "") -> None:
        expected = "a function of the token"
        if isinstance(user, type):
            raise mismatch("user", expected, user)
        check_function("user", user, expected, "")
        if prefix != "":
            check_text("prefix", prefix, "what the tokens begin with, in visible ASCII", _VISIBLE)
        self._user = user
        self._prefix = prefix.encode()
        self._valid: dict[bytes, None] = {}
        """The digests of tokens that were valid when they were last looked up: failures of others keep none out."""

    def check(self, credential: bytes) -> Pending | None:
        """Return the look-up of a token; `None` for one without the prefix. Raises `AuthenticationError`."""
        if not credential.startswith(self._prefix):
            return None
        if len(credential) > MAX_TOKEN or not credential.isascii():
            raise AuthenticationError

        digest = hashlib.sha256(credential).digest()

        async def look_up() -> Authenticated:
            self._valid.pop(digest, None)
            principal = await self._principal_of(credential.decode())
            if len(self._valid) >= MAX_REMEMBERED:
                del self._valid[next(iter(self._valid))]
            self._valid[digest] = None
            return authenticated(principal)

        return Pending(look_up, is_known=digest in self._valid)

    async def _principal_of(self, token: str) -> Principal:
        try:
            found = self._user(token)
            user = _user_found(await found if isawaitable(found) else found)
        except HTTPException as error:
            raise HostRefused(error.status_code, error.detail, error.headers) from error
        principal = None if user is None else principal_of(user)
        if principal is None:
            raise AuthenticationError
        return principal


class Anonymous(AuthenticationBackend):
    """Accepts every request, as one principal with the id `anonymous`: for local use."""

    def __init__(self) -> None:
        self._principal = Principal(id="anonymous")

    async def authenticate(self, conn: HTTPConnection) -> Authenticated | None:
        """Return the anonymous principal."""
        return authenticated(self._principal)


def _user_found(found: object) -> BaseUser | None:
    if found is None or found is False or found == "":
        return None
    if isinstance(found, str):
        return Principal(id=found)
    if not isinstance(found, BaseUser):
        raise mismatch("the result of user()", "a Principal, a Starlette user, an id or None", found)
    return found


def _checked_headers(value: object) -> tuple[bytes, ...]:
    names = check_texts("credential_headers", value, f"names out of {one_of(CREDENTIAL_HEADERS)}")
    for name in names:
        check_choice("credential_headers", name, CREDENTIAL_HEADERS)
    return tuple(name.encode() for name in names)


def _user_of_scope(scope: Scope) -> Found:
    return scope.get("user")
