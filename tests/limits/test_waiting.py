"""Waiting for room: in order, fair between principals, refused at once where it is in vain. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from support.asgi import exchange_of, http_scope
from support.limited import AwaitingStore
from support.virtual_time import loop_time, run_in_virtual_time

from bud_asgi import Limit, Principal
from bud_asgi.exchange import Exchange
from bud_asgi.limits import Limiter, MemoryStore, RateLimited
from bud_asgi.limits.amounts import Amounts, CostFunction
from bud_asgi.limits.fair_queue import MAX_WAITING
from bud_asgi.tasks import BackgroundTasks

PER_SECOND = Limit("requests", 1, 1.0, "all", wait=3.0)
TWO_AT_ONCE = Limit("concurrent", 2, per="all", wait=10.0)


def amount_of(exchange: Exchange) -> Amounts:
    """A request of these tests has its amount for a method."""
    return {"requests": int(exchange.method)}


class Stage:
    """A limiter, and what has happened at its limits: who was admitted or refused, and when."""

    def __init__(self, *limits: Limit, store: MemoryStore | None = None, cost: CostFunction | None = None) -> None:
        self.store = store or MemoryStore(clock=loop_time)
        self.limiter = Limiter(limits, self.store, cost=cost)
        self.tasks = BackgroundTasks()
        self.begun = loop_time()
        self.admitted: list[tuple[str, float]] = []
        self.refused: list[tuple[str, float, float]] = []

    @property
    def now(self) -> float:
        return round(loop_time() - self.begun, 6)

    async def request(self, name: str, seconds: float = 0.0, amount: int = 1) -> None:
        """A request of the principal of that first letter, which runs for so many seconds."""
        exchange = Exchange.of(http_scope(method=str(amount)))
        exchange.principal = Principal(id=name[0])
        try:
            admission = self.limiter.admit_now(exchange, self.limiter.check(exchange))
            admission = admission or await self.limiter.admit(exchange)
        except RateLimited as error:
            self.refused.append((name, self.now, round(error.retry_after, 6)))
            return
        self.admitted.append((name, self.now))
        try:
            await asyncio.sleep(seconds)
        finally:
            self.limiter.settle(admission, exchange, self.tasks)

    async def all(self, *requests: Coroutine[Any, Any, None]) -> None:
        """Start these one after the other, and wait for all. Nothing is left of them."""
        await asyncio.gather(*requests)
        await self.tasks.drain(1)
        self.assert_no_trace()

    def assert_no_trace(self) -> None:
        assert (self.limiter._waiting.queues, self.store.open) == ({}, 0)


def test_who_waits_is_admitted_when_the_bucket_has_room_and_in_order() -> None:
    async def scene() -> None:
        stage = Stage(PER_SECOND)
        await stage.all(*(stage.request(name) for name in ("a1", "a2", "a3", "a4")))
        assert stage.admitted == [("a1", 0), ("a2", 1), ("a3", 2), ("a4", 3)]

    run_in_virtual_time(scene())


def test_a_wait_that_is_too_short_is_refused_at_once_with_the_true_time() -> None:
    async def scene() -> None:
        stage = Stage(PER_SECOND)
        await stage.all(*(stage.request(f"a{number}") for number in range(6)))
        assert [at for _, at in stage.admitted] == [0, 1, 2, 3]
        assert stage.refused == [("a4", 0, 4), ("a5", 0, 4)]

    run_in_virtual_time(scene())


def test_a_limit_without_a_wait_makes_no_one_wait() -> None:
    async def scene() -> None:
        stage = Stage(Limit("requests", 1, 1.0, "all"))
        await stage.all(*(stage.request(f"a{number}") for number in range(3)))
        assert [at for _, at in stage.admitted] == [0]
        assert [at for _, at, _ in stage.refused] == [0, 0]

    run_in_virtual_time(scene())


def test_one_heavy_principal_delays_only_its_own_requests() -> None:
    async def scene() -> None:
        stage = Stage(Limit("requests", 1, 1.0, "all", wait=60.0))
        heavy = [stage.request(f"a{number}") for number in range(10)]
        await stage.all(*heavy, stage.request("b1"), stage.request("b2"), stage.request("c1"))
        assert [name for name, _ in stage.admitted[:7]] == ["a0", "a1", "b1", "c1", "a2", "b2", "a3"]
        assert [at for _, at in stage.admitted] == list(range(13))

    run_in_virtual_time(scene())


def test_so_many_requests_of_a_principal_wait_and_further_ones_are_refused() -> None:
    async def scene() -> None:
        stage = Stage(Limit("requests", 1, 1.0, "all", wait=60.0))
        await stage.all(*(stage.request("a") for _ in range(MAX_WAITING + 3)), stage.request("b"))
        assert len(stage.admitted) == MAX_WAITING + 2
        assert [(name, at) for name, at, _ in stage.refused] == [("a", 0), ("a", 0)]
        assert stage.admitted[2] == ("b", 2)

    run_in_virtual_time(scene())


def test_a_request_that_ends_makes_room_for_the_first_that_waits() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE)
        durations = {"a1": 5.0, "a2": 2.0, "a3": 4.0, "b1": 1.0}
        await stage.all(*(stage.request(name, seconds) for name, seconds in durations.items()))
        assert stage.admitted == [("a1", 0), ("a2", 0), ("a3", 2), ("b1", 5)]

    run_in_virtual_time(scene())


def test_a_request_for_which_no_upstream_was_tried_makes_room_for_the_first_that_waits() -> None:
    async def scene() -> None:
        stage = Stage(Limit("requests", 1, 8.0, wait=8.0))
        invalid = exchange_of("a", "messages.create")
        admission = await stage.limiter.admit(invalid)
        waiting = asyncio.create_task(stage.request("a1"))
        await asyncio.sleep(2)
        stage.limiter.settle(admission, invalid, stage.tasks)
        await waiting
        stage.assert_no_trace()
        assert stage.admitted == [("a1", 2)]

    run_in_virtual_time(scene())


def test_who_waits_in_vain_for_concurrency_is_refused_when_the_time_is_over() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE)
        await stage.all(*(stage.request(name, 11.0) for name in ("a1", "a2", "a3")))
        assert (stage.admitted, stage.refused) == ([("a1", 0), ("a2", 0)], [("a3", 10, 1)])

    run_in_virtual_time(scene())


def test_no_more_run_at_once_than_may_whoever_waits() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE)
        most = 0

        async def watch() -> None:
            nonlocal most
            for _ in range(200):
                most = max(most, stage.store.open)
                await asyncio.sleep(0.05)

        await stage.all(watch(), *(stage.request("abc"[number % 3], 0.4) for number in range(30)))
        assert (most, len(stage.admitted)) == (2, 30)

    run_in_virtual_time(scene())


@pytest.mark.parametrize("limit", [PER_SECOND, TWO_AT_ONCE], ids=["window", "concurrency"])
def test_a_client_that_leaves_the_queue_leaves_no_trace_and_the_next_one_comes_up(limit: Limit) -> None:
    async def scene() -> None:
        stage = Stage(limit)
        running = [asyncio.create_task(stage.request("a", 1.0)) for _ in range(limit.amount)]
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(stage.request(name)) for name in ("b", "c", "d")]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        waiting[2].cancel()
        done = await asyncio.gather(*running, *waiting, return_exceptions=True)
        assert [type(result) for result in done[-3:]] == [asyncio.CancelledError, type(None), asyncio.CancelledError]
        assert stage.admitted[limit.amount :] == [("c", 1)]
        await stage.tasks.drain(1)
        stage.assert_no_trace()

    run_in_virtual_time(scene())


def test_the_only_one_that_waits_may_leave() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE)
        running = [asyncio.create_task(stage.request("a", 5.0)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(stage.request("b"))
        await asyncio.sleep(0.5)
        assert len(stage.limiter._waiting.queues) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (stage.limiter._waiting.queues, stage.store.open) == ({}, 2)
        await asyncio.gather(*running)
        stage.assert_no_trace()

    run_in_virtual_time(scene())


def test_a_newcomer_stands_behind_those_who_wait_even_if_it_would_fit() -> None:
    async def scene() -> None:
        stage = Stage(Limit("requests", 10, 10.0, "all", wait=20.0), cost=amount_of)
        first, large = stage.request("a1", amount=8), stage.request("b1", amount=10)
        await stage.all(first, large, stage.request("c1", amount=1))
        assert stage.admitted == [("a1", 0), ("b1", 8), ("c1", 9)]

    run_in_virtual_time(scene())


def test_a_request_that_only_another_limit_refuses_waits_for_that_one_without_holding_up_the_first() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE, Limit("requests", 1, 4.0, wait=10.0))
        await stage.all(
            stage.request("a1", 1.0), stage.request("a2", 1.0), stage.request("b1", 1.0), stage.request("c1")
        )
        assert stage.admitted == [("a1", 0), ("b1", 0), ("c1", 1), ("a2", 4)]

    run_in_virtual_time(scene())


def test_a_limit_without_a_wait_refuses_a_request_whose_turn_has_come() -> None:
    async def scene() -> None:
        stage = Stage(TWO_AT_ONCE, Limit("requests", 3, 3600.0, "all"))
        await stage.all(*(stage.request(name, 2.0) for name in ("a1", "a2", "a3", "a4")))
        assert stage.admitted == [("a1", 0), ("a2", 0), ("a3", 2)]
        assert [(name, at) for name, at, _ in stage.refused] == [("a4", 2)]

    run_in_virtual_time(scene())


def test_what_another_process_gives_back_is_found_within_a_tenth_of_a_second() -> None:
    async def scene() -> None:
        store = AwaitingStore(clock=loop_time)
        stage, other_process = Stage(TWO_AT_ONCE, store=store), Stage(TWO_AT_ONCE, store=store)
        others = asyncio.gather(*(other_process.request("a", 2.0) for _ in range(2)))
        await asyncio.sleep(0.5)
        await stage.request("b")
        await others
        ((_, at),) = stage.admitted
        assert 2.0 <= at <= 2.2
        for one in (stage, other_process):
            await one.tasks.drain(1)
            one.assert_no_trace()

    run_in_virtual_time(scene())


def test_each_loop_has_queues_of_its_own() -> None:
    async def scene() -> None:
        stage.begun = loop_time()
        await stage.all(*(stage.request(name, 1.0) for name in ("a", "b", "c")))

    async def first() -> Stage:
        return Stage(TWO_AT_ONCE, store=MemoryStore(clock=lambda: 0.0))

    stage = run_in_virtual_time(first())
    for _ in range(2):
        run_in_virtual_time(scene())
    assert [at for _, at in stage.admitted] == [0, 0, 1] * 2
