"""A `LimitStore` in the memory of one process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from math import floor, inf

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.limit import ROUNDING, Bucket, Charge, Limit, waiting_time
from bud_asgi.limits.store import Grant, LimitStatus, RateLimited
from bud_asgi.options import check_clock

_PER_NEW = 2  # old buckets that are looked at for each new one: with 1, full ones could pile up


class Draw(msgspec.Struct, frozen=True, gc=False):
    """What a request takes from one bucket."""

    bucket: Bucket
    amount: float
    charge: Charge


class Account(msgspec.Struct, gc=False):
    """What a request takes, in the order of its charges, and the total of that. It may be used again and again."""

    draws: tuple[Draw, ...]
    amounts: tuple[int, ...]
    total: float


class MemoryStore:
    """Counts in memory. It never awaits, so its steps are atomic. Full buckets are removed: they hold no information.

    For each new bucket, a few old ones are looked at. One that is removed is left with `-inf` tokens: an account that
    still has it finds no room in it, and looks for its buckets again.

    `clock` returns seconds and only goes forward. Raises `OptionError`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        check_clock("clock", clock)
        self._clock = clock
        self._buckets: dict[tuple[Limit, str], Bucket] = {}
        self._to_sweep: deque[tuple[Limit, str]] = deque()  # the keys of all buckets
        self._due = 0  # how many of them to look at next
        self._open: dict[str, Account] = {}
        self._count = 0

    @property
    def open(self) -> int:
        """The number of reservations that are not settled yet."""
        return len(self._open)

    def account(self, charges: Sequence[Charge]) -> Account:
        """Find the buckets of these charges. Missing ones are added: they are full."""
        now = self._clock()
        amounts = tuple([charge.amount for charge in charges])
        return Account(self._draws(charges, now), amounts, float(sum(amounts)))

    def check(self, account: Account) -> None:
        """Raise `RateLimited` where `take` would. Takes nothing."""
        for draw in account.draws:
            if draw.bucket.tokens < account.total:  # it may have refilled since
                self._check_exactly(account)
                return

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none. Raises `RateLimited`."""
        reservation, tightest = self.take(self.account(charges))
        return Grant(reservation, () if tightest is None else (tightest,))

    def take(self, account: Account) -> tuple[Reservation, LimitStatus | None]:
        """Reserve, and return the status of the tightest limit too; `None` without limits. Raises `RateLimited`."""
        self.check(account)
        now, tightest, least = self._clock(), None, inf
        for draw in account.draws:
            tokens = draw.bucket.refill(now, draw.amount)
            if tokens < least:
                tightest, least = draw, tokens
        self._count += 1
        reservation = Reservation(str(self._count))
        self._open[reservation.id] = account
        return reservation, None if tightest is None else _status(tightest, least)

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book the actual amounts. Settling twice changes nothing."""
        account = self._open.pop(reservation.id, None)
        if account is None or amounts == account.amounts:
            return
        now = self._clock()
        for draw, amount in zip(account.draws, amounts, strict=False):
            self._bucket(draw.charge, now).refill(now, amount - draw.amount)  # its own may have been removed since

    def _draws(self, charges: Sequence[Charge], now: float) -> tuple[Draw, ...]:
        self._sweep(now)
        return tuple([Draw(self._bucket(charge, now), float(charge.amount), charge) for charge in charges])

    def _bucket(self, charge: Charge, now: float) -> Bucket:
        limit = charge.limit
        key = limit, charge.key
        bucket = self._buckets.get(key)
        if bucket is None:
            full = float(limit.amount)
            bucket = self._buckets[key] = Bucket(full, now, full, float(limit.window))
            self._to_sweep.append(key)
            self._due += _PER_NEW
        return bucket

    def _check_exactly(self, account: Account) -> None:
        """Bring the buckets up to date, looking up removed ones anew. Raises `RateLimited` if there is no room."""
        now, ample = self._clock(), True
        if any(draw.bucket.tokens == -inf for draw in account.draws):
            account.draws = self._draws([draw.charge for draw in account.draws], now)
        for draw in account.draws:
            if draw.bucket.refill(now) < account.total:
                ample = False
        if not ample:
            _check(account.draws)

    def _sweep(self, now: float) -> None:
        """Remove the full buckets among those that are due."""
        for _ in range(min(self._due, len(self._to_sweep))):
            key = self._to_sweep.popleft()
            bucket = self._buckets[key]
            if bucket.refill(now) < bucket.capacity:
                self._to_sweep.append(key)
            else:
                bucket.tokens = -inf
                del self._buckets[key]
        self._due = 0


def _check(draws: Sequence[Draw]) -> None:
    """Raise `RateLimited` with the longest wait, if buckets that are up to date have no room for all draws together."""
    left: dict[int, float] = {}
    longest, refused, level = 0.0, None, 0.0
    for draw in draws:
        bucket = draw.bucket
        tokens = left.get(id(bucket), bucket.tokens)  # several draws may meet in one bucket
        wait = waiting_time(tokens, draw.amount, capacity=bucket.capacity, window=bucket.window)
        if wait > longest:
            longest, refused, level = wait, draw, tokens
        left[id(bucket)] = tokens - draw.amount
    if refused is not None:
        raise RateLimited(_status(refused, level), longest)


def _status(draw: Draw, tokens: float) -> LimitStatus:
    capacity = draw.bucket.capacity
    missing = capacity - tokens
    full_in = missing * draw.bucket.window / capacity if missing > 0.0 else 0.0
    return LimitStatus(draw.charge, floor(tokens + ROUNDING) if tokens > 0.0 else 0, full_in)
