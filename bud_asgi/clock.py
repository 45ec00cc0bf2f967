"""One coarse clock instead of many timers, and the durations that the gateway waits.

A timer around every read, or for every request, would cost more than what it guards. Everything that is watched is
called at each tick instead, so its deadlines are late by at most one tick.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from bud_asgi.options import check_seconds

TICK = 0.25
"""Seconds between two ticks: how late a deadline may be. Those of a request body may be two ticks late."""

LONGEST = 1e9
"""The longest duration in seconds, about thirty years: event loops do not accept infinity."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long the gateway waits, in seconds. The defaults are for production; tests pass shorter ones.

    `tick`: how often deadlines are looked at. `ping_after`: silence after which a stream gets a `ping` event.
    `commit_after`: how long the response is held back, from the upstream's head, for its first event. `linger`: how
    long an upstream may take to end its reply after the last event. `close_within`: how long a client may take to
    accept the final event of a stream that is cut short. `watch_after`: how long a request runs before its client is
    watched for a disconnect. `abort_within`: how long requests may take to end after a drain has cancelled them.
    `settle_within`: how long background work may take at shutdown. `silence`: how long a client may leave its response
    unread before it is disconnected. `body_silence`: how long a client may pause within its request body.
    `body_within`: how long the whole body may take. `body_room`: how long a request waits for room for its body.
    `failover_within`: how long after the first attempt another target may still be tried. `discard_within`: how long
    the rest of a body is read and dropped after an early refusal. `discard_silence`: how long it may pause then. Raises
    `OptionError`.
    """

    tick: float = TICK
    ping_after: float = 15.0
    commit_after: float = 2.0
    failover_within: float = 60.0
    linger: float = 2.0
    close_within: float = 1.0
    watch_after: float = 0.2
    abort_within: float = 2.0
    settle_within: float = 5.0
    silence: float = 300.0
    body_silence: float = 30.0
    body_within: float = 600.0
    body_room: float = 1.5
    discard_within: float = 5.0
    discard_silence: float = 0.5

    def __post_init__(self) -> None:
        """Check the durations: 0 means at once."""
        for name in self.__struct_fields__:
            check_seconds(name, getattr(self, name), maximum=LONGEST, zero=True)


DEFAULT_TIMING = Timing()
"""The durations for production."""


class Watched(Protocol):
    """What a clock can watch."""

    def on_tick(self, now: float) -> None:
        """Check one's own deadlines; `now` is the loop's time in seconds. Must not raise."""
        ...


class Clock:
    """Calls `on_tick` of what it watches, at most `tick` seconds apart. It does not run while nothing is watched.

    `late` is by how many seconds the last tick was late: so long the loop was busy with something else.
    """

    __slots__ = ("_due", "_loop", "_scheduled", "_tick", "_watched", "late")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick: float = TICK) -> None:
        self._loop = loop
        self._tick = tick
        self._watched: set[Watched] = set()
        self._scheduled = False
        self._due = self.late = 0.0

    @property
    def ticking(self) -> bool:
        """Whether anything is watched."""
        return bool(self._watched)

    def watch(self, watched: Watched) -> None:
        """Call `watched.on_tick` at every tick from now on. Watching twice is the same as once."""
        self._watched.add(watched)
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self._loop.time())

    def unwatch(self, watched: Watched) -> None:
        """Stop calling it. May be called twice, and from inside a tick."""
        self._watched.discard(watched)

    def _on_tick(self) -> None:
        self._scheduled = bool(self._watched)
        if not self._watched:
            return
        now = self._loop.time()
        self.late = max(0.0, now - self._due)
        self._schedule(now)
        for watched in tuple(self._watched):
            if watched in self._watched:  # an earlier one may have unwatched it
                watched.on_tick(now)

    def _schedule(self, now: float) -> None:
        self._due = now + self._tick
        self._loop.call_at(self._due, self._on_tick)
