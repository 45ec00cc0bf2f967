"""A bucket of a limit in memory: the arithmetic of reserving, refilling and settling. No I/O, no clock of its own."""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, log

import msgspec

from bud_asgi.limit import Limit
from bud_asgi.limits.store import MAX_DEBT

_EMPTIED = 64.0
"""How much `drained` grows when all that was reserved has been refilled: `exp(-64)` of it is as good as nothing."""

_NOTHING = 1e-6  # of a unit: less than that is a rounding error, and every reservation is settled


_CHANGED = -1.0  # the capacity of a bucket of different amounts


class Bucket(msgspec.Struct, gc=False, eq=False):
    """How much of a limit is used, as of `updated_at`, seconds on a clock. It refills evenly, and may go into debt.

    `used` is 0 at rest. `reserved` is the part of it that running requests hold. It is refilled last, and evenly across
    them, so that the order in which they end makes no difference. `drained` measures how far, as a logarithm: of an
    amount that was reserved when it was `mark`, `exp(mark - drained)` is left. `concurrent` limits are buckets that do
    not refill. `capacity` is negative where what refers to the bucket has to look it up: it is `removed`, or requests
    with different amounts of the limit have used it. There may be many buckets, so each field counts.
    """

    limit: Limit
    key: str
    capacity: float
    rate: float
    updated_at: float
    used: float = 0.0
    reserved: float = 0.0
    drained: float = 0.0

    @classmethod
    def of(cls, limit: Limit, key: str, now: float) -> Bucket:
        """A full bucket."""
        capacity, rate = _numbers(limit)
        return cls(limit, key, capacity, rate, now)

    @property
    def removed(self) -> bool:
        """Whether it does not belong to its store any more."""
        return self.capacity == -inf

    def remove(self) -> None:
        """Mark it as removed."""
        self.capacity = -inf

    def change(self, limit: Limit) -> None:
        """Apply another amount of the limit from now on, until a request with the former one comes."""
        self.limit, self.rate, self.capacity = limit, limit.rate, _CHANGED

    def take(self, now: float, amount: int) -> bool:
        """Bring it up to date, and take an amount if there is room for it, or nothing. Returns whether there is room.

        If the clock went back, nothing is added until it has caught up; after more than a window, or at rest, it counts
        from there.
        """
        used, elapsed = self.used, now - self.updated_at
        if elapsed > 0.0:
            self.updated_at = now
            refilled = elapsed * self.rate
            used = used - refilled if refilled < used else 0.0
            if used < self.reserved:
                self.drained += min(log(self.reserved / used), _EMPTIED) if used else _EMPTIED
                self.reserved = used
        elif not used or elapsed < -(self.limit.window or 0.0):
            self.updated_at = now
        taken = used + amount
        if taken > self.capacity and (self.capacity < 0.0 or not self.limit.observed):
            self.used = used
            return False
        self.used = taken
        return True

    def refill(self, now: float) -> float:
        """Bring it up to date, and return what is used."""
        self.take(now, 0)
        return self.used

    def give_back(self, now: float, amount: int, taken_at: float, rate: float) -> None:
        """Give back what was taken at `taken_at` without a reservation, less what may have been refilled since.

        `rate` is that of the limit it was taken from: the bucket may have refilled at that rate before a change.
        """
        back = amount - max(0.0, now - taken_at) * max(rate, self.rate)
        if back > 0.0:
            self.used = max(0.0, self.refill(now) - back)

    def release(self, reserved: float, mark: float) -> float:
        """End a reservation, made when `drained` was `mark`; return how much of it is still in the bucket."""
        left = reserved if mark == self.drained else reserved * exp(mark - self.drained)
        rest = self.reserved - left
        if rest > _NOTHING:
            self.reserved = rest
            return left
        left, self.reserved = self.reserved, 0.0
        return left

    def settle(self, now: float, reserved: float, mark: float, actual: float) -> None:
        """Book an actual amount in place of a reserved one."""
        used, extra = self.refill(now), actual - reserved
        left = self.release(reserved, mark)
        if extra > 0.0:
            most = (1.0 + MAX_DEBT) * self.limit.amount
            self.used = max(used, min(used + extra, most))
        else:
            back = left if left < -extra else -extra  # noqa: FURB136 - a third of a call of min()
            self.used = used - back if back < used else 0.0


@lru_cache(maxsize=4096)
def _numbers(limit: Limit) -> tuple[float, float]:
    """Capacity and rate, as objects that all buckets of a limit share."""
    return float(limit.amount), limit.rate
