"""The health of one target, as the calls of this process show it. Pure: `now` is seconds on a monotonic clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from sys import maxsize
from typing import Literal

import msgspec

from bud_asgi.protocol.headers import Headers
from bud_asgi.routing.headroom import LIMIT_HEADERS, shortage_of
from bud_asgi.sliding_count import SlidingCount
from bud_asgi.state import Availability, Breaker

Verdict = Literal["ok", "failed", "busy", "credential", "missing", "neutral"]
"""What the end of a call shows of its target.

`ok`: it answered. `failed`: a connect error, a timeout, a 5xx, an unknown end or a broken stream. `busy`: 429 or 529.
`credential`: 401 or 403 of the gateway's own credential. `missing`: it does not serve its model. `neutral`: nothing, as
when the client left or its request was invalid.

For a target without a model of its own, which gets the name that the client wrote, a missing model is `neutral`:
otherwise one client's misspelt name would take the target out for all.
"""

FAILURES_IN_A_ROW = 5
WINDOW = 30.0
"""Seconds: the time over which the share of failures is taken."""
MIN_CALLS = 10
"""The calls within the window from which on the share of failures is considered."""
COOLDOWN = 5.0
"""Seconds that a breaker first stays open; doubled by each probe that fails."""
MAX_COOLDOWN = 60.0
BACKOFF = 1.0
"""Seconds without requests after a 429 or 529 without `retry-after`; doubled until a call succeeds."""
MAX_BACKOFF = 30.0
MAX_RETRY_AFTER = 600.0
"""Seconds: the longest time that an upstream's `retry-after` or reset is followed."""
CREDENTIAL_PROBE = 30.0
"""Seconds between two probes of a target whose credential was refused."""
MISSING = 60.0
"""Seconds without requests after a target turned out not to serve its model."""
UNLIMITED = maxsize

HALF_LIFE = 60.0
"""Seconds after which the average time to the first event counts half as much, if there was no new one."""

_STEPS = 6
_SMOOTHING = 0.2
_CREDENTIAL_REFUSED = "the credential was refused"


class Call(msgspec.Struct, gc=False, eq=False):
    """One call to a target, from `Health.begin` to `Health.end`. `number` counts the calls of its target, from 1."""

    number: int
    answered: bool = False
    ended: bool = False


class Outage(msgspec.Struct, frozen=True, gc=False):
    """A time for which a target is avoided, in seconds: from `since` until `until`.

    `certain`: the upstream itself gave the end, so that a success in between changes nothing.
    """

    since: float
    until: float
    reason: str
    certain: bool = False

    def covers(self, now: float) -> bool:
        """Whether it lasts. A clock that went back beyond its beginning ends it, so that it is never too long."""
        return self.since <= now < self.until


@dataclass(slots=True, eq=False)  # to set fields, as each call does, costs three times as much in a struct
class Health:
    """The state of one target, learned from the calls to it.

    A breaker opens after 5 failures in a row, or when half of at least 10 calls of the last 30 seconds failed. It stays
    open for 5 seconds, doubled up to 60 by each further failure; then one call at a time is a probe: its success closes
    the breaker, its failure opens it again. A refused credential opens it until a probe succeeds, one every 30
    seconds. A busy target is paused for its `retry-after`, else for 1 second, doubled up to 30 until a call succeeds; a
    target that does not serve the model for 60 seconds.

    The breaker ignores calls that began before it last opened or closed: it opens once for many calls that fail
    together, and a stream from before an outage does not close it. Calls may be made while the target is down.

    `in_flight` is the number of calls that run, of at most `concurrency`. `first_byte_seconds` is the moving average of
    the time to the first event, `None` before the first; it counts less as time passes. `calls` are all that began,
    `failures` those that ended neither `ok` nor `neutral`; the last of those ended at `last_failure_at`. From
    `clear_from` on, the target is available and not nearly full; it is infinite while a breaker is not closed.
    """

    concurrency: int = UNLIMITED
    in_flight: int = 0
    first_byte_seconds: float | None = None
    calls: int = 0
    failures: int = 0
    clear_from: float = -inf
    last_failure: Verdict | None = None
    last_failure_at: float | None = None
    _breaker: Outage | None = None
    _pause: Outage | None = None
    _shortage: Outage | None = None
    _probe: Call | None = None
    _recent: SlidingCount = field(default_factory=lambda: SlidingCount(WINDOW, _STEPS))
    _recent_failures: SlidingCount = field(default_factory=lambda: SlidingCount(WINDOW, _STEPS))
    _in_a_row: int = 0
    _cooldown: float = 0.0
    _backoff: float = 0.0
    _first_byte_at: float = -inf
    _breaker_changed: int = 0  # the number of the last call that had begun by then
    _pause_changed: int = 0

    def begin(self, now: float) -> Call:
        """Begin a call; it must be ended. It is the probe if one may be made."""
        self.calls = number = self.calls + 1
        self.in_flight += 1
        call = Call(number)
        if self._breaker is not None and self.may_probe(now):
            self._probe = call
        return call

    def first_byte(self, call: Call, now: float, seconds: float) -> None:
        """The first event of a stream has come, `seconds` after the call began. The target counts as working."""
        self._average(now, max(seconds, 0.0))
        if not call.answered:
            call.answered = True
            self._succeed(call, now)

    def waited(self, now: float, seconds: float) -> None:
        """No event has come within `seconds` after a call began, and it is not awaited any more.

        The time to the first event is at least that, so its average may rise, and does not fall.
        """
        if self.first_byte_seconds is None or seconds > self.first_byte_seconds:
            self._average(now, max(seconds, 0.0))

    def first_byte_weight(self, now: float) -> float:
        """How much the average time to the first event still counts: 1 at its last change, half of it a minute later.

        A target that was slow and is avoided has no new events. It must not count as slow for ever.
        """
        return 0.5 ** (max(now - self._first_byte_at, 0.0) / HALF_LIFE)

    def end(self, call: Call, now: float, verdict: Verdict, retry_after: float | None = None) -> None:
        """End a call; a second time does nothing. `retry_after` is the header of a busy upstream in seconds."""
        if call.ended:
            return
        call.ended = True
        self.in_flight -= 1
        if self._probe is call:
            self._probe = None
        if verdict == "ok":
            if not call.answered:
                self._succeed(call, now)
        elif verdict != "neutral":
            self.failures += 1
            self.last_failure, self.last_failure_at = verdict, now
            self._blame(call, now, verdict, retry_after)

    def note_limits(self, now: float, headers: Headers, wall_clock: Callable[[], float]) -> None:
        """Note the upstream's own rate limits from the headers of a reply, by lower-case name.

        With less than 5 % of its requests or tokens left, the target is nearly full until the limit is reset.
        `wall_clock` returns Unix time in seconds.
        """
        if LIMIT_HEADERS.isdisjoint(headers):
            return
        seconds = shortage_of(headers, wall_clock)
        if seconds <= 0.0 and self._shortage is None:
            return
        until = now + min(seconds, MAX_RETRY_AFTER)
        reason = "less than 5 % of the upstream's rate limit is left"
        self._shortage = Outage(now, until, reason) if seconds > 0.0 else None
        self._update()

    @property
    def is_full(self) -> bool:
        """Whether as many calls run as may."""
        return self.in_flight >= self.concurrency

    @property
    def is_probing(self) -> bool:
        """Whether a probe runs."""
        return self._probe is not None

    def may_probe(self, now: float) -> bool:
        """Whether the next call is a probe: the breaker's time is over, and no probe runs."""
        return self._breaker is not None and self._probe is None and self.available_at(now) <= now

    def may_take(self, now: float) -> bool:
        """Whether a request should go to it: it has room, and it is available or due for a probe."""
        return self.in_flight < self.concurrency and self._probe is None and self.available_at(now) <= now

    def is_nearly_full(self, now: float) -> bool:
        """Whether the upstream's own rate limit is nearly used up."""
        return self._shortage is not None and self._shortage.covers(now)

    def available_at(self, now: float) -> float:
        """When it may be tried again: `now` if it may at once, or if a probe runs, whose end is unknown."""
        at, breaker, pause = now, self._breaker, self._pause
        if breaker is not None and breaker.covers(now):
            at = breaker.until
        if pause is not None and pause.until > at and pause.covers(now):
            at = pause.until
        return at

    def state(self, now: float) -> tuple[Availability, str]:
        """The state, and the reason in words; empty if there is nothing to report."""
        breaker, pause, shortage = self._breaker, self._pause, self._shortage
        if breaker is not None:
            return "probing" if self.available_at(now) <= now else "down", breaker.reason
        if pause is not None and pause.covers(now):
            return "down", pause.reason
        if self.is_full:
            return "up", f"all of its {self.concurrency} calls are running"
        return "up", shortage.reason if shortage is not None and shortage.covers(now) else ""

    def breaker(self, now: float) -> Breaker:
        """The state of the breaker alone."""
        if self._breaker is None:
            return "closed"
        return "open" if self._breaker.covers(now) else "half_open"

    def _average(self, now: float, seconds: float) -> None:
        """Add a time to the first event to the average, of which the part that still counts is kept."""
        if self.first_byte_seconds is not None:
            kept = (1.0 - _SMOOTHING) * self.first_byte_weight(now)
            seconds += kept * (self.first_byte_seconds - seconds)
        self.first_byte_seconds, self._first_byte_at = seconds, now

    def _succeed(self, call: Call, now: float) -> None:
        if call.number > self._breaker_changed:
            self._in_a_row = 0
            if self._breaker is None:
                self._recent.add(now)
            else:
                self._close()
        if self._pause is not None and call.number > self._pause_changed:
            self._backoff = 0.0
            if not (self._pause.certain and self._pause.covers(now)):
                self._pause = None
                self._update()

    def _blame(self, call: Call, now: float, verdict: Verdict, retry_after: float | None) -> None:
        if verdict == "busy":
            self._back_off(call, now, retry_after)
        elif verdict == "missing":
            self._pause_changed = self.calls
            self._pause_for(Outage(now, now + MISSING, "the target does not serve the model"))
        elif call.number <= self._breaker_changed:
            return
        elif verdict == "credential" or (self._breaker is not None and self._breaker.reason == _CREDENTIAL_REFUSED):
            self._open(Outage(now, now + CREDENTIAL_PROBE, _CREDENTIAL_REFUSED))
        else:
            self._count_failure(now)

    def _count_failure(self, now: float) -> None:
        if self._breaker is None:
            self._in_a_row += 1
            self._recent.add(now)
            self._recent_failures.add(now)
            calls, failures = self._recent.total(now), self._recent_failures.total(now)
            if self._in_a_row >= FAILURES_IN_A_ROW:
                reason = f"{self._in_a_row} calls in a row failed"
            elif calls >= MIN_CALLS and 2 * failures >= calls:
                reason = f"{failures} of {calls} calls within {WINDOW:.0f} seconds failed"
            else:
                return
        else:
            reason = self._breaker.reason
        self._cooldown = min(2.0 * self._cooldown, MAX_COOLDOWN) or COOLDOWN
        self._open(Outage(now, now + self._cooldown, reason))

    def _back_off(self, call: Call, now: float, retry_after: float | None) -> None:
        reason = "rate limited or overloaded"
        if retry_after is not None:
            seconds = max(0.0, min(retry_after, MAX_RETRY_AFTER))
            self._pause_for(Outage(now, now + seconds, reason, certain=True))
        elif call.number > self._pause_changed:
            self._pause_changed = self.calls
            self._backoff = min(2.0 * self._backoff, MAX_BACKOFF) or BACKOFF
            self._pause_for(Outage(now, now + self._backoff, reason))

    def _pause_for(self, pause: Outage) -> None:
        """Begin a pause, unless a longer one lasts."""
        former = self._pause
        if former is None or not former.covers(pause.since) or former.until < pause.until:
            self._pause = pause
            self._update()

    def _open(self, outage: Outage) -> None:
        self._breaker = outage
        self._breaker_changed = self.calls
        self._in_a_row = 0
        self._recent.clear()
        self._recent_failures.clear()
        self._update()

    def _close(self) -> None:
        self._breaker = self._probe = None
        self._breaker_changed = self.calls
        self._cooldown = 0.0
        self._update()

    def _update(self) -> None:
        if self._breaker is not None:
            self.clear_from = inf
        else:
            self.clear_from = max([-inf, *(one.until for one in (self._pause, self._shortage) if one is not None)])
