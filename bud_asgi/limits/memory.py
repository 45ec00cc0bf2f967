"""A `LimitStore` in the memory of one process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import RLock

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limit import limit_id
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.bucket import Bucket
from bud_asgi.limits.store import Charge, Grant, LimitStatus, waiting_time
from bud_asgi.options import check_clock

IDLE = 10.0
"""Seconds without use after which a bucket at rest is removed: making a new one costs more than keeping it so long."""

_PER_NEW = 2  # old buckets that are examined for each new one: with 1, those at rest could pile up
_PER_SWEEP = 256  # old buckets that are examined at each interval, also without new ones
_SWEEP_EVERY = 0.1  # seconds


class Account(msgspec.Struct, gc=False):
    """The buckets of a caller's requests, in the order of its charges. It may be used again and again."""

    charges: tuple[Charge, ...]
    buckets: tuple[Bucket, ...]


class MemoryReservation(Reservation, frozen=True, gc=False):
    """What a request holds: of each bucket an amount, taken when the bucket was `drained` so far (`marks`).

    There are no marks once it is settled. All have the same `id`: the object itself identifies a reservation.
    """

    buckets: tuple[Bucket, ...]
    amounts: Sequence[int]
    marks: list[float]


class MemoryStore:
    """Counts in memory. It never awaits, and may be shared by threads. A reservation lasts until it is settled.

    Buckets at rest hold no information, and are removed: for each new bucket a few old ones are examined, and some
    more ten times a second while there are requests. `clock` returns seconds. Raises `OptionError`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        check_clock("clock", clock)
        self._clock = clock
        self._lock = RLock()  # for hosts with event loops in several threads
        self._buckets: dict[str, dict[str, Bucket]] = {}  # by the id of the limit, and by key
        self._to_sweep: deque[Bucket] = deque()  # all buckets
        self._sweep_at = 0.0
        self._open = 0

    @property
    def size(self) -> int:
        """The number of buckets that are kept."""
        return len(self._to_sweep)

    @property
    def open(self) -> int:
        """The number of reservations that are not settled yet."""
        return self._open

    def account(self, charges: Sequence[Charge]) -> Account:
        """Find the buckets of these charges. Missing ones are added: they are full."""
        with self._lock:
            now = self._clock()
            return Account(tuple(charges), tuple([self._bucket(charge, now) for charge in charges]))

    def check(self, account: Account, amounts: Sequence[int]) -> None:
        """Raise `RateLimited` where `take` would. Takes nothing."""
        for index, bucket in enumerate(account.buckets):  # zip() costs several times as much
            if bucket.used + amounts[index] > bucket.capacity:  # it may have refilled since
                with self._lock:
                    self._check_exactly(account, amounts, self._clock())
                return

    def take(self, account: Account, amounts: Sequence[int]) -> float:
        """Use these amounts at once, without a reservation, or none of them. Raises `RateLimited`.

        Returns the time on the store's clock, which `give_back` needs.
        """
        with self._lock:
            now = self._clock()
            if now >= self._sweep_at:
                self._sweep_at = now + _SWEEP_EVERY
                self._sweep(now, _PER_SWEEP)
            for index, bucket in enumerate(account.buckets):
                if not bucket.take(now, amounts[index]):
                    self._take_exactly(account, amounts, now, taken=index)
                    break
            return now

    def give_back(self, account: Account, amounts: Sequence[int], taken_at: float) -> None:
        """Give back what was used at once, less all that may have been refilled since."""
        with self._lock:
            now = self._clock()
            for charge, bucket, amount in zip(account.charges, account.buckets, amounts, strict=True):
                bucket.give_back(now, amount, taken_at, charge.limit.rate)

    def hold(self, account: Account, amounts: Sequence[int]) -> MemoryReservation:
        """Reserve these amounts, or none of them. Raises `RateLimited`."""
        with self._lock:
            self.take(account, amounts)
            marks: list[float] = []
            for index, bucket in enumerate(account.buckets):
                marks.append(bucket.drained)
                bucket.reserved += amounts[index]
            if marks:
                self._open += 1
            return MemoryReservation("", account.buckets, amounts, marks)

    def book(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Settle at once. Settling twice changes nothing."""
        if not isinstance(reservation, MemoryReservation):
            return
        with self._lock:
            marks = reservation.marks
            if not marks:
                return
            self._open -= 1
            held, now = reservation.amounts, self._clock()
            for index, bucket in enumerate(reservation.buckets):
                reserved, actual = held[index], amounts[index]
                if actual == reserved:
                    bucket.release(reserved, marks[index])
                elif actual > reserved and bucket.removed:  # it was at rest: nothing of the reservation is left
                    self._bucket(Charge(bucket.limit, bucket.key, 0), now).settle(now, 0.0, 0.0, actual - reserved)
                else:
                    bucket.settle(now, reserved, marks[index], actual)
            marks.clear()

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none. Raises `RateLimited`."""
        account = self.account(charges)
        reservation = self.hold(account, [charge.amount for charge in charges])
        return Grant(reservation, status_of(account))

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts. Settling twice changes nothing."""
        self.book(reservation, amounts)

    def status(self, charge: Charge) -> LimitStatus:
        """The status of one bucket."""
        with self._lock:
            return self._status(charge, self._clock())

    async def statuses(self, buckets: Sequence[Charge]) -> Sequence[LimitStatus]:
        """The status of each bucket."""
        with self._lock:
            now = self._clock()
            return [self._status(charge, now) for charge in buckets]

    def _status(self, charge: Charge, now: float) -> LimitStatus:
        bucket = self._buckets.get(limit_id(charge.limit), {}).get(charge.key)
        if bucket is None:
            return LimitStatus(charge, 0.0)
        return LimitStatus(charge, bucket.refill(now), bucket.reserved)

    def _bucket(self, charge: Charge, now: float) -> Bucket:
        limit, key = charge.limit, charge.key
        buckets = self._buckets.setdefault(limit_id(limit), {})
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket.of(limit, key, now)
            self._sweep(now, _PER_NEW)
            self._to_sweep.append(bucket)
            return bucket
        bucket.refill(now)  # so that it is not idle
        if bucket.limit.amount != limit.amount:  # it has been changed
            bucket.change(limit)
        return bucket

    def _take_exactly(self, account: Account, amounts: Sequence[int], now: float, *, taken: int) -> None:
        """Take after a bucket had no room, which may be due to rounding, or to a bucket that has been replaced.

        The first `taken` buckets have been taken from already.
        """
        for bucket, amount in zip(account.buckets[:taken], amounts[:taken], strict=True):
            bucket.used -= amount
        self._check_exactly(account, amounts, now)
        for bucket, amount in zip(account.buckets, amounts, strict=True):
            bucket.used += amount

    def _check_exactly(self, account: Account, amounts: Sequence[int], now: float) -> None:
        """Bring the buckets up to date, looking them up anew if need be. Raises `RateLimited` if there is no room."""
        if any(bucket.capacity < 0.0 for bucket in account.buckets):
            account.buckets = self.account(account.charges).buckets
        longest, refused = 0.0, -1
        for index, (bucket, amount) in enumerate(zip(account.buckets, amounts, strict=True)):
            used = bucket.refill(now)
            if not bucket.limit.observed:
                wait = waiting_time(bucket.limit, used, amount)
                if wait > longest:
                    longest, refused = wait, index
        if refused >= 0:
            charges = [Charge(one.limit, one.key, amount) for one, amount in zip(account.charges, amounts, strict=True)]
            statuses = status_of(Account(tuple(charges), account.buckets))
            raise RateLimited(statuses[refused], longest, statuses)

    def _sweep(self, now: float, number: int) -> None:
        """Examine so many buckets, and remove those at rest."""
        for _ in range(min(number, len(self._to_sweep))):
            bucket = self._to_sweep.popleft()
            idle = now - bucket.updated_at
            if idle < IDLE or bucket.used > idle * bucket.rate:
                self._to_sweep.append(bucket)
            else:
                bucket.remove()
                del self._buckets[limit_id(bucket.limit)][bucket.key]


def status_of(account: Account) -> tuple[LimitStatus, ...]:
    """The status of each bucket of an account, as of its last change."""
    pairs = zip(account.charges, account.buckets, strict=True)
    return tuple([LimitStatus(charge, bucket.used) for charge, bucket in pairs])
