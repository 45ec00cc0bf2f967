"""A bucket of a limit in memory: the arithmetic of reserving, refilling and settling. No I/O, no clock of its own."""

from __future__ import annotations

from math import exp, inf, log

import msgspec

from bud_asgi.limit import Limit
from bud_asgi.limits.store import MAX_DEBT

_EMPTIED = 64.0
"""What `drained` grows by when all that was reserved has been refilled: of what was, `exp(-64)` is nothing."""

_NOTHING = 1e-6  # of a unit: what rounding leaves of reservations that are all settled


class Bucket(msgspec.Struct, gc=False, eq=False):
    """What has been used of a limit, `updated_at` seconds on a clock. It refills evenly, and may go into debt.

    `used` is 0 at rest. `reserved` is the part of it that running requests hold: it is refilled last, and evenly from
    all of them. `drained` is how far, as a logarithm: of an amount that was reserved when it was `mark`,
    `exp(mark - drained)` is left. So no more is given back to the bucket than what is in it, in whatever order requests
    end. `concurrent` limits are buckets that do not refill.
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
        At rest, it starts at any time.
        """
        used, elapsed = self.used, now - self.updated_at
        if elapsed > 0.0:
            self.updated_at = now
            if used:
                refilled = elapsed * self.rate
                self.used = used = used - refilled if refilled < used else 0.0
                if used < self.reserved:
                    self.drained += min(log(self.reserved / used), _EMPTIED) if used else _EMPTIED
                    self.reserved = used
        elif not used or elapsed < -(self.limit.window or 0.0):
            self.updated_at = now
        return used

    def release(self, reserved: float, mark: float) -> float:
        """Let a reservation end, and return what is left of it. The bucket must be up to date."""
        left = reserved if mark == self.drained else reserved * exp(mark - self.drained)
        rest = self.reserved - left
        if rest > _NOTHING:
            self.reserved = rest
            return left
        left, self.reserved = self.reserved, 0.0
        return left

    def settle(self, now: float, reserved: float, mark: float, actual: float) -> None:
        """Book an actual amount in place of a reserved one; `mark` is what `drained` was when it was reserved."""
        used, extra = self.refill(now), actual - reserved
        left = self.release(reserved, mark)
        if extra > 0.0:
            most = (1 + MAX_DEBT) * self.capacity
            self.used = max(used, min(used + extra, most))
        elif extra < 0.0:
            back = min(-extra, left)
            self.used = used - back if back < used else 0.0
