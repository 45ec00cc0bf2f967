"""Limits counted in this process's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence

from bud_asgi.exchange import Reservation
from bud_asgi.limits.bucket import Bucket, refilled, taken, waiting_time
from bud_asgi.limits.limit import Charge, Limit
from bud_asgi.limits.store import Grant, LimitStatus, RateLimited

_BucketKey = tuple[Limit, str]
_FEWEST_BEFORE_SWEEP = 1024


class MemoryStore:
    """A `LimitStore` for one process. Never waits, so all its steps are atomic; holds nothing of a caller at rest.

    `clock` gives seconds, and only goes forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[_BucketKey, Bucket] = {}
        self._open: dict[str, tuple[Charge, ...]] = {}
        self._sweep_at = _FEWEST_BEFORE_SWEEP
        self._count = 0

    @property
    def open(self) -> int:
        """How many reservations are not settled yet."""
        return len(self._open)

    async def reserve(self, demands: Sequence[Charge]) -> Grant:
        """Take all demands, or none. Raises `RateLimited`."""
        now = self._clock()
        after: dict[_BucketKey, Bucket] = {}
        standings: list[LimitStatus] = []
        longest, tightest = 0.0, None
        for demand in demands:
            limit = demand.limit
            key = (limit, demand.key)
            bucket = after.get(key) or self._bucket(key, now)
            wait = waiting_time(bucket, demand.amount, capacity=limit.amount, window=limit.window)
            if wait > longest:
                longest, tightest = wait, _standing(demand, bucket)
            after[key] = left = taken(bucket, demand.amount)
            standings.append(_standing(demand, left))
        if tightest is not None:
            raise RateLimited(tightest, longest)
        self._buckets.update(after)
        self._sweep(now)
        self._count += 1
        reservation = Reservation(str(self._count))
        self._open[reservation.id] = tuple(demands)
        return Grant(reservation, tuple(standings))

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book what was really used. Settling twice changes nothing."""
        now = self._clock()
        for demand, amount in zip(self._open.pop(reservation.id, ()), amounts, strict=False):
            if amount != demand.amount:
                key = (demand.limit, demand.key)
                self._buckets[key] = taken(self._bucket(key, now), amount - demand.amount)

    def _bucket(self, key: _BucketKey, now: float) -> Bucket:
        limit = key[0]
        bucket = self._buckets.get(key) or Bucket(limit.amount, now)
        return refilled(bucket, now, capacity=limit.amount, window=limit.window)

    def _sweep(self, now: float) -> None:
        """Forget full buckets, which say no more than none would, each time their number has doubled."""
        if len(self._buckets) < self._sweep_at:
            return
        for (limit, key), bucket in list(self._buckets.items()):
            if refilled(bucket, now, capacity=limit.amount, window=limit.window).level >= limit.amount:
                del self._buckets[limit, key]
        self._sweep_at = max(_FEWEST_BEFORE_SWEEP, 2 * len(self._buckets))


def _standing(demand: Charge, bucket: Bucket) -> LimitStatus:
    limit, level = demand.limit, bucket.level
    missing = limit.amount - level
    return LimitStatus(
        demand,
        int(level + 1e-9) if level > 0 else 0,
        missing * limit.window / limit.amount if missing > 0 else 0.0,
    )
