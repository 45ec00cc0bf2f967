"""The store in memory, against an exact model, and its housekeeping. `test_limit_store` is the suite of all stores."""

from __future__ import annotations

import math
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.counts import examples

from bud_asgi.exchange import Reservation
from bud_asgi.limits import Charge, Limit, MemoryStore, RateLimited
from bud_asgi.limits.memory import Account

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that may not wait."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def refused(store: MemoryStore, *charges: Charge) -> RateLimited:
    """The refusal of charges that must not be granted."""
    try:
        granted = at_once(store.reserve(charges))
    except RateLimited as error:
        return error
    raise AssertionError(granted)


# Amounts, windows and times are sums of powers of two, so that floats are exact and the model may compare for equality.
LIMITS = (Limit("requests", 4, 8.0), Limit("requests", 2, 1.0), Limit("requests", 16, 4.0, "all"))
_charges = st.lists(
    st.tuples(st.sampled_from(LIMITS), st.sampled_from("abc"), st.integers(0, 6)),
    max_size=4,
    unique_by=lambda charge: charge[:2],
)


class StoreMachine(RuleBasedStateMachine):
    """Reserves, settles and lets time pass, beside a model in fractions that knows no buckets but levels."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.levels: dict[tuple[Limit, str], Fraction] = {}
        self.known: list[tuple[list[Charge], Account]] = []
        self.open: list[tuple[Reservation, list[Charge]]] = []
        self.settled: list[Reservation] = []

    def level(self, limit: Limit, key: str) -> Fraction:
        return self.levels.get((limit, key), Fraction(limit.amount))

    def give(self, limit: Limit, key: str, amount: Fraction) -> None:
        self.levels[limit, key] = min(Fraction(limit.amount), self.level(limit, key) + amount)

    @rule(quarters=st.integers(1, 40))
    def time_passes(self, quarters: int) -> None:
        self.clock.now += quarters / 4
        for limit, key in self.levels:
            self.give(limit, key, Fraction(quarters, 4) * limit.amount / Fraction(limit.window))

    @rule(wanted=_charges)
    def reserve(self, wanted: list[tuple[Limit, str, int]]) -> None:
        charges = [Charge(limit, key, amount) for limit, key, amount in wanted]
        account = self.store.account(charges)
        self.known.append((charges, account))
        self.request(charges, account)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def reserve_the_same(self, data: st.DataObject) -> None:
        """From an account that was found earlier: its buckets may have been removed since."""
        self.request(*data.draw(st.sampled_from(self.known)))

    def request(self, charges: list[Charge], account: Account) -> None:
        waits = [
            max(Fraction(0), min(d.amount, d.limit.amount) - self.level(d.limit, d.key))
            * Fraction(d.limit.window)
            / d.limit.amount
            for d in charges
        ]
        if max(waits, default=Fraction(0)) > 0:
            for attempt in (lambda: at_once(self.store.reserve(charges)), lambda: self.store.take(account)):
                with pytest.raises(RateLimited) as error:
                    attempt()
                assert error.value.retry_after == max(waits)
            return
        reservation, tightest = self.store.take(account)
        for charge in charges:
            self.levels[charge.limit, charge.key] = self.level(charge.limit, charge.key) - charge.amount
            bucket = self.store._buckets[charge.limit, charge.key]  # pyright: ignore[reportPrivateUsage] - the subject
            assert bucket.tokens == self.level(charge.limit, charge.key)
        assert (tightest is None) == (not charges)
        if tightest is not None:
            assert tightest.charge in charges
            level = self.level(tightest.charge.limit, tightest.charge.key)
            assert level == min(self.level(charge.limit, charge.key) for charge in charges)
            assert tightest.remaining == max(0, math.floor(level))
            missing = tightest.charge.limit.amount - level
            assert tightest.full_in == missing * Fraction(tightest.charge.limit.window) / tightest.charge.limit.amount
        self.open.append((reservation, charges))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        reservation, charges = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        amounts = [data.draw(st.integers(0, 8)) for _ in charges]
        self.store.settle(reservation, amounts)
        for charge, amount in zip(charges, amounts, strict=True):
            self.give(charge.limit, charge.key, Fraction(charge.amount - amount))
        self.settled.append(reservation)

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), amounts=st.lists(st.integers(0, 8), max_size=4))
    def settle_again(self, data: st.DataObject, amounts: list[int]) -> None:
        self.store.settle(data.draw(st.sampled_from(self.settled)), amounts)

    @invariant()
    def open_reservations_are_counted(self) -> None:
        assert self.store.open == len(self.open)

    @invariant()
    def nothing_is_over_its_brim(self) -> None:
        for (limit, _), level in self.levels.items():
            assert level <= limit.amount


StoreMachine.TestCase.settings = examples(100, 5_000)
TestStore = pytest.mark.torture(StoreMachine.TestCase)

LIMIT = Limit("requests", 3, 60.0)


def test_full_buckets_are_forgotten_and_the_others_kept() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for index in range(300):
        granted = at_once(store.reserve([Charge(LIMIT, f"gone {index}", 1)]))
        store.settle(granted.reservation, [1])
    clock.now += 30  # more than the 20 seconds that one takes to come back
    for index in range(200):
        granted = at_once(store.reserve([Charge(LIMIT, f"here {index}", 3)]))
        store.settle(granted.reservation, [3])
    kept = {key for _, key in store._buckets}  # pyright: ignore[reportPrivateUsage] - its memory is the subject
    assert kept == {f"here {index}" for index in range(200)}
    for index in range(200):
        assert refused(store, Charge(LIMIT, f"here {index}", 1)).retry_after == 20
        assert at_once(store.reserve([Charge(LIMIT, f"gone {index}", 1)])).statuses[0].remaining == 2


_times = st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60)


@pytest.mark.torture
@examples()
@given(steps=_times, amount=st.integers(1, 7), window=st.floats(0.5, 120))
def test_no_stretch_of_time_sees_more_requests_than_it_may(steps: list[float], amount: int, window: float) -> None:
    clock, limit = Clock(), Limit("requests", amount, window)
    store = MemoryStore(clock=clock)
    admitted: list[float] = []
    for step in steps:
        clock.now += step if step < 25 else 0.0  # bursts, too
        try:
            at_once(store.reserve([Charge(limit, "a", 1)]))
        except RateLimited:
            continue
        admitted.append(clock.now)
    for first, begin in enumerate(admitted):
        for last, end in enumerate(admitted[first:], 1):
            assert last <= amount + (end - begin) * amount / window + 1e-6


@pytest.mark.torture
@examples(150)
@given(
    begin=st.floats(0, 1e6), steps=_times, amount=st.integers(1, 60), window=st.sampled_from([1.0, 7.0, 60.0, 3600.0])
)
def test_after_retry_after_a_request_is_admitted(begin: float, steps: list[float], amount: int, window: float) -> None:
    clock, limit = Clock(begin), Limit("requests", amount, window)
    store = MemoryStore(clock=clock)
    for step in steps:
        clock.now += step
        try:
            while True:
                at_once(store.reserve([Charge(limit, "a", 1)]))
        except RateLimited as error:
            clock.now += float(error.headers["retry-after"])
        at_once(store.reserve([Charge(limit, "a", 1)]))


@pytest.mark.parametrize(("begin", "amount", "window"), [(1000.1, 60, 60.0), (0.3, 10, 10.0), (123456.7, 3, 3.0)])
def test_a_wait_of_whole_seconds_is_enough_whatever_the_rounding(begin: float, amount: int, window: float) -> None:
    for step in range(1, 200):
        clock, limit = Clock(begin + step / 10), Limit("requests", amount, window)
        store = MemoryStore(clock=clock)
        for _ in range(amount):
            at_once(store.reserve([Charge(limit, "a", 1)]))
        error = refused(store, Charge(limit, "a", 1))
        clock.now += float(error.headers["retry-after"])
        at_once(store.reserve([Charge(limit, "a", 1)]))


_SOME_LIMITS = (Limit("requests", 1), Limit("requests", 3, 30.0), Limit("requests", 4, per="all"))
_SOME_CHARGES = st.lists(
    st.builds(Charge, st.sampled_from(_SOME_LIMITS), st.sampled_from(("a", "b")), st.integers(1, 3)), max_size=4
)


@examples(100)
@given(st.lists(st.tuples(_SOME_CHARGES, st.sampled_from((0.0, 0.5, 20.0))), max_size=12), st.booleans())
def test_a_check_refuses_what_a_reservation_would_be_refused_and_nothing_else(
    steps: list[tuple[list[Charge], float]], gives_back: bool
) -> None:
    """Also where several charges of a request meet in one bucket."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for charges, passed in steps:
        clock.now += passed
        wait = checked_wait(store, charges)
        if wait:
            assert refused(store, *charges).retry_after == wait
            continue
        granted = at_once(store.reserve(charges))
        if gives_back:
            store.settle(granted.reservation, [0] * len(charges))


def checked_wait(store: MemoryStore, charges: list[Charge]) -> float:
    """The wait that a check refuses the charges with; 0 if it does not."""
    try:
        store.check(store.account(charges))
    except RateLimited as error:
        return error.retry_after
    return 0.0
