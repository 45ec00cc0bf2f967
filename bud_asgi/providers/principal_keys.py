"""Upstream keys that depend on the caller, such as one for each tenant: from a function of the host's, cached."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Literal

import msgspec

from bud_asgi.exchange import Principal
from bud_asgi.http import HttpRequest, header_block
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.headers import Headers
from bud_asgi.secret import AnySecret, Secret, secret_option

KeyFunction = Callable[[Principal], AnySecret | Awaitable[AnySecret | None] | None]
"""A function of the host's: the upstream key of a principal, or `None` if it has none."""

TTL = 60.0
"""Seconds for which a key is used before it is fetched again."""

SHORT_TTL = 10.0
"""The same where there is no key, or no answer; also the shortest time between two fetches after a refused key."""

STALE = 3600.0
"""Seconds for which a key stays in use while the host's function fails."""

MAX_KEYS = 10_000

_log = logging.getLogger("bud_asgi")


class NoUpstreamKey(GatewayError):
    """The caller has no key for this upstream. Another target is tried."""

    status = 403
    type = "permission_error"
    retryable = False

    def __init__(self) -> None:
        super().__init__("You have no API key for the upstream of this model.")


class KeyUnavailable(GatewayError):
    """The host's function failed. Another target is tried."""

    status = 502
    outcome = "upstream_failed"

    def __init__(self) -> None:
        super().__init__("The upstream's API key is not available.")


class _Known(msgspec.Struct, frozen=True, gc=False):
    """A key as it was `fetched`, not to be fetched again before `until`."""

    key: Secret | None
    fetched: float
    until: float


class PrincipalKeys:
    """The keys of principals, by id and team. At most 10,000 are kept; the oldest is dropped.

    `clock` gives seconds. A fetch that several requests wait for is made once, and goes on if one of them is cancelled.
    """

    def __init__(self, fetch: KeyFunction, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._known: dict[tuple[str, str | None], _Known] = {}
        self._running: dict[object, asyncio.Task[Secret]] = {}

    async def get(self, principal: Principal) -> Secret:
        """The key of a principal. Raises `NoUpstreamKey` and `KeyUnavailable`."""
        known = self._known.get((principal.id, principal.team))
        if known is not None and self._clock() < known.until:
            return _required(known.key)
        return await self._fetch_once(principal)

    async def renew(self, principal: Principal, refused: Secret) -> Secret:
        """The key of a principal after the upstream has refused one; that one if it was fetched just now."""
        known = self._known.get((principal.id, principal.team))
        if known is not None and (known.key is not refused or self._clock() - known.fetched < SHORT_TTL):
            return _required(known.key)
        return await self._fetch_once(principal)

    async def _fetch_once(self, principal: Principal) -> Secret:
        running = (principal.id, principal.team, asyncio.get_running_loop())
        task = self._running.get(running)
        if task is None:
            task = self._running[running] = asyncio.create_task(self._fetched(principal), name="bud_asgi upstream key")
            task.add_done_callback(lambda done: self._ended(running, done))
        return await asyncio.shield(task)

    def _ended(self, running: object, task: asyncio.Task[Secret]) -> None:
        del self._running[running]
        if not task.cancelled():
            task.exception()  # retrieved, where all who waited for it have been cancelled

    async def _fetched(self, principal: Principal) -> Secret:
        name = (principal.id, principal.team)
        before = self._known.get(name)
        try:
            found = self._fetch(principal)
            key = secret_option("the result of api_key()", await found if isawaitable(found) else found)
        except Exception as error:
            _log.exception("could not fetch the upstream key of the principal %r", principal.id)
            now = self._clock()
            if before is None or before.key is None or now - before.fetched >= STALE:
                raise KeyUnavailable from error
            self._keep(name, _Known(before.key, before.fetched, now + SHORT_TTL))
            return before.key
        if before is not None and before.key and key and before.key.reveal() == key.reveal():
            key = before.key
        now = self._clock()
        self._keep(name, _Known(key, now, now + (TTL if key else SHORT_TTL)))
        return _required(key)

    def _keep(self, name: tuple[str, str | None], known: _Known) -> None:
        self._known.pop(name, None)
        if len(self._known) >= MAX_KEYS:
            del self._known[next(iter(self._known))]
        self._known[name] = known


class PrincipalCredential:
    """The credential of one principal, for one request."""

    is_operators = True

    def __init__(
        self, keys: PrincipalKeys, principal: Principal, key: Secret, header: Literal["x-api-key", "bearer"]
    ) -> None:
        self._keys = keys
        self._principal = principal
        self._header: Literal["x-api-key", "bearer"] = header
        self._used = [key]

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Add the key to the request."""
        return request.with_headers(header_block((key_line(self._used[-1], self._header),)))

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return whether the host's function has another key by now."""
        key = await self._keys.renew(self._principal, self._used[-1])
        if key is self._used[-1]:
            return False
        self._used.append(key)
        return True

    def redact(self, text: str) -> str:
        """Replace the keys that were sent in `text`."""
        for key in self._used:
            text = key.redact(text)
        return text


def key_line(key: Secret, header: Literal["x-api-key", "bearer"]) -> tuple[bytes, bytes]:
    """The header line of a key."""
    value = key.reveal().encode()
    return (b"authorization", b"Bearer " + value) if header == "bearer" else (b"x-api-key", value)


def _required(key: Secret | None) -> Secret:
    if key is None:
        raise NoUpstreamKey
    return key
