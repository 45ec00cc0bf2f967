"""Refusals before the body: what memory knows at once, and what another store has refused before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.asgi import exchange_of
from support.limited import AwaitingStore
from support.virtual_time import SetClock

from bud_asgi import Limit
from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limit import LONGEST_WAIT
from bud_asgi.limits import Admission, Charge, Grant, Limiter, LimitStatus, MemoryStore, RateLimited, refusals
from bud_asgi.limits.memory import IDLE
from bud_asgi.limits.refusals import MANY, REMEMBERED, Refusals
from bud_asgi.tasks import BackgroundTasks

ONE_AN_HOUR = Limit("requests", 1, 3600.0)
ONE_A_MINUTE = Limit("requests", 1)


def refusal(limit: Limit, key: str, wait: float) -> RateLimited:
    return RateLimited(LimitStatus(Charge(limit, key, 1), float(limit.amount)), wait)


def reserve(limiter: Limiter, exchange: Exchange) -> Admission:
    """Check and reserve as the gateway does, from a store that never waits."""
    admission = limiter.admit_now(exchange, limiter.check(exchange))
    assert admission is not None
    return admission


async def test_a_store_in_memory_refuses_before_the_body_and_takes_nothing() -> None:
    limiter = Limiter([ONE_AN_HOUR, Limit("concurrent", 9)])
    for _ in range(3):
        limiter.check(exchange_of("ann"))
    first = exchange_of("ann")
    admission = await limiter.admit(first)
    exchange = exchange_of("ann")
    with pytest.raises(RateLimited) as refused:
        limiter.check(exchange)
    assert (refused.value.headers["retry-after"], exchange.refused_by) == ("3600", ONE_AN_HOUR)
    limiter.check(exchange_of("bob"))
    limiter.check(exchange_of("ann", path="/v1/messages/count_tokens"))
    limiter.settle(admission, first, BackgroundTasks())
    with pytest.raises(RateLimited):  # a request is one request, whatever becomes of it
        limiter.check(exchange_of("ann"))


@pytest.mark.parametrize(
    ("limits", "store", "is_early"),
    [
        ([ONE_AN_HOUR], MemoryStore(), True),
        ([ONE_AN_HOUR, Limit("requests", 9, per="all")], MemoryStore(), True),
        ([ONE_AN_HOUR, Limit("concurrent", 9)], MemoryStore(), False),
        ([ONE_AN_HOUR, Limit("concurrent", 9)], AwaitingStore(), True),
        ([ONE_AN_HOUR, Limit("requests", 9, per="model")], MemoryStore(), False),
        ([Limit("requests", 1, wait=5.0)], MemoryStore(), False),
        ([Limit("requests", 1, wait=5.0)], AwaitingStore(), False),
        ([], MemoryStore(), False),
    ],
)
def test_requests_are_admitted_before_their_bodies_where_only_requests_are_counted_or_only_the_store_can_refuse(
    limits: Sequence[Limit], store: MemoryStore, *, is_early: bool
) -> None:
    assert Limiter(limits, store).check(exchange_of("ann")).is_early == is_early


class Shared:
    """Another store, which refuses everything for 20 seconds."""

    def __init__(self) -> None:
        self.calls = 0

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        self.calls += 1
        raise refusal(charges[0].limit, charges[0].key, 20.0)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        raise AssertionError


def remembering(store: Shared, *limits: Limit) -> tuple[Limiter, SetClock]:
    """A limiter that remembers what a store has refused, by a clock that can be set."""
    limiter, clock = Limiter(limits, store), SetClock()
    limiter._refusals = Refusals(clock=clock, fraction=lambda: 0.5)
    return limiter, clock


async def test_what_another_store_has_refused_is_refused_again_without_it() -> None:
    store = Shared()
    limiter, clock = remembering(store, ONE_AN_HOUR)
    limiter.check(exchange_of("ann"))
    with pytest.raises(RateLimited):
        await limiter.admit(exchange_of("ann"))
    clock.now += 5
    exchange = exchange_of("ann")
    with pytest.raises(RateLimited) as refused:
        limiter.check(exchange)
    assert (refused.value.headers["retry-after"], exchange.refused_by, store.calls) == ("15", ONE_AN_HOUR, 1)
    limiter.check(exchange_of("bob"))
    limiter.check(exchange_of("ann", path="/v1/messages/count_tokens"))
    clock.now += 15
    limiter.check(exchange_of("ann"))
    assert len(limiter._refusals) == 0


def test_after_a_minute_the_store_is_called_again_as_it_may_have_been_flushed() -> None:
    clock = SetClock()
    refusals = Refusals(clock=clock)
    charges = [Charge(ONE_AN_HOUR, "a", 1)]
    refusals.note(refusal(ONE_AN_HOUR, "a", 3600.0))
    clock.now += REMEMBERED - 1
    with pytest.raises(RateLimited) as refused:
        refusals.check(charges)
    assert refused.value.retry_after == pytest.approx(3600.0 - REMEMBERED + 1)
    refusals.note(refused.value)
    clock.now += 1
    refusals.check(charges)


def test_a_refusal_does_not_outlast_a_change_of_the_limit() -> None:
    refusals = Refusals(clock=SetClock())
    refusals.note(refusal(ONE_AN_HOUR, "a", 3600.0))
    refusals.check([Charge(Limit("requests", 2, 3600.0), "a", 1)])
    with pytest.raises(RateLimited):
        refusals.check([Charge(Limit("requests", 1, 3600.0), "a", 1)])


async def test_many_refusals_of_another_store_are_spread_too() -> None:
    limiter, _ = remembering(Shared(), ONE_A_MINUTE)
    with pytest.raises(RateLimited):
        await limiter.admit(exchange_of("ann"))
    waits: list[float] = []
    for _ in range(MANY + 1):
        with pytest.raises(RateLimited) as refused:
            limiter.check(exchange_of("ann"))
        waits.append(refused.value.retry_after)
    assert waits[: MANY - 1] == [pytest.approx(20)] * (MANY - 1)
    assert waits[MANY - 1 :] == [pytest.approx(40), pytest.approx(40)]


@pytest.mark.parametrize("limit", [Limit("concurrent", 1), Limit("requests", 1, wait=2.0)], ids=["running", "waiting"])
async def test_what_may_have_room_before_the_store_is_asked_again_is_not_remembered(limit: Limit) -> None:
    store = Shared()
    limiter, _ = remembering(store, limit)
    for _ in range(2):
        limiter.check(exchange_of("ann"))
        with pytest.raises(RateLimited):
            await limiter.admit(exchange_of("ann"))
    assert store.calls == 2


def noted(limit: Limit, wait: float, number: int, fraction: float) -> list[float]:
    """The waits of so many clients that are refused at once."""
    several = Refusals(clock=SetClock(), fraction=lambda: fraction)
    return [several.note(refusal(limit, "a", wait)).retry_after for _ in range(number)]


def test_the_first_get_the_exact_time_and_the_others_as_much_later_as_the_bucket_takes_for_them() -> None:
    limit = Limit("requests", 60)
    assert noted(limit, 2.0, 20, 0.0) == [2.0] * 20
    assert noted(limit, 2.0, 20, 1.0) == [2.0] * MANY + [2.0 + count for count in range(MANY + 1, 21)]
    assert noted(limit, 2.0, 20, 0.5)[-1] == 2.0 + 20 / 2


@pytest.mark.parametrize("wait", [0.01, 30.0, 59.0, 60.0, 61.0, 3600.0])
def test_no_wait_is_spread_beyond_the_longest_that_clients_wait_nor_below_the_true_one(wait: float) -> None:
    for fraction in (0.0, 0.3, 1.0):
        waits = noted(Limit("requests", 60), wait, 1000, fraction)
        assert min(waits) == wait
        assert max(waits) <= max(wait, LONGEST_WAIT)


def test_each_bucket_has_its_own_count_which_begins_again_once_it_has_had_room() -> None:
    clock = SetClock()
    several = Refusals(clock=clock, fraction=lambda: 1.0)
    for name in "ab":
        assert [several.note(refusal(ONE_A_MINUTE, name, 1.0)).retry_after for _ in range(MANY)] == [1.0] * MANY
    assert several.note(refusal(ONE_A_MINUTE, "a", 1.0)).retry_after == LONGEST_WAIT
    clock.now += 1
    assert several.note(refusal(ONE_A_MINUTE, "a", 1.0)).retry_after == 1.0


def test_refusals_for_concurrency_are_neither_remembered_nor_spread() -> None:
    several = Refusals(fraction=lambda: 1.0)
    concurrent = Limit("concurrent", 1)
    assert [several.note(refusal(concurrent, "a", 1.0)).retry_after for _ in range(20)] == [1.0] * 20
    assert len(several) == 0


def test_refusals_are_bounded_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_REFUSALS", 10)
    clock = SetClock()
    several = Refusals(clock=clock)
    for name in range(30):
        several.note(refusal(ONE_AN_HOUR, str(name), 1.0))
        assert len(several) <= 10
    clock.now += 2
    several.note(refusal(ONE_AN_HOUR, "later", 1.0))
    assert len(several) == 1


class Counted(MemoryStore):
    """A store of a host's own on top of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved = 0

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        self.reserved += 1
        return await super().reserve(charges)


async def test_a_subclass_s_own_reserve_is_called() -> None:
    store = Counted()
    limiter, exchange = Limiter([ONE_AN_HOUR], store), exchange_of("ann")
    assert limiter.check(exchange).is_early
    assert limiter.admit_now(exchange, limiter.check(exchange)) is None
    admission = await limiter.admit(exchange)
    with pytest.raises(RateLimited):
        await limiter.admit(exchange_of("ann"))
    with pytest.raises(RateLimited):
        limiter.check(exchange_of("ann"))
    tasks = BackgroundTasks()
    limiter.settle(admission, exchange, tasks)
    await tasks.drain(1)
    assert (store.reserved, store.open) == (2, 0)


def test_a_bucket_that_was_removed_while_the_body_arrived_is_looked_up_again() -> None:
    clock = SetClock()
    limiter = Limiter([Limit("requests", 2, 10.0)], MemoryStore(clock=clock))
    slow = exchange_of("ann")
    plan = limiter.check(slow)
    clock.now += IDLE
    for number in range(9):
        reserve(limiter, exchange_of(f"p{number}"))
    assert plan.account is not None
    assert plan.account.buckets[0].removed
    for _ in range(2):
        reserve(limiter, exchange_of("ann"))
    with pytest.raises(RateLimited):
        limiter.admit_now(slow, plan)
    clock.now += 5
    assert limiter.admit_now(slow, plan) is not None
    with pytest.raises(RateLimited):
        reserve(limiter, exchange_of("ann"))
