"""Looks keys up in a store: each once at a time, with a deadline, and from what is known while it is unavailable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from math import inf

import msgspec

from bud_asgi.auth.credentials import Authenticated, Status
from bud_asgi.auth.keys.known import KnownKeys
from bud_asgi.auth.keys.record import ApiKey, hash_digest
from bud_asgi.auth.keys.store import EditableKeyStore, KeyStore, KeyStoreUnavailable
from bud_asgi.auth.keys.timing import KeyTiming
from bud_asgi.options import OptionError, mismatch

Found = Authenticated | Exception | None
"""The result of a lookup: the caller, `None` for a key that is refused, or why that is not known."""

_NO_KEY = hash_digest(bytes(32), None)
"""A hash that no key has, to see whether the store answers."""

_log = logging.getLogger("bud_asgi")


class _LoopWork(msgspec.Struct, eq=False):
    """The tasks of one event loop, by what they look up, and the timer of its next note."""

    tasks: dict[bytes, asyncio.Task[Found]] = {}
    noting: asyncio.TimerHandle | None = None


class KeyLookup:
    """Looks up keys in a store and remembers the results.

    `clock` returns seconds on the monotonic clock, `wall` the Unix time. May be used by several event loops; each has
    to be closed by `aclose`.
    """

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes | None,
        timing: KeyTiming,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._editable = store if isinstance(store, EditableKeyStore) else None
        self._options = pepper, timing, clock, wall
        self._pepper, self._timing, self._clock, self._wall = self._options
        self._known = KnownKeys(timing)
        self._used: dict[str, float] = {}
        self._changes = 0
        self._answered_at = self._retry_at = self._failed_at = -inf
        self._is_down = False
        self._reason = ""
        self._by_loop: dict[asyncio.AbstractEventLoop, _LoopWork] = {}

    def is_like(self, other: KeyLookup) -> bool:
        """Whether the other one looks up the same keys in the same way."""
        return self._store is other._store and self._options == other._options

    def known(self, digest: bytes) -> tuple[Authenticated | None, bool]:
        """What is known of a key without a lookup: its caller if it is accepted as it is, and whether it is refused."""
        found, now = self._known.find(digest), self._clock()
        if found is not None and now < found.fresh_until:
            return found.result, False
        return None, found is None and self._known.is_refused(digest, now)

    def was_accepted(self, digest: bytes) -> bool:
        """Whether a key has been accepted so lately that it is while the store is unavailable."""
        found = self._known.find(digest)
        return found is not None and self._clock() < found.usable_until

    async def fetch(self, digest: bytes) -> Authenticated | None:
        """The caller whose key has this SHA-256; `None` if it is refused. Raises `KeyStoreUnavailable`.

        One lookup serves all that need its result; it goes on when they are cancelled.
        """
        if self._is_down:
            found = self._without_store(digest)
            if self._clock() >= self._retry_at:
                self._run(_NO_KEY.encode(), self._ping)
        else:
            found = await asyncio.shield(self._run(digest, lambda: self._look_up(digest)))
        if isinstance(found, KeyStoreUnavailable):
            raise KeyStoreUnavailable(found.reason)  # of its own: several may raise it
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self, name: str) -> None:
        """Forget what is known of a key that has been changed. Lookups that are running do not count either."""
        self._changes += 1
        self._known.forget(name)

    async def status(self) -> Status:
        """Whether the store answers: it is called if it has not answered lately."""
        now = self._clock()
        if now >= (self._retry_at if self._is_down else self._answered_at + self._timing.fresh):
            await asyncio.shield(self._run(_NO_KEY.encode(), self._ping))
        return self.known_status()

    def known_status(self) -> Status:
        """The status as of the last call to the store. Calls nothing."""
        if not self._is_down:
            return "ready"
        return "degraded" if self._known.any_usable(self._clock()) else "unavailable"

    async def aclose(self) -> None:
        """End the lookups of the running event loop, write the times of use, and close the store's connections."""
        work = self._by_loop.pop(asyncio.get_running_loop(), None)
        if work is not None:
            if work.noting is not None:
                work.noting.cancel()
            for task in list(work.tasks.values()):
                task.cancel()
            await asyncio.gather(*work.tasks.values(), return_exceptions=True)
        await self._note_used()
        if self._editable is not None:
            await self._editable.aclose()

    async def _look_up(self, digest: bytes) -> Found:
        hash_ = hash_digest(digest, self._pepper)
        while True:
            changes = self._changes
            key = await self._call(self._store.find(hash_))
            if isinstance(key, Exception):
                return self._without_store(digest) if isinstance(key, KeyStoreUnavailable) else key
            if changes == self._changes:
                break
        seconds = key.valid_for(hash_, self._wall()) if key is not None else 0.0
        if key is None or not seconds:
            self._known.refuse(digest, self._clock())
            return None
        self._note_later(key.name)
        return self._known.accept(digest, key, seconds, self._clock())

    async def _ping(self) -> None:
        await self._call(self._store.find(_NO_KEY))

    async def _call(self, finding: Awaitable[object]) -> ApiKey | Exception | None:
        """Wait for the store. A failure is returned, and noted."""
        try:
            async with asyncio.timeout(self._timing.timeout):
                key = await finding
        except OptionError as error:  # one key is invalid, the store works
            return error
        except Exception as error:  # noqa: BLE001 - a store may be the host's own code: keys must go on to work
            return self._note_failure(_reason(error, self._timing.timeout))
        self._note_answer()
        if key is None or isinstance(key, ApiKey):
            return key
        return mismatch("the result of find()", "an ApiKey or None", key)

    def _without_store(self, digest: bytes) -> Authenticated | KeyStoreUnavailable:
        found = self._known.find(digest)
        if found is not None and self._clock() < found.usable_until:
            return found.result
        return KeyStoreUnavailable(self._reason)

    def _note_answer(self) -> None:
        self._answered_at = self._clock()
        if self._is_down:
            self._is_down = False
            _log.info("the key store works again after %.1f s", self._answered_at - self._failed_at)

    def _note_failure(self, reason: str) -> KeyStoreUnavailable:
        now = self._clock()
        self._reason, self._retry_at = reason, now + self._timing.retry
        if not self._is_down:
            self._is_down, self._failed_at = True, now
            _log.warning(
                "the key store failed: %s. Until it works again, keys that were used within the last %g s are accepted,"
                " and others get a 529",
                reason,
                self._timing.stale,
            )
        return KeyStoreUnavailable(reason)

    def _note_later(self, name: str) -> None:
        """Note that a key has been used. It was looked up for that, so the time is right to some seconds."""
        if self._editable is None:
            return
        self._used[name] = self._wall()
        work, loop = self._work(), asyncio.get_running_loop()
        if work.noting is None:
            work.noting = loop.call_later(self._timing.note_every, self._start_noting, work)

    def _start_noting(self, work: _LoopWork) -> None:
        work.noting = None
        self._run(b"used", self._note_used)

    async def _note_used(self) -> None:
        used, self._used = self._used, {}
        if self._editable is None or not used:
            return
        times = {name: datetime.fromtimestamp(seconds, UTC) for name, seconds in used.items()}
        try:
            async with asyncio.timeout(self._timing.timeout):
                await self._editable.note_used(times)
        except Exception:  # noqa: BLE001 - as above; lookups report it, and the times are written later
            self._used = {**used, **self._used}

    def _run(self, name: bytes, work: Callable[[], Coroutine[object, object, Found]]) -> asyncio.Task[Found]:
        """Start a task of the running loop, unless one of that name runs."""
        tasks = self._work().tasks
        task = tasks.get(name)
        if task is None or task.done():  # its callback may be late
            task = tasks[name] = asyncio.get_running_loop().create_task(work(), name="bud_asgi key lookup")
            task.add_done_callback(lambda done: tasks.pop(name) if tasks.get(name) is done else None)
        return task

    def _work(self) -> _LoopWork:
        loop = asyncio.get_running_loop()
        work = self._by_loop.get(loop)
        if work is None:
            for ended in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(ended, None)
            work = self._by_loop[loop] = _LoopWork()
        return work


def _reason(error: Exception, timeout: float) -> str:
    """Why a store failed, without what an error of a host's own store may contain."""
    if isinstance(error, KeyStoreUnavailable):
        return error.reason
    return f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else type(error).__name__
