"""SIGHUP: makes `serve` reload, and never ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal; Windows has none."""


class Hangup:
    """SIGHUP, which is recorded from now on and no longer ends the process. Several that come together count as one.

    `task` holds the task that waits for it, for callers that have no reference of their own.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self._noted = False
        self._wake: Callable[[], object] | None = None
        if HANGUP is not None:
            signal.signal(HANGUP, self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {HANGUP})

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the next one, at most for `timeout` seconds. Returns whether there was one."""
        event = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        try:
            if not self._noted:
                async with asyncio.timeout(timeout):
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._wake = None
        self._noted = False
        return True

    def _note(self, _signal: int, _frame: object) -> None:
        self._noted = True
        if self._wake is not None:
            self._wake()


def hold_hangup() -> None:
    """Block SIGHUP, here and in processes that are started from now on, until each has a `Hangup`."""
    if HANGUP is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})


def ignore_hangup() -> None:
    """Ignore SIGHUP from now on. A `Hangup` is not enough at the end: it would kill a Python that exits."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)


def take_hangup() -> bool:
    """Whether a blocked SIGHUP has come since the last call."""
    if HANGUP is None or HANGUP not in signal.sigpending():
        return False
    signal.sigwait({HANGUP})
    return True


def pass_hangup(pids: Iterable[int | None]) -> None:
    """Send SIGHUP to the workers that still run."""
    for pid in pids:
        if pid is not None and HANGUP is not None:
            try:
                os.kill(pid, HANGUP)
            except ProcessLookupError:
                continue
