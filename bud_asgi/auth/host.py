"""Backends for a host that authenticates its own users, or has no authentication."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

from starlette.authentication import AuthenticationBackend
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.exchange import Principal
from bud_asgi.options import check_function, mismatch

Found = Principal | str | None
"""What a host's function returns: a principal, its id, or `None` for an unauthenticated request."""


class HostUser(AuthenticationBackend):
    """Uses the host application's own authentication. `user` reads the ASGI scope, and may be async.

    It returns a `Principal`, an id, or `None` for an unauthenticated request (401); an empty id is none. Raises
    `OptionError`. A function that returns anything else is reported in the log, and the request answered with a 500.
    """

    def __init__(self, user: Callable[[Scope], Found | Awaitable[Found]]) -> None:
        expected = "a function of the ASGI scope"
        if isinstance(user, type):  # what it makes would be taken for a user
            raise mismatch("user", expected, user)
        check_function("user", user, expected, {})
        self._user = user

    async def authenticate(self, conn: HTTPConnection) -> Authenticated | None:
        """Call the host's function."""
        found = self._user(conn.scope)
        if isawaitable(found):
            found = await found
        return _authenticated(found)


def _authenticated(found: object) -> Authenticated | None:
    if found is None or found is False or found == "":
        return None
    if isinstance(found, str):
        return authenticated(Principal(id=found))
    if not isinstance(found, Principal):
        raise mismatch("the result of user()", "a Principal, an id or None", found)
    return authenticated(found)


class Anonymous(AuthenticationBackend):
    """Accepts every request, as one principal with the id `anonymous`: for local use."""

    def __init__(self) -> None:
        self._principal = Principal(id="anonymous")

    async def authenticate(self, conn: HTTPConnection) -> Authenticated | None:
        """Return the anonymous principal."""
        return authenticated(self._principal)
