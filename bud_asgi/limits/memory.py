"""A `LimitStore` in the memory of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence

from bud_asgi.exchange import Reservation
from bud_asgi.limits.limit import Bucket, Charge, Limit, refilled, taken, waiting_time
from bud_asgi.limits.store import Grant, LimitStatus, RateLimited
from bud_asgi.options import check_clock

_BucketKey = tuple[Limit, str]
_MIN_BEFORE_SWEEP = 1024


class MemoryStore:
    """Counts in memory. It never awaits, so its steps are atomic. Full buckets are removed: they hold no information.

    `clock` returns seconds and only goes forward. Raises `OptionError`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        check_clock("clock", clock)
        self._clock = clock
        self._buckets: dict[_BucketKey, Bucket] = {}
        self._open: dict[str, tuple[Charge, ...]] = {}
        self._sweep_at = _MIN_BEFORE_SWEEP
        self._count = 0

    @property
    def open(self) -> int:
        """The number of reservations that are not settled yet."""
        return len(self._open)

    def check(self, charges: Sequence[Charge]) -> None:
        """Raise `RateLimited` where `reserve` would. Takes nothing."""
        if not self._is_ample(charges):
            self._after(charges, self._clock())

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none. Raises `RateLimited`."""
        now = self._clock()
        after, statuses = self._after(charges, now)
        self._buckets.update(after)
        self._sweep(now)
        self._count += 1
        reservation = Reservation(str(self._count))
        self._open[reservation.id] = tuple(charges)
        return Grant(reservation, tuple(statuses))

    def _is_ample(self, charges: Sequence[Charge]) -> bool:
        """Whether each bucket had room for all charges together when it was last changed; it only refills since."""
        total = sum([charge.amount for charge in charges])
        for charge in charges:
            bucket = self._buckets.get((charge.limit, charge.key))
            if charge.limit.amount < total or (bucket is not None and bucket.tokens < total):
                return False
        return True

    def _after(self, charges: Sequence[Charge], now: float) -> tuple[dict[_BucketKey, Bucket], list[LimitStatus]]:
        """The buckets and limits as they are once the charges are taken. Raises `RateLimited`."""
        after: dict[_BucketKey, Bucket] = {}
        statuses: list[LimitStatus] = []
        longest, tightest = 0.0, None
        for charge in charges:
            limit = charge.limit
            key = (limit, charge.key)
            bucket = after.get(key) or self._bucket(key, now)
            wait = waiting_time(bucket, charge.amount, capacity=limit.amount, window=limit.window)
            if wait > longest:
                longest, tightest = wait, _status(charge, bucket)
            after[key] = left = taken(bucket, charge.amount)
            statuses.append(_status(charge, left))
        if tightest is not None:
            raise RateLimited(tightest, longest)
        return after, statuses

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book the actual amounts. Settling twice changes nothing."""
        now = self._clock()
        for charge, amount in zip(self._open.pop(reservation.id, ()), amounts, strict=False):
            if amount != charge.amount:
                key = (charge.limit, charge.key)
                self._buckets[key] = taken(self._bucket(key, now), amount - charge.amount)

    def _bucket(self, key: _BucketKey, now: float) -> Bucket:
        limit = key[0]
        bucket = self._buckets.get(key) or Bucket(limit.amount, now)
        return refilled(bucket, now, capacity=limit.amount, window=limit.window)

    def _sweep(self, now: float) -> None:
        """Remove full buckets, each time the number of buckets has doubled."""
        if len(self._buckets) < self._sweep_at:
            return
        for (limit, key), bucket in list(self._buckets.items()):
            if refilled(bucket, now, capacity=limit.amount, window=limit.window).tokens >= limit.amount:
                del self._buckets[limit, key]
        self._sweep_at = max(_MIN_BEFORE_SWEEP, 2 * len(self._buckets))


def _status(charge: Charge, bucket: Bucket) -> LimitStatus:
    limit, level = charge.limit, bucket.tokens
    missing = limit.amount - level
    return LimitStatus(
        charge,
        int(level + 1e-9) if level > 0 else 0,
        missing * limit.window / limit.amount if missing > 0 else 0.0,
    )
