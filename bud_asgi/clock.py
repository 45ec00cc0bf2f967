"""One coarse clock for all that is waited for: silence, keep-alive, a client that may have left.

A timer object around every read, or for every request, would cost more than what it guards. What is watched is asked
at every tick instead, and its deadlines are late by at most one tick.
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
    """Ticks while something is watched, and at most once more."""

    __slots__ = ("_loop", "_scheduled", "_tick", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick: float = TICK) -> None:
        self._loop = loop
        self._tick = tick
        self._watched: set[Watched] = set()
        self._scheduled = False

    @property
    def ticking(self) -> bool:
        """Whether something is watched."""
        return bool(self._watched)

    def watch(self, watched: Watched) -> None:
        """Ask it at every tick from now on. Watching twice is watching once."""
        self._watched.add(watched)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(self._tick, self._on_tick)

    def unwatch(self, watched: Watched) -> None:
        """Stop asking it. May be called twice, also from inside a tick."""
        self._watched.discard(watched)

    def _on_tick(self) -> None:
        self._scheduled = bool(self._watched)
        if not self._watched:
            return
        self._loop.call_later(self._tick, self._on_tick)
        now = self._loop.time()
        for watched in tuple(self._watched):
            if watched in self._watched:  # the one before may have let it go
                watched.on_tick(now)
