"""Background work that outlives the request which started it: settlements, callbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

MAX_CALLBACKS = 10_000
"""The most callbacks that may run at once. One that never ends must not keep the record of every request."""

_log = logging.getLogger("bud_asgi")


class BackgroundTasks:
    """Owns tasks: keeps them alive while they run, waits for them at shutdown, logs their failures.

    A request that is cancelled cannot await in its `finally`; what must be done after it runs here.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._callbacks = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a coroutine to its end, whatever happens to the caller."""
        task = asyncio.get_running_loop().create_task(_run(work), name="bud_asgi background")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def spawn_callback(self, callback: Callable[[], Coroutine[object, object, None]]) -> None:
        """Spawn what `callback` returns. While `MAX_CALLBACKS` are running, it is dropped and that is logged."""
        if self._callbacks >= MAX_CALLBACKS:
            if not self._dropped:
                _log.error("%d callbacks are running; further ones are dropped until some have ended", MAX_CALLBACKS)
            self._dropped += 1
            return
        self._callbacks += 1
        self.spawn(callback()).add_done_callback(self._end_callback)

    def _end_callback(self, _task: object) -> None:
        self._callbacks -= 1
        if self._dropped and self._callbacks <= MAX_CALLBACKS // 2:
            _log.error("%d callbacks were dropped", self._dropped)
            self._dropped = 0

    def run_or_spawn(self, work: Callable[[], Coroutine[object, object, None] | None]) -> None:
        """Call `work`; if it returns a coroutine, run that in the background."""
        try:
            rest = work()
        except Exception:  # noqa: BLE001 - third-party code: its failure must not mask the request's result
            _log.exception("background work failed")
            return
        if rest is not None:
            self.spawn(rest)

    def spawn_after_others(self, work: Coroutine[object, object, None], timeout: float) -> None:
        """Run a coroutine once those that run now have ended, or after `timeout` seconds."""
        self.spawn(_after(set(self._running), work, timeout))

    async def drain(self, timeout: float) -> None:
        """Wait until all have ended, `timeout` seconds at most; cancel those that still run."""
        deadline = asyncio.get_running_loop().time() + timeout
        late: set[asyncio.Task[None]] = set()
        while self._running and not late:
            remaining = max(0.0, deadline - asyncio.get_running_loop().time())
            _, late = await asyncio.wait(set(self._running), timeout=remaining)
        for task in late:
            task.cancel()
        if late:
            _log.warning("%d background tasks were cancelled after %g s", len(late), timeout)
            await asyncio.wait(late)


async def _run(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001 - the end of a task that is never awaited: it reports
        _log.exception("background work failed")


async def _after(others: set[asyncio.Task[None]], work: Coroutine[object, object, None], timeout: float) -> None:
    try:
        if others:
            await asyncio.wait(others, timeout=timeout)
    except asyncio.CancelledError:
        work.close()
        raise
    await work
