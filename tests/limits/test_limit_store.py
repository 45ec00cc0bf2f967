"""The suite of every `LimitStore`: all or nothing, settled once, true waits. A new store is added to `STORES`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import pytest
from support.counts import count
from support.limit_machine import InspectedStore
from support.valkey import CountedRedisStore, Valkey
from support.virtual_time import SetClock

from bud_asgi.exchange import Reservation
from bud_asgi.limits import Charge, Grant, Limit, LimitStore, MemoryStore, RateLimited


class CountedStore(InspectedStore, Protocol):
    """A store under test also reports how many reservations are open."""

    @property
    def open(self) -> int: ...


NewStore = Callable[["SetClock"], CountedStore]


STORES = ("memory", "valkey")
LIMIT = Limit("requests", 3, 60.0)
TOKENS = Limit("tokens", 60, 60.0)
CONCURRENT = Limit("concurrent", 2)
OBSERVED = Limit("requests", 1, 60.0, mode="observe")


@pytest.fixture(params=STORES)
async def new_store(request: pytest.FixtureRequest) -> AsyncGenerator[NewStore]:
    if request.param == "memory":
        yield lambda clock: MemoryStore(clock=clock)
        return
    server: Valkey = request.getfixturevalue("valkey")
    made: list[CountedRedisStore] = []

    def new(clock: SetClock) -> CountedStore:
        made.append(CountedRedisStore(server, clock=clock, lease=1e4))
        return made[-1]

    yield new
    for store in made:
        await store.aclose()


async def refused(store: LimitStore, *charges: Charge) -> RateLimited:
    """The refusal of charges that must not be granted."""
    with pytest.raises(RateLimited) as error:
        await store.reserve(charges)
    return error.value


async def status(store: CountedStore, limit: Limit, key: str = "a") -> tuple[float, float]:
    """What is used of a bucket, and what of that is reserved."""
    (found,) = await store.statuses([Charge(limit, key, 0)])
    assert (found.charge.limit, found.charge.key) == (limit, key)
    return found.used, found.reserved


async def test_a_clock_that_went_back_adds_nothing_until_it_has_caught_up(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    await store.reserve([Charge(LIMIT, "a", 3)])
    for change in (-50, 50):
        clock.now += change
        assert (await refused(store, Charge(LIMIT, "a", 1))).retry_after == 20


async def test_a_clock_that_went_back_by_more_than_a_window_starts_again_there(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    await store.reserve([Charge(LIMIT, "a", 3)])
    clock.now -= 500
    assert (await refused(store, Charge(LIMIT, "a", 1))).retry_after == 20
    clock.now += 20
    await store.reserve([Charge(LIMIT, "a", 1)])
    await refused(store, Charge(LIMIT, "a", 1))


async def test_the_whole_amount_may_be_used_at_once_and_comes_back_evenly(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    one = Charge(LIMIT, "a", 1)
    assert [(await store.reserve([one])).statuses[0].remaining for _ in range(3)] == [2, 1, 0]
    assert (await refused(store, one)).retry_after == 20
    clock.now += 19
    assert (await refused(store, one)).retry_after == pytest.approx(1)
    clock.now += 1
    assert (await store.reserve([one])).statuses[0].remaining == 0
    assert (await refused(store, one)).retry_after == 20


async def test_either_all_charges_are_reserved_or_none(new_store: NewStore) -> None:
    store = new_store(SetClock())
    narrow = Limit("requests", 1, 60.0, "all")
    await store.reserve([Charge(narrow, "", 1)])
    for _ in range(10):
        error = await refused(store, Charge(LIMIT, "a", 1), Charge(narrow, "", 1))
        assert str(error).startswith("This request would exceed the rate limit of 1 request per minute.")
    assert (await store.reserve([Charge(LIMIT, "a", 1)])).statuses[0].remaining == 2


async def test_of_several_exhausted_limits_the_one_with_the_longest_wait_is_reported(new_store: NewStore) -> None:
    store = new_store(SetClock())
    slow = Limit("requests", 1, 600.0)
    charges = [
        Charge(Limit("requests", 1, 6.0), "a", 1),
        Charge(slow, "a", 1),
        Charge(Limit("requests", 2, 60.0), "a", 1),
    ]
    await store.reserve(charges)
    error = await refused(store, *charges)
    assert error.retry_after == 600
    assert error.limit_status.charge == charges[1]
    assert {(one.charge.limit, one.used) for one in error.statuses} == {(one.limit, 1.0) for one in charges}
    assert str(error).startswith("This request would exceed your rate limit of 1 request in 600 seconds.")


async def test_more_than_the_whole_passes_when_it_is_full_and_becomes_debt(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    granted = await store.reserve([Charge(LIMIT, "a", 6)])
    assert (granted.statuses[0].remaining, granted.statuses[0].full_in) == (0, 120)
    assert (await refused(store, Charge(LIMIT, "a", 1))).retry_after == 80
    clock.now += 119
    assert (await refused(store, Charge(LIMIT, "a", 6))).retry_after == pytest.approx(1)
    clock.now += 1
    await store.reserve([Charge(LIMIT, "a", 6)])


async def test_what_was_not_used_is_given_back_and_what_was_used_more_is_owed(new_store: NewStore) -> None:
    store = new_store(SetClock())
    granted = await store.reserve([Charge(LIMIT, "a", 3), Charge(LIMIT, "b", 1)])
    await store.settle(granted.reservation, [1, 6])
    assert (await store.reserve([Charge(LIMIT, "a", 1)])).statuses[0].remaining == 1
    assert (await refused(store, Charge(LIMIT, "b", 1))).retry_after == 80


async def test_what_has_been_refilled_since_is_not_given_back_again(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    granted = await store.reserve([Charge(TOKENS, "a", 60)])
    clock.now += 45
    assert await status(store, TOKENS) == (15, 15)
    await store.settle(granted.reservation, [0])
    assert await status(store, TOKENS) == (0, 0)


async def test_what_running_requests_hold_is_refilled_last_and_evenly(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    ended = await store.reserve([Charge(TOKENS, "a", 12)])
    first = await store.reserve([Charge(TOKENS, "a", 32)])
    second = await store.reserve([Charge(TOKENS, "a", 16)])
    await store.settle(ended.reservation, [12])
    clock.now += 12
    assert await status(store, TOKENS) == (48, 48)
    clock.now += 36
    assert await status(store, TOKENS) == (12, 12)
    await store.settle(first.reservation, [0])
    assert await status(store, TOKENS) == pytest.approx((4, 4))
    await store.settle(second.reservation, [15])
    assert await status(store, TOKENS) == (pytest.approx(3), 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_requests_give_back_all_that_they_hold_in_whatever_order_they_end(
    new_store: NewStore, order: tuple[int, ...]
) -> None:
    store = new_store(SetClock())
    charges = [Charge(Limit("concurrent", 3), "a", 1), Charge(TOKENS, "a", 20)]
    running = [(await store.reserve(charges)).reservation for _ in range(3)]
    await refused(store, *charges)
    for index in order:
        await store.settle(running[index], [0, 0])
    assert await status(store, Limit("concurrent", 3)) == (0, 0)
    assert await status(store, TOKENS) == (0, 0)


async def test_debt_is_bounded_and_a_larger_one_is_not_lowered(new_store: NewStore) -> None:
    store = new_store(SetClock())
    granted = await store.reserve([Charge(TOKENS, "a", 1), Charge(TOKENS, "b", 6000)])
    await store.settle(granted.reservation, [10**9, 6001])
    assert await status(store, TOKENS, "a") == (660, 0)
    assert await status(store, TOKENS, "b") == (6000, 0)


async def test_running_requests_hold_their_places_until_they_are_settled(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    one = Charge(CONCURRENT, "a", 1)
    first = await store.reserve([one])
    await store.reserve([one])
    clock.now += 1000
    error = await refused(store, one)
    assert (error.retry_after, error.headers["retry-after"]) == (1, "1")
    await store.settle(first.reservation, [0])
    await store.reserve([one])
    await refused(store, one)
    assert await status(store, CONCURRENT) == (2, 2)


async def test_an_observed_limit_counts_and_refuses_nothing(new_store: NewStore) -> None:
    store = new_store(SetClock())
    charges = [Charge(OBSERVED, "a", 1), Charge(LIMIT, "a", 1)]
    for _ in range(3):
        await store.reserve(charges)
    error = await refused(store, *charges)
    assert error.limit_status.charge.limit == LIMIT
    assert await status(store, OBSERVED) == (3, 3)


async def test_a_changed_amount_keeps_what_was_used(new_store: NewStore) -> None:
    clock = SetClock()
    store = new_store(clock)
    granted = await store.reserve([Charge(LIMIT, "a", 3)])
    larger, smaller = Limit("requests", 6, 60.0), Limit("requests", 1, 60.0)
    assert (await store.reserve([Charge(larger, "a", 1)])).statuses[0].remaining == 2
    assert (await refused(store, Charge(smaller, "a", 1))).retry_after == 240
    await store.settle(granted.reservation, [3])
    clock.now += 60
    assert await status(store, smaller) == (3, 1)


async def test_the_status_of_a_bucket_that_was_never_used_is_nothing(new_store: NewStore) -> None:
    store = new_store(SetClock())
    await store.reserve([Charge(LIMIT, "b", 1)])
    assert await status(store, LIMIT) == (0, 0)
    assert await store.statuses([]) == []


async def test_settling_twice_changes_nothing(new_store: NewStore) -> None:
    store = new_store(SetClock())
    granted = await store.reserve([Charge(LIMIT, "a", 3)])
    for _ in range(5):
        await store.settle(granted.reservation, [2])
    assert store.open == 0
    await store.reserve([Charge(LIMIT, "a", 1)])
    await refused(store, Charge(LIMIT, "a", 1))


async def test_an_unknown_reservation_settles_nothing(new_store: NewStore) -> None:
    store = new_store(SetClock())
    await store.reserve([Charge(LIMIT, "a", 3)])
    await store.settle(Reservation("other"), [0])
    assert store.open == 1
    await refused(store, Charge(LIMIT, "a", 1))


async def test_no_charges_are_granted(new_store: NewStore) -> None:
    store = new_store(SetClock())
    granted = await store.reserve([])
    assert granted.statuses == ()
    await store.settle(granted.reservation, [])
    assert store.open == 0


async def test_five_thousand_at_once_are_admitted_exactly_as_many_as_may(new_store: NewStore) -> None:
    store, limit = new_store(SetClock()), Limit("requests", 777)

    async def attempt() -> Grant | RateLimited:
        await asyncio.sleep(0)
        try:
            return await store.reserve([Charge(limit, "a", 1)])
        except RateLimited as error:
            return error

    answers = await asyncio.gather(*(attempt() for _ in range(count(1_000, 50_000))))
    granted = [answer for answer in answers if isinstance(answer, Grant)]
    assert len(granted) == store.open == 777
    for answer in granted:
        await store.settle(answer.reservation, [0])
    assert store.open == 0
