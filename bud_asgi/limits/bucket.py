"""A continuous token bucket: pure arithmetic. The clock is handed in."""

from __future__ import annotations

import msgspec

ROUNDING = 1e-9
"""Of a capacity: so much short is not short. Whoever waits as long as it was told must pass."""


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """How much was left at a moment. `moment` is in seconds on any clock that only goes forward."""

    level: float
    moment: float


def refilled(bucket: Bucket, now: float, *, capacity: float, window: float) -> Bucket:
    """The bucket as it is now: it fills evenly, a whole capacity in a window, and never over its brim.

    A clock that went back changes nothing until it has caught up.
    """
    passed = now - bucket.moment
    if passed <= 0:
        return Bucket(min(capacity, bucket.level), bucket.moment)
    return Bucket(min(capacity, bucket.level + passed * capacity / window), now)


def waiting_time(bucket: Bucket, amount: float, *, capacity: float, window: float) -> float:
    """Seconds until the amount can be taken from a bucket as it is now; 0 if it can be taken at once.

    An amount above the capacity passes when the bucket is full, else it never could.
    """
    short = min(amount, capacity) - bucket.level
    return short * window / capacity if short > ROUNDING * capacity else 0.0


def taken(bucket: Bucket, amount: float) -> Bucket:
    """The bucket after an amount was taken, or with a negative amount given back; it may go into debt."""
    return Bucket(bucket.level - amount, bucket.moment)
