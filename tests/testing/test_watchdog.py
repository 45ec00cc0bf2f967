"""The watchdog finds a blocked event loop wherever it runs, and shows the code that blocks it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from bud_asgi.testing import BlockedLoop, LoopWatchdog

LIMIT = 0.05


async def block() -> None:
    time.sleep(3 * LIMIT)


async def wait() -> None:
    await asyncio.sleep(4 * LIMIT)


async def page(_request: Request) -> Response:
    await block()
    return Response()


def in_a_test_client() -> None:
    with TestClient(Starlette(routes=[Route("/", page)])) as client:
        client.get("/")


def in_a_thread() -> None:
    thread = threading.Thread(target=lambda: asyncio.run(block()))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "run", [lambda: asyncio.run(block()), lambda: uvloop.run(block()), in_a_test_client, in_a_thread]
)
def test_a_loop_that_begins_in_the_block(run: Callable[[], None]) -> None:
    with pytest.raises(BlockedLoop) as blocked, LoopWatchdog(LIMIT):
        run()
    first, *stack = str(blocked.value).splitlines()
    assert first == "the event loop was blocked for more than 0.05 s by:"
    assert stack[-1].strip() == "time.sleep(3 * LIMIT)"
    assert stack[-2].endswith("in block")


async def test_the_loop_that_runs_already() -> None:
    with pytest.raises(BlockedLoop, match="in block"), LoopWatchdog(LIMIT):
        await block()


def test_each_block_is_reported_once() -> None:
    async def twice() -> None:
        for _ in range(2):
            await block()
            await asyncio.sleep(LIMIT / 2)

    with pytest.raises(BlockedLoop), LoopWatchdog(LIMIT) as watchdog:
        asyncio.run(twice())
    assert len(watchdog.blocked) == 2


def test_a_loop_that_waits_or_has_ended_is_not_blocked() -> None:
    before = asyncio.BaseEventLoop.run_forever
    with LoopWatchdog(2 * LIMIT):
        asyncio.run(wait())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        time.sleep(4 * LIMIT)  # the loop does not run
        loop.close()
    assert asyncio.BaseEventLoop.run_forever is before


def test_another_exception_comes_first() -> None:
    async def fail() -> None:
        await block()
        raise LookupError

    with pytest.raises(LookupError), LoopWatchdog(LIMIT):
        asyncio.run(fail())
