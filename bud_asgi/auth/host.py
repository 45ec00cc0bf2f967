"""Backends for a host that has its own idea of who is asking, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.requests import HTTPConnection
from starlette.types import Scope

from bud_asgi.auth.middleware import authenticated
from bud_asgi.exchange import Principal
from bud_asgi.options import mismatch

Found = Principal | str | None
"""What a host's function says: who it is, an id that is enough, or nobody."""


class HostUser(AuthenticationBackend):
    """Takes the user that the host application found. `user` reads the ASGI scope, and may be async.

    It answers a `Principal`, an id, or `None` for nobody (401). Raises `OptionError`.
    """

    def __init__(self, user: Callable[[Scope], Found | Awaitable[Found]]) -> None:
        if not callable(user):
            raise mismatch("user", "a function of the ASGI scope", user)
        self._user = user

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Ask the host's function."""
        found = self._user(conn.scope)
        if isawaitable(found):
            found = await found
        if not found:
            return None
        return authenticated(Principal(id=found) if isinstance(found, str) else found)


class Anonymous(AuthenticationBackend):
    """Lets everybody in, as one principal with the id `anonymous`: for a machine of one's own. Spell it out."""

    def __init__(self) -> None:
        self._principal = Principal(id="anonymous")

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Answer the anonymous principal."""
        return authenticated(self._principal)
