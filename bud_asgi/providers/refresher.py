"""A value that expires: fetched once for all who need it, renewed before it is missed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeVar

import msgspec

from bud_asgi.providers.errors import UpstreamUnavailable

DEADLINE = 10.0
"""Seconds that a fetch may take."""

ADVISORY = 900.0
"""Seconds before the end in which a value is renewed; at most a quarter of the time it has when it is fetched."""

FORCED_APART = 5.0
"""Seconds in which those whose value was refused share one forced fetch: refusals come in crowds."""

T = TypeVar("T")

_log = logging.getLogger("bud_asgi")


class Unavailable(Exception):
    """Why there is no value: for the log, without secrets."""


class Expiring(msgspec.Struct, Generic[T], frozen=True):
    """A value and its end in seconds since the epoch."""

    value: T
    expires: float = inf


class _Held(msgspec.Struct, Generic[T], frozen=True):
    value: T
    renew_at: float
    ends: float


class Refresher(Generic[T]):
    """Holds what `fetch` gives, for any number of event loops.

    A fetch is a task of the loop that needed it: one at a time in each, shared by all who wait, cancelled with the
    loop; it ends after `DEADLINE`. What it gave is every loop's. Nobody waits while the old value is valid, and a
    fetch that fails is tried again at leisure. `redact` takes secrets out of what is logged; `what` is its name there.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Expiring[T]]], redact: Callable[[str], str], what: str) -> None:
        self._fetch = fetch
        self._redact = redact
        self._what = what
        self._held: _Held[T] | None = None
        self._before: _Held[T] | None = None
        self._running: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._not_before = self._forced = -inf
        self._changed = False
        self._failure: Unavailable | None = None

    @property
    def recent(self) -> tuple[T, ...]:
        """The value, and the one before it, which requests under way may still have."""
        return tuple(held.value for held in (self._held, self._before) if held is not None)

    async def value(self) -> T:
        """The value while it is valid, else a fresh one. Raises `UpstreamUnavailable` when there is none to be had."""
        now = time.time()
        held = self._held
        if held is None or now >= held.ends:
            return await self._awaited()
        if now >= held.renew_at and time.monotonic() >= self._not_before:
            self._begin()
        return held.value

    async def renew(self) -> bool:
        """Fetch although the value seems valid; whether that gave another one. The old one stays when it fails."""
        now = time.monotonic()
        if self._here() is not None or now - self._forced >= FORCED_APART:
            self._forced = now
            await asyncio.wait({self._begin()})
        return self._changed

    async def _awaited(self) -> T:
        if self._here() is not None or time.monotonic() >= self._not_before:
            await asyncio.wait({self._begin()})
        held = self._held
        if held is None or time.time() >= held.ends:
            raise UpstreamUnavailable("upstream authentication failed", not_sent=True) from self._failure
        return held.value

    def _here(self) -> asyncio.Task[None] | None:
        return self._running.get(asyncio.get_running_loop())

    def _begin(self) -> asyncio.Task[None]:
        task = self._here()
        if task is None:
            for ended in [loop for loop in tuple(self._running) if loop.is_closed()]:
                self._running.pop(ended, None)
            loop = asyncio.get_running_loop()
            task = self._running[loop] = loop.create_task(self._run())
            task.add_done_callback(lambda _: self._running.pop(loop, None))
        return task

    async def _run(self) -> None:
        self._changed = False
        try:
            async with asyncio.timeout(DEADLINE):
                fetched = await self._fetch()
            self._hold(fetched)
        except Exception as error:  # noqa: BLE001 - what others run to find a credential fails in any way
            self._fail(error)

    def _hold(self, fetched: Expiring[T]) -> None:
        now = time.time()
        left = fetched.expires - now
        if left <= 0:
            raise Unavailable("what was fetched has expired already")
        before = self._held
        self._changed = before is None or before.value != fetched.value
        value = fetched.value if before is None or self._changed else before.value
        if self._changed:
            self._before = before
        self._held = _Held(value, fetched.expires - min(ADVISORY, left / 4), fetched.expires - min(5.0, left / 10))
        self._failure = None

    def _fail(self, error: Exception) -> None:
        left = self._held.ends - time.time() if self._held else 0.0
        self._not_before = time.monotonic() + max(1.0, min(30.0, left / 4))
        told = "not within the deadline" if isinstance(error, TimeoutError) else str(error) or "no reason given"
        self._failure = Unavailable(self._redact(f"{type(error).__name__}: {told}")[:1000])
        if left > 0:
            _log.warning("%s were not renewed, the old ones last %.0f s: %s", self._what, left, self._failure)
        else:
            _log.error("%s were not to be had: %s", self._what, self._failure)
