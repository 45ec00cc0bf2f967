"""Reservations in a shared store: leases, late settlements, what a dead process held, and what is left behind."""

from __future__ import annotations

import pytest
from support.valkey import CountedRedisStore, Valkey, redis_store
from support.virtual_time import SetClock

from bud_asgi.exchange import Reservation
from bud_asgi.limit import Limit, limit_id
from bud_asgi.limits import Charge, InspectableStore, RateLimited, SharedStore

LIMIT = Limit("requests", 4, 64.0)
TOKENS = Limit("tokens", 64, 64.0)
CONCURRENT = Limit("concurrent", 2)
LEASE = 16.0


@pytest.fixture
def clock() -> SetClock:
    return SetClock(1024.0)


async def level(store: CountedRedisStore, limit: Limit, key: str = "a") -> tuple[float, float]:
    """What is used of a bucket, and what of that is reserved. All figures of these tests are exact in binary."""
    (status,) = await store.statuses([Charge(limit, key, 0)])
    return round(status.used, 9), round(status.reserved, 9)


def test_it_is_a_shared_and_an_inspectable_store(valkey: Valkey) -> None:
    store = CountedRedisStore(valkey)
    assert isinstance(store, SharedStore)
    assert isinstance(store, InspectableStore)


async def test_what_a_process_held_comes_back_after_its_lease(valkey: Valkey, clock: SetClock) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        for _ in range(2):
            await store.reserve([Charge(CONCURRENT, "a", 1), Charge(TOKENS, "a", 32)])
        with pytest.raises(RateLimited):
            await store.reserve([Charge(CONCURRENT, "a", 1)])
        clock.now += LEASE - 1
        assert await level(store, CONCURRENT) == (2, 2)
        clock.now += 1
        assert await level(store, CONCURRENT) == (0, 0)
        assert await level(store, TOKENS) == (0, 0)
        assert store.open == 0


async def test_a_settlement_after_the_lease_books_what_was_used(valkey: Valkey, clock: SetClock) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = await store.reserve([Charge(TOKENS, "a", 60), Charge(CONCURRENT, "a", 1)])
        clock.now += LEASE
        assert await level(store, TOKENS) == (0, 0)
        for _ in range(3):
            await store.settle(granted.reservation, [20, 0])
        assert await level(store, TOKENS) == (20, 0)
        assert await level(store, CONCURRENT) == (0, 0)


async def test_a_renewed_reservation_outlives_its_first_lease(valkey: Valkey, clock: SetClock) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = [await store.reserve([Charge(CONCURRENT, "a", 1)]) for _ in range(2)]
        for _ in range(5):
            clock.now += LEASE * 0.75
            await store.renew([one.reservation for one in granted])
        assert await level(store, CONCURRENT) == (2, 2)
        for one in granted:
            await store.settle(one.reservation, [0])
        assert store.left_behind() == set()


async def test_a_renewal_that_comes_too_late_reserves_again(valkey: Valkey, clock: SetClock) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = await store.reserve([Charge(TOKENS, "a", 32)])
        clock.now += LEASE
        assert await level(store, TOKENS) == (0, 0)
        await store.renew([granted.reservation])
        assert await level(store, TOKENS) == (32, 32)
        await store.settle(granted.reservation, [12])
        assert await level(store, TOKENS) == (12, 0)


async def test_what_is_settled_is_not_renewed(valkey: Valkey, clock: SetClock) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = await store.reserve([Charge(CONCURRENT, "a", 1)])
        await store.settle(granted.reservation, [0])
        await store.renew([granted.reservation, Reservation("of another store")])
        assert await level(store, CONCURRENT) == (0, 0)


async def test_many_reservations_are_renewed(valkey: Valkey, clock: SetClock) -> None:
    limit = Limit("concurrent", 1000)
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = [await store.reserve([Charge(limit, "a", 1), Charge(TOKENS, f"{index}", 1)]) for index in range(500)]
        clock.now += LEASE - 1
        await store.renew([one.reservation for one in granted])
        clock.now += LEASE - 1
        assert await level(store, limit) == (500, 500)
        assert store.open == 500


async def test_many_expired_holds_are_removed_a_part_in_each_call(valkey: Valkey, clock: SetClock) -> None:
    limit = Limit("concurrent", 100)
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        for _ in range(100):
            await store.reserve([Charge(limit, "a", 1)])
        clock.now += LEASE
        assert await level(store, limit) == (36, 36)
        assert await level(store, limit) == (0, 0)


async def test_a_clock_that_goes_back_keeps_no_bucket_closed_for_longer_than_a_window(
    valkey: Valkey, clock: SetClock
) -> None:
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        granted = await store.reserve([Charge(LIMIT, "a", 4)])
        await store.settle(granted.reservation, [4])
        clock.now -= 1000
        with pytest.raises(RateLimited) as error:
            await store.reserve([Charge(LIMIT, "a", 1)])
        assert error.value.retry_after == 16
        clock.now += 16
        await store.reserve([Charge(LIMIT, "a", 1)])


async def test_an_idle_caller_leaves_nothing_behind(valkey: Valkey, clock: SetClock) -> None:
    """A bucket at rest is removed at once; any other has an expiry, and so do holds."""
    async with redis_store(valkey, clock=clock, lease=LEASE) as store:
        await store.reserve([Charge(LIMIT, "a", 2), Charge(CONCURRENT, "a", 1)])
        await store.reserve([Charge(LIMIT, "b", 8)])
        with valkey.client as client:
            left = {key: client.pttl(key) for key in store.left_behind()}
        assert len(left) == 6
        for key, milliseconds in left.items():
            most = 128 if key.endswith(b":b") and b":u:" in key else 32
            assert 0 < milliseconds <= (most + 60) * 1000, key


async def test_nothing_is_left_of_requests_that_used_nothing(valkey: Valkey) -> None:
    async with redis_store(valkey) as store:
        granted = await store.reserve([Charge(LIMIT, "a", 2), Charge(CONCURRENT, "a", 1), Charge(TOKENS, "a", 0)])
        assert len(store.left_behind()) == 6
        await store.settle(granted.reservation, [0, 0, 0])
        assert store.left_behind() == set()


@pytest.mark.parametrize("key", ["", "messages:a:b", "{other}", "ü漢", "\udcff", "a\n\0"])
async def test_any_key_has_a_bucket_of_its_own_in_the_same_slot(valkey: Valkey, key: str) -> None:
    async with redis_store(valkey) as store:
        limit = Limit("requests", 4, 64.0, principals=("a:b*", "c"))
        await store.reserve([Charge(limit, key, 1)])
        assert (await store.statuses([Charge(limit, key, 0)]))[0].used == pytest.approx(1, abs=0.1)
        assert (await store.statuses([Charge(limit, f"{key}2", 0)]))[0].used == 0
        assert all(name.startswith(f"{{{store.prefix}}}:".encode()) for name in store.left_behind())
        assert limit_id(limit)


async def test_prefixes_do_not_share_buckets(valkey: Valkey) -> None:
    async with redis_store(valkey) as one, redis_store(valkey) as other, redis_store(valkey, prefix=one.prefix) as same:
        await one.reserve([Charge(CONCURRENT, "a", 1)])
        assert await level(other, CONCURRENT) == (0, 0)
        assert await level(same, CONCURRENT) == (1, 1)
