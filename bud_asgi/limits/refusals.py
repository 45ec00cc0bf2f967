"""Refusals are remembered: a request is refused again without a call of the store, and many are spread out in time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import msgspec

from bud_asgi.limit import LONGEST_WAIT, Limit
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.store import Charge, LimitStatus

MAX_REFUSALS = 10_000
"""The most buckets whose refusals are remembered."""

MANY = 5
"""The number of refusals by one bucket that give the exact time; further ones are spread out."""

REMEMBERED = 60.0
"""Seconds after which the store is called again, however long the wait is: it may have been flushed."""


class _Refusal(msgspec.Struct):
    """A bucket that has no room `until` a time, as was known at another, and the number of requests it has refused."""

    until: float
    known_at: float
    status: LimitStatus
    count: int = 1


class Refusals:
    """The buckets that have refused requests, until they have room. Each amount of a limit is remembered on its own.

    `clock` returns seconds, `fraction` a random number from 0 to 1.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, fraction: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._fraction = fraction
        self._known: dict[tuple[Limit, str], _Refusal] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, error: RateLimited) -> RateLimited:
        """Remember a refusal, and return it as the client gets it.

        Where many requests are refused by one bucket, each gets a time of its own: if all clients came back at once,
        most would be refused again. The time is never too early.
        """
        charge, now = error.limit_status.charge, self._clock()
        if charge.limit.kind == "concurrent":  # it may have room at any time
            return error
        known = self._known.get((charge.limit, charge.key))
        if known is None or known.until <= now:
            self._add(charge, _Refusal(now + error.retry_after, now, error.limit_status), now)
            return error
        known.until, known.status = now + error.retry_after, error.limit_status
        known.count += 1
        spread = min(known.count * charge.amount / charge.limit.rate, LONGEST_WAIT - error.retry_after)
        if known.count <= MANY or spread <= 0.0:
            return error
        return RateLimited(error.limit_status, error.retry_after + spread * self._fraction(), error.statuses)

    def check(self, charges: Sequence[Charge]) -> None:
        """Raise `RateLimited` for charges to a bucket that has no room yet."""
        if not self._known:
            return
        for charge in charges:
            known = self._known.get((charge.limit, charge.key))
            if known is not None and not charge.limit.wait:
                now = self._clock()
                if now < min(known.until, known.known_at + REMEMBERED):
                    raise RateLimited(known.status, known.until - now)
                self._known.pop((charge.limit, charge.key), None)  # another thread may have done so

    def _add(self, charge: Charge, refusal: _Refusal, now: float) -> None:
        if len(self._known) >= MAX_REFUSALS:
            self._known = {key: known for key, known in self._known.items() if known.until > now}
        if len(self._known) < MAX_REFUSALS:
            self._known[charge.limit, charge.key] = refusal
