"""Several processes and event loops on one server: nothing is admitted twice, and a killed process loses nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from support.counts import count
from support.valkey import CountedRedisStore, Valkey, new_prefix, redis_store
from support.waiting import until, wait_until

from bud_asgi.limit import Limit
from bud_asgi.limits import Charge

PROCESSES = count(2, 4)
REQUESTS = Limit("requests", 200, 1e6)
CONCURRENT = Limit("concurrent", 5)
TOKENS = Limit("tokens", 1000, 1e6)


def start(server: Valkey, prefix: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process that makes requests against the limits."""
    program = Path(__file__).with_name("hammer.py")
    command = [sys.executable, program, server.url, prefix, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(program.parents[3])})


@pytest.mark.torture
async def test_processes_together_admit_exactly_what_the_limits_allow(valkey: Valkey) -> None:
    """Counters in the server see each overlap of the processes.

    Tokens overshoot by no more than what the requests that ran at the same time used beyond their reservations.
    """
    prefix, tries = new_prefix(), count(40, 3000)
    running = [start(valkey, prefix, "use", tries) for _ in range(PROCESSES)]
    found = [cast("dict[str, Any]", json.loads(one.communicate(timeout=110)[0])) for one in running]
    assert all(one.returncode == 0 for one in running)
    assert sum(one["admitted"] for one in found) == REQUESTS.amount
    assert 1 < max(one["most_running"] for one in found) <= CONCURRENT.amount
    async with redis_store(valkey, prefix=prefix) as store:
        requests, tokens, concurrent = await store.statuses(
            [Charge(REQUESTS, "a", 0), Charge(TOKENS, "a", 0), Charge(CONCURRENT, "a", 0)]
        )
        assert round(requests.used) == REQUESTS.amount
        assert (concurrent.used, concurrent.reserved, store.open) == (0, 0, 0)
        assert TOKENS.amount * 0.9 <= round(tokens.used) <= TOKENS.amount + max(one["most_over"] for one in found)
        assert tokens.used == pytest.approx(sum(one["tokens"] for one in found), abs=1)


async def test_what_a_killed_process_held_is_back_after_its_lease(valkey: Valkey) -> None:
    prefix, lease = new_prefix(), 1.0
    process = start(valkey, prefix, "hold", lease)
    async with redis_store(valkey, prefix=prefix, lease=lease) as store:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        await asyncio.sleep(1.5 * lease)
        assert store.open == CONCURRENT.amount  # it renews them
        process.kill()
        process.communicate()
        began = time.monotonic()
        status = Charge(CONCURRENT, "a", 0)

        async def is_back() -> bool:
            return (await store.statuses([status]))[0].used == 0

        while not await is_back():
            assert time.monotonic() - began < lease + 15.0
            await asyncio.sleep(0.02)


def test_each_event_loop_has_a_connection_of_its_own_that_ends_with_it(valkey: Valkey) -> None:
    store = CountedRedisStore(valkey)
    with valkey.client as client:
        before = len(cast("list[object]", client.client_list()))

        async def once(*, close: bool) -> None:
            granted = await store.reserve([Charge(CONCURRENT, "a", 1)])
            await store.settle(granted.reservation, [0])
            if close:
                await store.aclose()

        for close in (True, False) * 3:
            asyncio.run(once(close=close))
        gc.collect()
        wait_until(lambda: len(cast("list[object]", client.client_list())) <= before, "the connections are closed")
    assert store.open == 0
    assert len(store._by_loop) <= 1


async def test_a_store_works_again_after_it_was_closed(valkey: Valkey) -> None:
    async with redis_store(valkey) as store:
        granted = await store.reserve([Charge(CONCURRENT, "a", 1)])
        await store.aclose()
        await store.aclose()
        await store.settle(granted.reservation, [0])
        assert store.open == 0


async def test_closing_writes_the_settlements_that_wait(valkey: Valkey) -> None:
    async with redis_store(valkey) as store:
        waiting = [asyncio.create_task(store.reserve([Charge(CONCURRENT, "a", 1)])) for _ in range(3)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        await store.aclose()
        await until(lambda: store.open == 0)
