"""One coarse clock for everything an engine waits for: first byte, silence, keep-alive, `within`.

A timer object around every read would cost more than reading. What is watched is asked at every tick instead, and its
deadlines are late by at most one tick.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK = 0.25
"""Seconds between two ticks: how late a deadline may be."""


class Watched(Protocol):
    """What a clock can watch."""

    def on_tick(self, now: float) -> None:
        """Look at one's own deadlines; `now` is the loop's time in seconds. Must not raise."""
        ...


class Clock:
    """Ticks while something is watched, and leaves nothing scheduled while nothing is."""

    __slots__ = ("_handle", "_loop", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[Watched] = set()
        self._handle: asyncio.TimerHandle | None = None

    @property
    def ticking(self) -> bool:
        """Whether a tick is scheduled."""
        return self._handle is not None

    def watch(self, watched: Watched) -> None:
        """Ask it at every tick from now on. Watching twice is watching once."""
        self._watched.add(watched)
        if self._handle is None:
            self._handle = self._loop.call_later(TICK, self._tick)

    def unwatch(self, watched: Watched) -> None:
        """Stop asking it. May be called twice, also from inside a tick."""
        self._watched.discard(watched)
        if not self._watched and self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = self._loop.call_later(TICK, self._tick)
        now = self._loop.time()
        for watched in tuple(self._watched):
            watched.on_tick(now)
