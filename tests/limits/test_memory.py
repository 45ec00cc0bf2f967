"""The store in memory, against the exact model, and its housekeeping. `test_limit_store` is the suite of all stores."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from support.counts import examples
from support.limit_machine import LIMITS, LimitMachine
from support.virtual_time import SetClock, at_once

from bud_asgi.limit import Mode
from bud_asgi.limits import Charge, Limit, MemoryStore, RateLimited
from bud_asgi.limits.memory import IDLE, Account

LIMIT = Limit("requests", 3, 60.0)


def refused(store: MemoryStore, *charges: Charge) -> RateLimited:
    """The refusal of charges that must not be granted."""
    try:
        granted = at_once(store.reserve(charges))
    except RateLimited as error:
        return error
    raise AssertionError(granted)


def amounts_of(account: Account) -> list[int]:
    return [charge.amount for charge in account.charges]


class MemoryMachine(LimitMachine):
    """Also takes from accounts that were found earlier: their buckets may have been removed since."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: list[Account] = []
        self.newcomers = 0

    def new_store(self, clock: SetClock) -> MemoryStore:
        self.memory = MemoryStore(clock=clock)
        return self.memory

    @rule(limits=st.sets(st.sampled_from(LIMITS), min_size=1), amount=st.integers(0, 5))
    def find_an_account(self, limits: set[Limit], amount: int) -> None:
        self.accounts.append(self.memory.account([Charge(limit, "a", amount) for limit in limits]))

    @precondition(lambda self: self.accounts)
    @rule(data=st.data(), at_once=st.booleans())
    def take(self, data: st.DataObject, *, at_once: bool) -> None:
        account = data.draw(st.sampled_from(self.accounts))
        charges, amounts = account.charges, amounts_of(account)
        if (longest := max(self.model.waits(charges))) > 0:
            for attempt in (self.memory.check, self.memory.take, self.memory.hold):
                with pytest.raises(RateLimited) as error:
                    attempt(account, amounts)
                assert error.value.retry_after == pytest.approx(float(longest))
            return
        self.memory.check(account, amounts)
        number = self.model.reserve(charges)
        if at_once and all(charge.limit.window for charge in charges):
            self.model.settle(number, amounts)
            self.memory.take(account, amounts)
        else:
            self.open.append((number, self.memory.hold(account, amounts)))

    @rule()
    def other_callers_come(self) -> None:
        """Each makes the store look at old buckets, and remove those at rest."""
        for _ in range(10):
            self.newcomers += 1
            self.memory.account([Charge(LIMITS[0], f"other {self.newcomers}", 1)])


MemoryMachine.TestCase.settings = examples(40, 5_000)
TestStore = pytest.mark.torture(MemoryMachine.TestCase)


def test_buckets_at_rest_are_forgotten_after_a_while_and_the_others_kept() -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    for index in range(300):
        store.book(at_once(store.reserve([Charge(LIMIT, f"gone {index}", 1)])).reservation, [1])
    clock.now += 20 + IDLE
    for index in range(200):
        store.book(at_once(store.reserve([Charge(LIMIT, f"here {index}", 3)])).reservation, [3])
    (kept,) = store._buckets.values()
    assert set(kept) == {f"here {index}" for index in range(200)}
    for index in range(200):
        assert refused(store, Charge(LIMIT, f"here {index}", 1)).retry_after == 20
        assert at_once(store.reserve([Charge(LIMIT, f"gone {index}", 1)])).statuses[0].remaining == 2


def test_only_twice_as_many_buckets_are_kept_as_are_in_use() -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    for second in range(20):
        clock.now += IDLE + 1
        for caller in range(500):
            at_once(store.reserve([Charge(Limit("requests", 5, 1.0), f"{second}-{caller}", 1)]))
    assert sum(map(len, store._buckets.values())) <= 1000


def test_a_bucket_of_a_running_request_is_kept_while_there_is_anything_in_it() -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    held = [Charge(Limit("concurrent", 1), "a", 1), Charge(LIMIT, "a", 1)]
    running = at_once(store.reserve(held)).reservation
    clock.now += 10**6
    for index in range(10):
        at_once(store.reserve([Charge(LIMIT, f"other {index}", 1)]))
    concurrent, requests = store._buckets.values()
    assert list(concurrent) == ["a"]
    assert "a" not in requests
    assert refused(store, held[0]).limit_status.used == 1
    store.book(running, [0, 4])  # more than was reserved of what has been at rest meanwhile
    assert [(one.used, one.reserved) for one in at_once(store.statuses(held))] == [(0, 0), (3, 0)]


def test_an_account_finds_its_buckets_again_after_they_were_removed() -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    charges = [Charge(Limit("tokens", 10, 10.0), "a", 1), Charge(LIMIT, "a", 1)]
    account = store.account(charges)
    clock.now += IDLE
    for index in range(9):
        store.account([Charge(LIMIT, f"other {index}", 1)])
    assert all(bucket.removed for bucket in account.buckets)
    for _ in range(3):
        store.take(account, [1, 1])
    with pytest.raises(RateLimited):
        store.take(account, [1, 1])
    assert [one.used for one in at_once(store.statuses(charges))] == [3, 3]


_times = st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60)


@pytest.mark.torture
@examples()
@given(steps=_times, amount=st.integers(1, 7), window=st.floats(0.5, 120))
def test_no_stretch_of_time_sees_more_requests_than_it_may(steps: list[float], amount: int, window: float) -> None:
    clock, limit = SetClock(), Limit("requests", amount, window)
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
@examples(60)
@given(
    begin=st.floats(0, 1e6), steps=_times, amount=st.integers(1, 60), window=st.sampled_from([1.0, 7.0, 60.0, 3600.0])
)
def test_after_retry_after_a_request_is_admitted(begin: float, steps: list[float], amount: int, window: float) -> None:
    clock, limit = SetClock(begin), Limit("requests", amount, window)
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
        clock, limit = SetClock(begin + step / 10), Limit("requests", amount, window)
        store = MemoryStore(clock=clock)
        for _ in range(amount):
            at_once(store.reserve([Charge(limit, "a", 1)]))
        error = refused(store, Charge(limit, "a", 1))
        clock.now += float(error.headers["retry-after"])
        at_once(store.reserve([Charge(limit, "a", 1)]))


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_each_request_counts_by_its_own_amount_of_the_limit(mode: Mode) -> None:
    """A principal's limit may be raised and lowered again, and apps with different amounts may share a store."""
    clock = SetClock(100.0)
    store = MemoryStore(clock=clock)
    low, high = (store.account([Charge(Limit("requests", amount, 100.0, mode=mode), "a", 1)]) for amount in (2, 50))
    for account in (low, *([high] * 7)):
        store.take(account, [1])
    (status,) = at_once(store.statuses(low.charges))
    assert status.used == 8
    if mode == "enforce":
        for attempt in (store.check, store.take):
            with pytest.raises(RateLimited) as error:
                attempt(low, [1])
            assert error.value.retry_after == pytest.approx((8 + 1 - 2) / (2 / 100))
            assert error.value.limit_status.charge == low.charges[0]
    store.check(high, [1])
    clock.now += 2.0
    (status,) = at_once(store.statuses(low.charges))
    assert status.used == pytest.approx(8 - 2.0 * 50 / 100)  # at the rate of the latest request


_spent = st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.booleans()), min_size=1, max_size=60)


@pytest.mark.torture
@examples()
@given(steps=_spent, amount=st.integers(1, 7), window=st.floats(0.5, 120))
def test_what_is_given_back_late_makes_no_room_for_more_requests(
    steps: list[tuple[float, bool, bool]], amount: int, window: float
) -> None:
    """Some requests are given back, immediately or after others have come."""
    clock, limit = SetClock(), Limit("requests", amount, window)
    store = MemoryStore(clock=clock)
    account = store.account([Charge(limit, "a", 1)])
    kept: list[float] = []
    open_: list[float] = []
    for step, is_kept, is_late in steps:
        clock.now += step if step < 25 else 0.0  # bursts, too
        with suppress(RateLimited):
            (kept if is_kept else open_).append(store.take(account, [1]))
        if open_ and not is_late:
            store.give_back(account, [1], open_.pop(0))
    for first, begin in enumerate(kept):
        for last, end in enumerate(kept[first:], 1):
            assert last <= amount + (end - begin) * amount / window + 1e-6


@pytest.mark.parametrize(("seconds", "used"), [(0.0, 1.0), (10.0, 1.0), (20.0, 1.0), (30.0, 0.5), (-50.0, 1.0)])
def test_what_was_used_at_once_is_given_back_as_far_as_it_is_not_refilled(seconds: float, used: float) -> None:
    clock = SetClock(1000.0)
    store = MemoryStore(clock=clock)
    charge = Charge(Limit("requests", 3, 60.0), "a", 1)
    account = store.account([charge])
    store.take(account, [1])
    taken_at = store.take(account, [1])
    clock.now += seconds
    store.give_back(account, [1], taken_at)  # 20 seconds refill one
    assert store.status(charge).used == pytest.approx(used)
    assert store.open == 0


def test_what_was_refilled_before_a_reload_is_not_given_back_after_it() -> None:
    clock = SetClock(1000.0)
    store = MemoryStore(clock=clock)
    former, reloaded = (Charge(Limit("requests", amount, 60.0), "a", 1) for amount in (60, 3))
    account = store.account([former])
    taken_at = store.take(account, [1])
    clock.now += 1.0
    store.take(store.account([reloaded]), [1])
    store.give_back(account, [1], taken_at)
    assert store.status(reloaded).used == pytest.approx(1.0)


def test_threads_never_exceed_a_limit_together() -> None:
    limits = Limit("requests", 400, 1e9), Limit("concurrent", 1000)
    store = MemoryStore()

    def take(_: int) -> int:
        account, taken = store.account([Charge(limit, "a", 1) for limit in limits]), 0
        with suppress(RateLimited):
            while True:
                store.take(account, [1, 1])
                taken += 1
        return taken

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(take, range(4))) == 400
    finally:
        sys.setswitchinterval(interval)
