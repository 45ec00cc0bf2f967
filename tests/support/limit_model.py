"""An exact model of limits, in fractions: what a store must grant, refuse and report. It contains no store."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import msgspec

from bud_asgi.limit import Limit, limit_id
from bud_asgi.limits import Charge
from bud_asgi.limits.store import CONCURRENCY_WAIT, MAX_DEBT


class BucketModel:
    """A bucket: what is used of it, and which part of that each running request still holds."""

    def __init__(self, limit: Limit, now: Fraction) -> None:
        self.limit = limit
        self.capacity = Fraction(limit.amount)
        self.window = Fraction(limit.window or 0)
        self.used = Fraction(0)
        self.held: dict[int, Fraction] = {}
        self.updated_at = now

    @property
    def reserved(self) -> Fraction:
        """What running requests hold."""
        return sum(self.held.values(), Fraction(0))

    @property
    def rate(self) -> Fraction:
        """What is refilled in a second."""
        return self.capacity / self.window if self.window else Fraction(0)

    def refill(self, now: Fraction) -> None:
        """Settled use is refilled first, then what running requests hold, evenly."""
        elapsed = now - self.updated_at
        if not self.used or elapsed < -self.window:
            self.updated_at = now
            return
        if elapsed <= 0:
            return
        self.updated_at = now
        self.used -= min(self.used, elapsed * self.rate)
        if (held := self.reserved) > self.used:
            self.held = {number: part * self.used / held for number, part in self.held.items()}

    def wait(self, amount: int) -> Fraction:
        """Seconds until so much can be taken; 0 if it can be taken now."""
        missing = self.used + min(Fraction(amount), self.capacity) - self.capacity
        if missing <= 0 or self.limit.observed:
            return Fraction(0)
        return missing / self.rate if self.rate else Fraction(CONCURRENCY_WAIT)

    def settle(self, number: int, reserved: int, actual: int) -> None:
        """Book what was used: what was reserved too much is given back as far as it has not been refilled."""
        left = self.held.pop(number)
        if actual > reserved:
            self.used = max(self.used, min(self.used + actual - reserved, (1 + MAX_DEBT) * self.capacity))
        else:
            self.used -= min(left, Fraction(reserved - actual))


class Taken(msgspec.Struct):
    """A charge that was granted, when, and what it has used in the end; until then `actual` is what was reserved."""

    at: Fraction
    amount: int
    actual: int


class LimitModel:
    """Buckets by limit and key, and the reservations that have been granted, by number."""

    def __init__(self, now: Fraction) -> None:
        self.now = now
        self.buckets: dict[tuple[str, str], BucketModel] = {}
        self.running: dict[int, Sequence[Charge]] = {}
        self.taken: dict[tuple[str, str], dict[int, Taken]] = {}
        self._count = 0

    def bucket(self, limit: Limit, key: str) -> BucketModel:
        """The bucket of a limit, up to date."""
        bucket = self.buckets.setdefault((limit_id(limit), key), BucketModel(limit, self.now))
        bucket.refill(self.now)
        return bucket

    def waits(self, charges: Sequence[Charge]) -> list[Fraction]:
        """How long each charge has to wait. If none has to, all are granted."""
        return [self.bucket(charge.limit, charge.key).wait(charge.amount) for charge in charges]

    def reserve(self, charges: Sequence[Charge]) -> int:
        """Take all charges, and return the number of the reservation."""
        self._count += 1
        for charge in charges:
            bucket = self.bucket(charge.limit, charge.key)
            bucket.used += charge.amount
            bucket.held[self._count] = Fraction(charge.amount)
            taken = Taken(self.now, charge.amount, charge.amount)
            self.taken.setdefault((limit_id(charge.limit), charge.key), {})[self._count] = taken
        self.running[self._count] = charges
        return self._count

    def settle(self, number: int, amounts: Sequence[int]) -> None:
        """Book actual amounts."""
        for charge, actual in zip(self.running.pop(number), amounts, strict=True):
            self.bucket(charge.limit, charge.key).settle(number, charge.amount, actual)
            self.taken[limit_id(charge.limit), charge.key][number].actual = actual

    def assert_never_over(self) -> None:
        """No period of time has seen more than the limits allow: true while the clock has not gone back.

        In a period that is the amount, what is refilled meanwhile, and what requests have used more than was reserved.
        A single request may reserve more than the whole amount.
        """
        for name, bucket in self.buckets.items():
            taken = sorted(self.taken.get(name, {}).values(), key=lambda one: one.at)
            if bucket.limit.observed or not bucket.window:
                continue
            for first, begin in enumerate(taken):
                used, most = 0, bucket.capacity
                for one in taken[first:]:
                    used += min(one.actual, one.amount)
                    most = max(most, Fraction(one.amount))
                    assert used <= most + (one.at - begin.at) * bucket.rate
