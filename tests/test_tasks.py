"""Tasks that outlive their request: they finish, failures are logged, shutdown waits for them within a limit."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from bud_asgi.tasks import BackgroundTasks


async def test_a_task_continues_when_the_request_that_started_it_is_cancelled() -> None:
    tasks, done = BackgroundTasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async def request() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            tasks.spawn(work())

    asked = asyncio.create_task(request())
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    gc.collect()
    assert len(tasks) == 1
    await tasks.drain(5)
    assert done.is_set()
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_a_failure_is_logged_with_its_traceback_and_stops_no_other_task(caplog: pytest.LogCaptureFixture) -> None:
    tasks, done = BackgroundTasks(), asyncio.Event()

    async def fails() -> None:
        raise ZeroDivisionError("no store")

    async def works() -> None:
        done.set()

    with caplog.at_level(logging.INFO, "bud_asgi"):
        tasks.spawn(fails())
        tasks.spawn(works())
        await tasks.drain(5)
    assert done.is_set()
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("bud_asgi", "ERROR", "background work failed")
    ]
    assert "ZeroDivisionError: no store" in caplog.text


async def test_a_drain_with_nothing_to_wait_for_returns_at_once() -> None:
    await asyncio.wait_for(BackgroundTasks().drain(60), 1)


async def test_a_drain_waits_for_all() -> None:
    tasks, done = BackgroundTasks(), list[int]()

    async def work(number: int) -> None:
        await asyncio.sleep(number / 1000)
        done.append(number)

    for number in (30, 10, 20):
        tasks.spawn(work(number))
    assert len(tasks) == 3
    await tasks.drain(5)
    assert done == [10, 20, 30]


async def test_what_is_late_is_cancelled_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    tasks, ended = BackgroundTasks(), list[str]()

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise
        ended.append(name)

    tasks.spawn(work("quick", 0))
    tasks.spawn(work("slow", 60))
    tasks.spawn(work("slower", 60))
    begun = asyncio.get_running_loop().time()
    with caplog.at_level(logging.INFO, "bud_asgi"):
        await tasks.drain(0.05)
    assert 0.04 < asyncio.get_running_loop().time() - begun < 5
    assert ended[0] == "quick"
    assert sorted(ended[1:]) == ["slow cancelled", "slower cancelled"]
    assert [record.message for record in caplog.records] == ["2 background tasks were cancelled after 0.05 s"]
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_late_work_may_still_clean_up() -> None:
    tasks, cleaned = BackgroundTasks(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    tasks.spawn(work())
    await tasks.drain(0.01)
    assert cleaned.is_set()


async def test_work_that_is_started_by_work_is_waited_for_too() -> None:
    tasks, done = BackgroundTasks(), asyncio.Event()

    async def last() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async def first() -> None:
        tasks.spawn(last())

    tasks.spawn(first())
    await tasks.drain(5)
    assert done.is_set()
