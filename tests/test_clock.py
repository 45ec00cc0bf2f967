"""The clock: it ticks for as long as something is watched, and does not grow with what was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from support.virtual_time import VirtualLoop, run_in_virtual_time
from support.waiting import until

from bud_asgi.clock import TICK, Clock, Watched


class Seen:
    """A watched object that keeps the times of its calls and then calls `then`."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.ticks: list[float] = []
        self.then = then

    def on_tick(self, now: float) -> None:
        self.ticks.append(now)
        self.then()


async def timers() -> int:
    """How many timers the loop holds."""
    await asyncio.sleep(0)
    return len(asyncio.get_running_loop()._scheduled)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


@pytest.fixture
def clock() -> Callable[[], Clock]:
    return lambda: Clock(asyncio.get_running_loop(), tick=0.01)


async def test_watched_objects_are_called_at_every_tick_with_the_time_of_the_loop(clock: Callable[[], Clock]) -> None:
    one, seen, began = clock(), Seen(), asyncio.get_running_loop().time()
    one.watch(seen)
    assert one.ticking
    assert seen.ticks == []  # never at once
    await until(lambda: len(seen.ticks) >= 3)
    one.unwatch(seen)
    assert len(seen.ticks) <= (asyncio.get_running_loop().time() - began) / 0.009
    assert seen.ticks == sorted(seen.ticks)
    assert began + 0.009 < seen.ticks[0] <= asyncio.get_running_loop().time()


async def test_all_share_one_timer_and_it_ends_with_the_last(clock: Callable[[], Clock]) -> None:
    one, before = clock(), await timers()
    many = [Seen() for _ in range(100)]
    for seen in many:
        one.watch(seen)
        one.watch(seen)
    assert await timers() == before + 1
    began = time.monotonic()
    await asyncio.sleep(0.035)
    (ticks,) = {len(seen.ticks) for seen in many}
    assert 1 <= ticks <= 1 + (time.monotonic() - began) / 0.01  # watched twice, called once
    for seen in many:
        one.unwatch(seen)
        one.unwatch(seen)
    assert not one.ticking
    told = [len(seen.ticks) for seen in many]
    await asyncio.sleep(0.03)
    assert await timers() == before
    assert [len(seen.ticks) for seen in many] == told


async def test_coming_and_going_between_two_ticks_makes_no_second_timer(clock: Callable[[], Clock]) -> None:
    one, before, seen = clock(), await timers(), Seen()
    for _ in range(1000):
        one.watch(seen)
        one.unwatch(seen)
    one.watch(seen)
    started = asyncio.get_running_loop().time()
    assert await timers() == before + 1
    await asyncio.sleep(0.025)
    assert 1 <= len(seen.ticks) <= (asyncio.get_running_loop().time() - started) / 0.01 + 1


async def test_it_starts_again_after_a_rest(clock: Callable[[], Clock]) -> None:
    one, seen = clock(), Seen()
    for _ in range(2):
        one.watch(seen)
        await asyncio.sleep(0.03)
        one.unwatch(seen)
        await asyncio.sleep(0.03)
        assert seen.ticks
        seen.ticks.clear()


async def test_one_may_come_and_go_from_inside_a_tick(clock: Callable[[], Clock]) -> None:
    one, later = clock(), Seen()
    once = Seen(lambda: (one.unwatch(once), one.watch(later))[0])
    one.watch(once)
    await asyncio.sleep(0.05)
    assert len(once.ticks) == 1
    assert len(later.ticks) >= 1
    assert once.ticks[0] not in later.ticks


async def test_an_object_unwatched_by_another_in_the_same_tick_is_not_called(clock: Callable[[], Clock]) -> None:
    one = clock()
    pair: list[Watched] = [Seen(lambda: one.unwatch(pair[1])), Seen(lambda: one.unwatch(pair[0]))]
    for seen in pair:
        one.watch(seen)
    await asyncio.sleep(0.035)
    calls = sorted(len(seen.ticks) for seen in pair if isinstance(seen, Seen))
    assert calls[0] == 0
    assert calls[1] >= 2


def test_four_ticks_make_a_second() -> None:
    assert TICK == 0.25


def test_a_tick_is_late_by_the_time_for_which_the_loop_was_busy() -> None:
    late: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        one = Clock(loop, tick=0.25)
        busy = iter((0.0, 3.0))

        def work() -> None:
            late.append(one.late)
            loop._jumping.now += next(busy, 0.0)

        one.watch(seen := Seen(work))
        await asyncio.sleep(5)
        one.unwatch(seen)

    run_in_virtual_time(run())
    assert [round(seconds, 6) for seconds in late[:5]] == [0.0, 0.0, 2.75, 0.0, 0.0]
