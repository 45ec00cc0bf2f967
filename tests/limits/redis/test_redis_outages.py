"""A store that hangs, goes away or answers garbage: bounded delays, no wrong charge, and recovery by itself."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import uvloop
from support.proxy import Proxy, proxy_to
from support.valkey import SHORT, CountedRedisStore, Valkey, redis_store, valkey_server
from support.virtual_time import at_once
from support.waiting import until, until_true

from bud_asgi.limit import Limit
from bud_asgi.limits import Charge, Grant, RateLimited, StoreUnavailable
from bud_asgi.limits.redis.channel import Channel
from bud_asgi.limits.redis.errors import CallFailed

T = TypeVar("T")

TIMEOUT = 0.05
ROOM = 10.0
"""Seconds that this machine may be busy with something else."""

LIMIT = Limit("requests", 3, 60.0)
CONCURRENT = Limit("concurrent", 2)
ONE = [Charge(LIMIT, "a", 1)]


@asynccontextmanager
async def behind_a_proxy(valkey: Valkey, **options: Any) -> AsyncGenerator[tuple[CountedRedisStore, Proxy]]:
    """A store that reaches its server through a proxy, and is connected."""
    async with (
        proxy_to(valkey.port) as proxy,
        redis_store(valkey, url=f"redis://127.0.0.1:{proxy.port}/0", **options) as store,
    ):
        await until_it_is_healthy(store)
        yield store, proxy


async def until_it_works(store: CountedRedisStore) -> None:
    """Wait until the store answers."""

    async def works() -> bool:
        try:
            await store.statuses([Charge(LIMIT, "other", 0)])
        except StoreUnavailable:
            return False
        return True

    await until_true(works)


async def until_it_is_healthy(store: CountedRedisStore) -> None:
    """Wait until the store has worked long enough to be reported as such."""

    async def healthy() -> bool:
        await until_it_works(store)
        return store._health.ok

    await until_true(healthy)


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """What the work returns, and how long it took."""
    began = time.monotonic()
    result = await work
    return result, time.monotonic() - began


async def used(store: CountedRedisStore, limit: Limit = LIMIT) -> float:
    """How much of a bucket is used, rounded to whole units: time passes in these tests."""
    (status,) = await store.statuses([Charge(limit, "a", 0)])
    return round(status.used)


async def is_unused(store: CountedRedisStore, limit: Limit) -> bool:
    """Whether nothing of a bucket is used."""
    return await used(store, limit) == 0


async def unanswered(store: CountedRedisStore, proxy: Proxy) -> Grant:
    """Reserve without a reply in time; from then on, replies are held back."""
    proxy.replies.clear()
    with store.impatient(TIMEOUT):
        return await store.reserve(ONE)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log lines of the store."""
    return [record.getMessage() for record in caplog.records if record.name == "bud_asgi"]


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_a_store_that_hangs_delays_nobody_beyond_the_deadline(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, direction: str
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    async with behind_a_proxy(valkey, timing=SHORT) as (store, proxy):
        caplog.clear()
        gate: asyncio.Event = getattr(proxy, direction)
        gate.clear()
        with store.impatient(TIMEOUT):
            granted, took = await timed(store.reserve(ONE))
        assert TIMEOUT * 0.9 <= took < TIMEOUT + ROOM
        assert granted.statuses == ()
        assert at_once(store.reserve(ONE)).statuses == ()  # it does not wait for a reply
        await until(lambda: store.link._channel is None)  # closed for its silence; nothing answers on new ones either
        assert at_once(store.reserve(ONE)).statuses == ()
        gate.set()
        await until_it_is_healthy(store)
        failed, works = lines(caplog)
        assert "requests are admitted without limits" in failed
        assert "works again after" in works


async def test_a_store_that_fails_now_and_then_is_logged_once(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    async with behind_a_proxy(valkey) as (store, proxy):
        for _ in range(5):
            await unanswered(store, proxy)
            proxy.replies.set()
            await until_it_works(store)
        assert len(lines(caplog)) == 1, lines(caplog)
        store._health._calm = 0.0
        await until_it_is_healthy(store)
        assert len(lines(caplog)) == 2, lines(caplog)


async def test_replies_that_come_late_are_dropped_and_the_connection_goes_on(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        connections = proxy.connections
        late = await unanswered(store, proxy)
        proxy.replies.set()
        await until_it_works(store)
        assert proxy.connections == connections
        assert await used(store) == 1  # it had been executed
        assert len((await store.reserve([Charge(LIMIT, "b", 1)])).statuses) == 1
        await store.settle(late.reservation, [2])
        assert await used(store) == 2
        assert store.open == 1


async def test_a_request_that_may_have_been_reserved_is_booked_when_it_is_settled(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        proxy.requests.clear()
        with store.impatient(TIMEOUT):
            unknown = await store.reserve(ONE)
        await proxy.drop()  # what was held back is lost
        proxy.requests.set()
        await until_it_works(store)
        assert await used(store) == 0
        for _ in range(3):
            await store.settle(unknown.reservation, [2])
        assert await used(store) == 2


async def test_a_settlement_is_written_again_until_it_is_answered_and_counts_once(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        grants = [await store.reserve([Charge(Limit("tokens", 100, 3600.0), "a", 10)]) for _ in range(5)]
        proxy.replies.clear()  # they are executed, again and again
        with store.impatient(TIMEOUT):
            for grant in grants:
                await store.settle(grant.reservation, [4])
            await asyncio.sleep(0.6)
        proxy.replies.set()
        await until(lambda: store.open == 0 and not store.writes)
        (status,) = await store.statuses([Charge(Limit("tokens", 100, 3600.0), "a", 0)])
        assert (round(status.used), status.reserved) == (20, 0)


async def test_a_settlement_that_was_lost_is_written_later(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        grants = [await store.reserve([Charge(CONCURRENT, "a", 1)]) for _ in range(2)]
        await proxy.cut()
        for grant in grants:
            _, took = await timed(store.settle(grant.reservation, [0]))
            assert took < TIMEOUT + ROOM
        assert store.open == 2
        await proxy.open()
        await until(lambda: store.open == 0)
        assert store.left_behind() == set()


async def test_settlements_that_cannot_be_written_within_the_lease_are_dropped_and_counted(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    async with behind_a_proxy(valkey, lease=0.4, timing=SHORT) as (store, proxy):
        grants = [await store.reserve([Charge(CONCURRENT, "a", 1)]) for _ in range(2)]
        await proxy.cut()
        for grant in grants:
            await store.settle(grant.reservation, [0])
        await asyncio.sleep(0.6)
        await proxy.open()
        await until_it_is_healthy(store)
        assert "2 settlements were dropped" in lines(caplog)[-1]
        assert await used(store, CONCURRENT) == 0


async def test_a_reply_that_came_while_the_event_loop_was_busy_is_not_late(valkey: Valkey) -> None:
    async with redis_store(valkey) as store:
        await until_it_works(store)
        channel = store.link._channel
        assert channel is not None
        assert channel._transport is not None
        with store.impatient(TIMEOUT):
            waiting = asyncio.create_task(store.reserve(ONE))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is sent
            time.sleep(2 * TIMEOUT)
            select.select([channel._transport.get_extra_info("socket")], [], [], 30.0)
            assert len((await waiting).statuses) == 1


async def test_with_closed_a_request_is_refused_and_nothing_stays_reserved(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind_a_proxy(valkey, on_failure="closed") as (store, proxy):
        proxy.replies.clear()
        with pytest.raises(StoreUnavailable) as error, store.impatient(TIMEOUT):
            await store.reserve([Charge(CONCURRENT, "a", 1)])
        assert (error.value.status, error.value.type) == (529, "overloaded_error")
        proxy.replies.set()
        await until(lambda: store.open == 0)
        await until_it_works(store)
        assert await used(store, CONCURRENT) == 0
        assert "refused with status 529" in lines(caplog)[0]


async def test_with_local_the_limits_are_divided_by_the_number_of_replicas(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind_a_proxy(valkey, on_failure="local", replicas=2) as (store, proxy):
        await proxy.cut()
        four = Limit("requests", 5, 60.0)
        grants = [await store.reserve([Charge(four, "a", 1)]) for _ in range(2)]
        assert [grant.statuses[0].remaining for grant in grants] == [1, 0]
        with pytest.raises(RateLimited) as error:
            await store.reserve([Charge(four, "a", 1)])
        assert error.value.retry_after == pytest.approx(30, abs=5)
        await store.settle(grants[0].reservation, [0])
        await store.reserve([Charge(four, "a", 1)])
        assert "each process applies the limits divided by 2" in lines(caplog)[0]


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":1\r\n", b"*1\r\n$1\r\nx\r\n", b"+OK\r\n+OK\r\n"]
)
async def test_garbage_closes_the_connection_and_charges_nothing_wrong(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    async with behind_a_proxy(valkey, timing=SHORT) as (store, proxy):
        caplog.clear()
        proxy.garbage = garbage
        with store.impatient(TIMEOUT):
            granted, took = await timed(store.reserve([Charge(CONCURRENT, "a", 1)]))
        assert took < TIMEOUT + ROOM
        assert granted.statuses == ()
        await asyncio.sleep(0.1)
        proxy.garbage = b""
        await until_it_works(store)
        await store.settle(granted.reservation, [0])
        await until(lambda: store.open == 0)
        assert await used(store, CONCURRENT) == 0
        await until_it_is_healthy(store)
        assert len(lines(caplog)) == 2, lines(caplog)


async def test_a_server_that_is_away_from_the_start_is_found_when_it_comes(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    async with proxy_to(valkey.port) as proxy:
        await proxy.cut()
        async with redis_store(valkey, url=proxy.url, timeout=TIMEOUT) as store:
            granted, took = await timed(store.reserve(ONE))
            assert (granted.statuses, took < TIMEOUT + ROOM) == ((), True)
            assert "hidden" not in repr(store) + "".join(lines(caplog))
            assert "redis://127.0.0.1" in lines(caplog)[0]


@pytest.mark.parametrize("host", ["localhost.invalid", f"{'a' * 70}.example"])
async def test_a_host_that_cannot_be_resolved_is_a_failure(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async with redis_store(valkey, url=f"redis://{host}", timeout=TIMEOUT) as store:
        for _ in range(3):
            granted, took = await timed(store.reserve(ONE))
            assert (granted.statuses, took < TIMEOUT + ROOM) == ((), True)
        assert len(lines(caplog)) == 1


async def test_a_connection_that_was_cut_while_idle_is_replaced_at_once(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        caplog.clear()
        connections = proxy.connections
        await proxy.drop()
        await until(lambda: proxy.connections > connections)
        assert (await store.reserve(ONE)).statuses[0].remaining == 2
        assert lines(caplog) == []


@pytest.mark.parametrize("command", ["SCRIPT FLUSH", "FLUSHALL"])
async def test_scripts_that_were_flushed_are_loaded_again_within_the_same_call(valkey: Valkey, command: str) -> None:
    with valkey_server() as server:
        async with redis_store(server) as store:
            granted = await store.reserve(ONE)
            with server.client as client:
                client.execute_command(command)
            assert len((await store.reserve(ONE)).statuses) == 1
            await store.settle(granted.reservation, [0])
            assert await used(store) == 1


async def test_after_a_restart_the_counters_start_again_and_running_requests_come_back_with_their_renewal() -> None:
    with valkey_server() as server:
        async with redis_store(server, lease=30.0) as store:
            await until_it_works(store)
            running = await store.reserve([Charge(CONCURRENT, "a", 1)])
            server.stop()
            assert isinstance(await store.reserve(ONE), Grant)
            server.start()
            await until_it_works(store)
            assert store.open == 0
            await store.renew([running.reservation])
            assert await used(store, CONCURRENT) == 1
            await store.settle(running.reservation, [0])
            assert await used(store, CONCURRENT) == 0


async def test_a_server_that_is_stopped_for_a_while_gets_no_wrong_charge() -> None:
    with valkey_server() as server:
        async with redis_store(server, on_failure="closed", lease=0.5, timing=SHORT) as store:
            await until_it_works(store)
            server.pause()
            with store.impatient(TIMEOUT):
                for _ in range(20):
                    began = time.monotonic()
                    with pytest.raises(StoreUnavailable):
                        await store.reserve([Charge(CONCURRENT, "a", 1)])
                    assert time.monotonic() - began < TIMEOUT + ROOM
                    await asyncio.sleep(0.02)
            server.resume()
            await until_it_works(store)
            await asyncio.sleep(0.6)  # a lease
            await until_true(lambda: is_unused(store, CONCURRENT))


async def test_a_request_that_is_cancelled_while_it_waits_gives_back_what_it_took(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        proxy.replies.clear()
        waiting = asyncio.create_task(store.reserve([Charge(CONCURRENT, "a", 1)]))
        await until(lambda: store.open == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: store.open == 0)
        proxy.replies.set()
        assert await used(store, CONCURRENT) == 0


async def test_an_error_of_the_server_is_a_failure_of_the_store(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_store(valkey, on_failure="closed") as store:
        await store.reserve(ONE)
        with valkey.client as client:
            (usage,) = [key for key in store.left_behind() if b":u:" in key]
            client.delete(usage)
            client.set(usage, "a string")
        with pytest.raises(StoreUnavailable) as error:
            await store.reserve(ONE)
        assert "WRONGTYPE" in error.value.reason
        assert len(lines(caplog)) == 1


async def test_renewing_and_reporting_fail_while_the_store_is_away(valkey: Valkey) -> None:
    async with behind_a_proxy(valkey) as (store, proxy):
        granted = await store.reserve(ONE)
        await proxy.cut()
        for call in _calls(store, granted):
            with pytest.raises(StoreUnavailable):
                await call()


def _calls(store: CountedRedisStore, granted: Grant) -> list[Callable[[], Awaitable[object]]]:
    return [lambda: store.renew([granted.reservation]), lambda: store.statuses(ONE)]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_call_whose_deadline_has_come_when_it_is_sent_ends_too(
    run: Callable[[Coroutine[Any, Any, object]], object],
) -> None:
    """The handle of uvloop for a timer that is due is of another kind."""

    async def call() -> object:
        loop = asyncio.get_running_loop()
        channel = Channel(loop, 1.0)
        return await asyncio.wait_for(channel.send(b"", loop.time()), 30)

    assert isinstance(run(call()), CallFailed)
