"""A value that expires: fetched once for all callers and refreshed before it expires."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeVar
from weakref import WeakSet

import msgspec

from bud_asgi.options import check_clock, check_seconds
from bud_asgi.printable import one_line
from bud_asgi.providers.errors import UpstreamUnavailable

REFRESH_AHEAD = 900.0
"""Seconds before expiry at which a refresh starts; at most a quarter of the value's lifetime."""

EXPIRY_MARGIN = 5.0
"""Seconds before expiry at which a value is no longer used; at most a tenth of its lifetime."""

UNCHANGED_INTERVAL = 1.0
"""The default of `RefreshTiming.unchanged_interval`, in seconds."""

FORCED_REFRESH_INTERVAL = 5.0
"""Seconds in which at most `MAX_FORCED_REFRESHES` fetches for refused values start."""

MAX_FORCED_REFRESHES = 5
"""More fetches are not started in the interval: an upstream that refuses every new value causes no flood."""

_REMEMBERED = 1 + MAX_FORCED_REFRESHES
"""Values whose users may still be in flight."""

T = TypeVar("T")

_log = logging.getLogger("bud_asgi")


class RefreshTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long a fetch may take, in seconds, and the clocks that a `Refresher` reads.

    `unchanged_interval` is for how long a refused value is not fetched again after a fetch for it that returned no
    other. `clock` returns seconds since the epoch and is compared with `expires_at`; `monotonic` measures intervals.
    Raises `OptionError`.
    """

    timeout: float = 10.0
    unchanged_interval: float = UNCHANGED_INTERVAL
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Check the options."""
        check_seconds("timeout", self.timeout)
        check_seconds("unchanged_interval", self.unchanged_interval)
        check_clock("clock", self.clock)
        check_clock("monotonic", self.monotonic)


class FetchFailed(Exception):
    """Why a value could not be fetched, on one line and without secrets."""


class Expiring(msgspec.Struct, Generic[T], frozen=True):
    """A value, when it expires, and when it is to be refreshed, in seconds since the epoch.

    Without `refresh_at` it is refreshed `REFRESH_AHEAD` before it expires.
    """

    value: T
    expires_at: float = inf
    refresh_at: float | None = None


class RefreshStatus(msgspec.Struct, frozen=True):
    """The age of the held value, and the time until it expires, in seconds. `usable`: there is one that may be used.

    `age` is `None` without a value, `expires_in` also for one that does not expire. `failing`: the last fetch failed.
    """

    age: float | None
    expires_in: float | None
    usable: bool
    failing: bool


class _Held(msgspec.Struct, Generic[T], frozen=True):
    value: T
    fetched_at: float
    expires_at: float
    refresh_at: float
    usable_until: float


class Refresher(Generic[T]):
    """Holds the value that `fetch` returns, for any number of event loops.

    Each loop runs at most one fetch at a time, shared by all callers; it is cancelled with its loop and ends after
    `timing.timeout`. The fetched value serves every loop. Callers do not wait while the current value is usable, and
    a failed fetch is retried with a back-off. A value that the upstream refused is replaced once for all callers that
    were refused with it. `redact` removes secrets from log lines; `what` names the value there.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Expiring[T]]],
        redact: Callable[[str], str],
        what: str,
        timing: RefreshTiming | None = None,
    ) -> None:
        self._fetch = fetch
        self._redact = redact
        self._what = what
        self._timing = timing or RefreshTiming()
        self._held: _Held[T] | None = None
        self._recent: deque[T] = deque(maxlen=_REMEMBERED)
        self._running: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._replacing: WeakSet[asyncio.Task[None]] = WeakSet()
        self._retry_at = self._no_other_until = -inf
        self._forced: deque[float] = deque(maxlen=MAX_FORCED_REFRESHES)
        self._failure: FetchFailed | None = None

    @property
    def recent(self) -> tuple[T, ...]:
        """The current value, and those before it that requests in flight may still use; the newest first."""
        return tuple(self._recent)

    def status(self) -> RefreshStatus:
        """The state of the value. Starts nothing."""
        held, now, failing = self._held, self._timing.clock(), self._failure is not None
        if held is None:
            return RefreshStatus(None, None, usable=False, failing=failing)
        left = None if held.expires_at == inf else held.expires_at - now
        return RefreshStatus(now - held.fetched_at, left, usable=now < held.usable_until, failing=failing)

    def current(self) -> T | None:
        """The current value, `None` if there is none that is usable. Starts a refresh that is due."""
        held = self._held
        now = self._timing.clock()
        if held is None or now >= held.usable_until:
            return None
        if now >= held.refresh_at and self._timing.monotonic() >= self._retry_at:
            self._start()
        return held.value

    async def value(self) -> T:
        """Return the current value, or a fresh one once it has expired. Raises `UpstreamUnavailable`."""
        current = self.current()
        return current if current is not None else await self._fetched()

    async def replace(self, is_refused: Callable[[T], bool]) -> bool:
        """Return whether there is another value than the refused one, fetching one if the refused is still held.

        `is_refused` tells whether a value is the one that the upstream refused. A caller whose value has been replaced
        already gets `True` at once. The current value stays when the fetch fails.
        """
        if self._has_other(is_refused):
            return True
        running = self._running_fetch()
        if running is not None and running not in self._replacing:
            await asyncio.wait({running})  # its value may have been issued before the refusal, and be revoked as well
        if self._running_fetch() is not None or self._may_force():
            fetch = self._start()
            self._replacing.add(fetch)
            await asyncio.wait({fetch})
            if not self._has_other(is_refused):
                self._no_other_until = self._timing.monotonic() + self._timing.unchanged_interval
        return self._has_other(is_refused)

    def _has_other(self, is_refused: Callable[[T], bool]) -> bool:
        return self._held is not None and not is_refused(self._held.value)

    def _may_force(self) -> bool:
        now = self._timing.monotonic()
        is_burst = len(self._forced) == MAX_FORCED_REFRESHES and now - self._forced[0] < FORCED_REFRESH_INTERVAL
        if is_burst or now < self._no_other_until:
            return False
        self._forced.append(now)
        return True

    async def _fetched(self) -> T:
        if self._running_fetch() is not None or self._timing.monotonic() >= self._retry_at:
            await asyncio.wait({self._start()})
        held = self._held
        if held is None or self._timing.clock() >= held.usable_until:
            raise UpstreamUnavailable("upstream authentication failed", not_sent=True) from self._failure
        return held.value

    def _running_fetch(self) -> asyncio.Task[None] | None:
        return self._running.get(asyncio.get_running_loop())

    def _start(self) -> asyncio.Task[None]:
        task = self._running_fetch()
        if task is None:
            for closed in [loop for loop in tuple(self._running) if loop.is_closed()]:
                self._running.pop(closed, None)
            loop = asyncio.get_running_loop()
            task = self._running[loop] = loop.create_task(self._run())
            task.add_done_callback(lambda _: self._running.pop(loop, None))
        return task

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._timing.timeout):
                fetched = await self._fetch()
            self._hold(fetched)
        except Exception as error:  # noqa: BLE001 - credential sources run code of others, which fails in any way
            self._fail(error)

    def _hold(self, fetched: Expiring[T]) -> None:
        now = self._timing.clock()
        left = fetched.expires_at - now
        if left <= 0:
            raise FetchFailed("the fetched value has already expired")
        value, fetched_at = fetched.value, now
        if self._held is not None and self._held.value == value:
            value, fetched_at = self._held.value, self._held.fetched_at
        else:
            self._recent.appendleft(value)
            self._no_other_until = -inf
        refresh_at = fetched.refresh_at
        if refresh_at is None:
            refresh_at = fetched.expires_at - min(REFRESH_AHEAD, left / 4)
        usable_until = fetched.expires_at - min(EXPIRY_MARGIN, left / 10)
        self._held = _Held(value, fetched_at, fetched.expires_at, refresh_at, usable_until)
        self._failure = None

    def _fail(self, error: Exception) -> None:
        left = self._held.usable_until - self._timing.clock() if self._held else 0.0
        self._retry_at = self._timing.monotonic() + max(1.0, min(30.0, left / 4))
        if isinstance(error, TimeoutError):
            reason = f"no result within {self._timing.timeout:g} s"
        elif isinstance(error, FetchFailed):
            reason = str(error)
        else:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._failure = FetchFailed(one_line(self._redact(reason)))
        if left <= 0:
            _log.error("could not refresh %s (%s); requests that need them fail", self._what, self._failure)
        elif left == inf:
            _log.warning("could not refresh %s (%s); using the current ones", self._what, self._failure)
        else:
            _log.warning(
                "could not refresh %s (%s); using the current ones for another %.0f s", self._what, self._failure, left
            )
