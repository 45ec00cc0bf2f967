"""A `LimitStore` in the memory of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from math import inf

import msgspec

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limits.limit import ROUNDING, Bucket, Charge, Limit, charges_of, own_key, waiting_time
from bud_asgi.limits.store import Grant, LimitStatus, RateLimited
from bud_asgi.options import check_clock

_MIN_BEFORE_SWEEP = 1024
_MAX_ACCOUNTS = 4096
_LONGEST_KEY = 256  # characters


class Draw(msgspec.Struct, frozen=True, gc=False):
    """What a request takes from one bucket."""

    bucket: Bucket
    amount: float
    charge: Charge


class Account(msgspec.Struct, frozen=True, gc=False):
    """What a request takes, in the order of its charges, and the total of that. To be used at once."""

    draws: tuple[Draw, ...]
    amounts: tuple[int, ...]
    total: float


class MemoryStore:
    """Counts in memory. It never awaits, so its steps are atomic. Full buckets are removed: they hold no information.

    `clock` returns seconds and only goes forward. Raises `OptionError`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        check_clock("clock", clock)
        self._clock = clock
        self._buckets: dict[tuple[Limit, str], Bucket] = {}
        self._accounts: dict[tuple[tuple[Limit, ...], str], Account] = {}  # all their buckets are in `_buckets`
        self._sweep_at = _MIN_BEFORE_SWEEP
        self._open: dict[str, Account] = {}
        self._count = 0

    @property
    def open(self) -> int:
        """The number of reservations that are not settled yet."""
        return len(self._open)

    def account(self, charges: Sequence[Charge]) -> Account:
        """Find the buckets of these charges. Missing ones are added: they are full."""
        now = self._clock()
        if len(self._buckets) >= self._sweep_at:
            self._sweep(now)
        draws = tuple([Draw(self._bucket(charge, now), float(charge.amount), charge) for charge in charges])
        amounts = tuple([charge.amount for charge in charges])
        return Account(draws, amounts, float(sum(amounts)))

    def account_for(self, limits: tuple[Limit, ...], exchange: Exchange) -> Account:
        """The account of a request. It is remembered for the next one of this principal."""
        key = limits, own_key(exchange)
        account = self._accounts.get(key)
        if account is None:
            account = self.account(charges_of(limits, exchange))
            if len(self._accounts) >= _MAX_ACCOUNTS:
                self._accounts.clear()
            if len(key[1]) <= _LONGEST_KEY:
                self._accounts[key] = account
        return account

    def check(self, account: Account) -> None:
        """Raise `RateLimited` where `take` would. Takes nothing."""
        for draw in account.draws:
            if draw.bucket.tokens < account.total:  # it may have refilled since
                self._refill(account)
                return

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none. Raises `RateLimited`."""
        return self.take(self.account(charges))

    def take(self, account: Account) -> Grant:
        """Reserve, without a coroutine. Raises `RateLimited`."""
        self._refill(account)
        tightest, least = None, inf
        for draw in account.draws:
            bucket = draw.bucket
            bucket.tokens = tokens = bucket.tokens - draw.amount
            if tokens < least:
                tightest, least = draw, tokens
        self._count += 1
        reservation = Reservation(str(self._count))
        self._open[reservation.id] = account
        return Grant(reservation, () if tightest is None else (_status(tightest, least),))

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book the actual amounts. Settling twice changes nothing."""
        account = self._open.pop(reservation.id, None)
        if account is None or amounts == account.amounts:
            return
        now = self._clock()
        for draw, amount in zip(account.draws, amounts, strict=False):
            bucket = self._bucket(draw.charge, now)  # that of the account may have been removed since
            bucket.tokens = bucket.refill(now) - (amount - draw.amount)

    def _bucket(self, charge: Charge, now: float) -> Bucket:
        limit = charge.limit
        key = limit, charge.key
        bucket = self._buckets.get(key)
        if bucket is None:
            full = float(limit.amount)
            bucket = self._buckets[key] = Bucket(full, now, full, float(limit.window))
        return bucket

    def _refill(self, account: Account) -> None:
        """Bring the buckets up to date. Raises `RateLimited` if they have no room for the charges."""
        now, total, ample = self._clock(), account.total, True
        for draw in account.draws:
            if draw.bucket.refill(now) < total:
                ample = False
        if not ample:
            _check(account.draws)

    def _sweep(self, now: float) -> None:
        """Remove full buckets, each time the number of buckets has doubled."""
        self._accounts.clear()
        for key, bucket in list(self._buckets.items()):
            if bucket.refill(now) >= bucket.capacity:
                del self._buckets[key]
        self._sweep_at = max(_MIN_BEFORE_SWEEP, 2 * len(self._buckets))


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
    return LimitStatus(draw.charge, int(tokens + ROUNDING) if tokens > 0.0 else 0, full_in)
