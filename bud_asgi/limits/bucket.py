"""A bucket of a limit in memory: the arithmetic of reserving, refilling and settling. No I/O, no clock of its own."""

from __future__ import annotations

from math import inf

import msgspec

from bud_asgi.limit import Limit
from bud_asgi.limits.store import MAX_DEBT


class Bucket(msgspec.Struct, gc=False, eq=False):
    """What has been used of a limit, `updated_at` seconds on a clock. It refills evenly, and may go into debt.

    `used` is 0 at rest. `drained` is all that has been refilled or given back: the difference to what it was shows how
    much of a reservation is still in the bucket, first in, first out. A reservation's `mark` is `drained + used` before
    it. `concurrent` limits are buckets that do not refill. Once `removed`, its store has forgotten it.
    """

    limit: Limit
    key: str
    capacity: float
    rate: float
    enforced: bool
    updated_at: float
    used: float = 0.0
    drained: float = 0.0
    removed: bool = False

    @classmethod
    def of(cls, limit: Limit, key: str, now: float) -> Bucket:
        """A full bucket."""
        return cls(limit, key, float(limit.amount), limit.rate, not limit.observed, now)

    def remove(self) -> None:
        """Leave no room in it, so that whoever still refers to it looks for a new one."""
        self.removed, self.capacity = True, -inf

    def refill(self, now: float) -> float:
        """Bring it up to date, and return what is used.

        If the clock went back, nothing is added until it has caught up; by more than a window, it starts again there.
        """
        used, elapsed = self.used, now - self.updated_at
        if elapsed > 0.0:
            self.updated_at = now
            if used:
                refilled = elapsed * self.rate
                if refilled >= used:
                    self.drained += used
                    self.used = used = 0.0
                else:
                    self.drained += refilled
                    self.used = used = used - refilled
        elif elapsed < -(self.limit.window or 0.0):
            self.updated_at = now
        return used

    def left(self, reserved: float, mark: float) -> float:
        """How much of a reservation is still in the bucket."""
        refilled = self.drained - mark
        if refilled <= 0.0:
            return reserved
        return reserved - refilled if refilled < reserved else 0.0

    def settle(self, now: float, reserved: float, mark: float, actual: float) -> None:
        """Book an actual amount in place of a reserved one."""
        used, extra = self.refill(now), actual - reserved
        if extra > 0.0:
            most = (1 + MAX_DEBT) * self.capacity
            self.used = max(used, min(used + extra, most))
            return
        back, left = -extra, self.left(reserved, mark)
        back = back if back < left else left  # noqa: FURB136 - a third of a call of min()
        self.used = used - back if back < used else 0.0
        self.drained += back
