"""A bucket of a limit in memory: the arithmetic of reserving, refilling and settling. No I/O, no clock of its own."""

from __future__ import annotations

from math import inf

import msgspec

from bud_asgi.limit import Limit
from bud_asgi.limits.store import MAX_DEBT


class Bucket(msgspec.Struct, gc=False, eq=False):
    """What has been used of a limit, `updated_at` seconds on a clock. It refills evenly, and may go into debt.

    `used` is 0 at rest; `reserved` is the part of it that running requests hold. `drained` is all that has been
    refilled or given back: the difference to what it was shows how much of a reservation is still in the bucket, first
    in, first out. `concurrent` limits are buckets that do not refill.
    """

    limit: Limit
    key: str
    capacity: float
    rate: float
    enforced: bool
    updated_at: float
    used: float = 0.0
    drained: float = 0.0
    reserved: float = 0.0

    @classmethod
    def of(cls, limit: Limit, key: str, now: float) -> Bucket:
        """A full bucket."""
        return cls(limit, key, float(limit.amount), limit.rate, not limit.observed, now)

    @property
    def removed(self) -> bool:
        """Whether its store has forgotten it: it was at rest, and a new one will be made for the key."""
        return self.capacity < 0.0

    def remove(self) -> None:
        """Leave no room in it, so that whoever still refers to it looks for a new one."""
        self.capacity = -inf

    def refill(self, now: float) -> float:
        """Bring it up to date, and return what is used.

        If the clock went back, nothing is added until it has caught up; by more than a window, it starts again there.
        """
        elapsed = now - self.updated_at
        if elapsed > 0.0:
            used = self.used
            if used:
                refilled = elapsed * self.rate
                refilled = refilled if refilled < used else used  # noqa: FURB136 - a third of a call of min()
                self.used = used = used - refilled
                self.drained += refilled
            self.updated_at = now
            return used
        if elapsed < -(self.limit.window or 0.0):
            self.updated_at = now
        return self.used

    def settle(self, now: float, reserved: float, mark: float, actual: float) -> None:
        """Book an actual amount in place of a reserved one; `mark` was `drained + used` before it was reserved."""
        self.reserved -= reserved
        extra = actual - reserved
        if not extra:
            return
        used = self.refill(now)
        if extra > 0.0:
            most = (1 + MAX_DEBT) * self.capacity
            self.used = max(used, min(used + extra, most))
            return
        refilled = min(max(self.drained - mark, 0.0), reserved)
        back = min(-extra, reserved - refilled, used)
        self.used = used - back
        self.drained += back
