"""A value that expires: one fetch for all callers, refreshed in the background, with a back-off after a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import pytest
from support.waiting import until

from bud_asgi.providers import UpstreamUnavailable
from bud_asgi.providers.refresher import (
    FORCED_REFRESH_INTERVAL,
    MAX_FORCED_REFRESHES,
    REFRESH_AHEAD,
    UNCHANGED_INTERVAL,
    Expiring,
    Refresher,
    RefreshTiming,
)


class Clock:
    """The time, as both clocks of a refresher; it moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Values 1, 2, 3, ..., each valid for `lifetime` seconds. A fetch waits until `open` is set."""

    def __init__(self, lifetime: float = inf, timeout: float = 10.0) -> None:
        self.clock = Clock()
        self.timeout = timeout
        self.lifetime = lifetime
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None
        self.fetches = 0
        self.cancelled = 0
        self.same: int | None = None

    async def fetch(self) -> Expiring[int]:
        self.fetches += 1
        value = self.same or self.fetches
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fault is not None:
            raise self.fault
        return Expiring(value, self.clock.now + self.lifetime)

    def hold(self) -> None:
        """Let fetches hang from now on."""
        self.open = asyncio.Event()

    def refresher(self) -> Refresher[int]:
        timing = RefreshTiming(timeout=self.timeout, clock=self.clock, monotonic=self.clock)
        return Refresher(self.fetch, lambda text: text.replace("hidden", "[secret]"), "things", timing)


def at_once(awaitable: Coroutine[Any, Any, int]) -> int:
    """The result of a coroutine that does not wait."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    awaitable.close()
    raise AssertionError("it waits")


def refused(value: int) -> Callable[[int], bool]:
    return lambda held: held == value


async def test_the_first_callers_share_one_fetch() -> None:
    source = Source()
    values = source.refresher()
    assert await asyncio.gather(*(values.value() for _ in range(50))) == [1] * 50
    assert await values.value() == 1
    assert source.fetches == 1


@pytest.mark.parametrize("lifetime", [8.0, 3600.0, 43200.0])
async def test_a_value_is_refreshed_ahead_of_its_expiry_and_no_caller_waits(lifetime: float) -> None:
    source = Source(lifetime)
    values = source.refresher()
    assert await values.value() == 1
    source.clock.now += lifetime - min(REFRESH_AHEAD, lifetime / 4) - 0.01
    assert [at_once(values.value()) for _ in range(20)] == [1] * 20
    await asyncio.sleep(0)
    assert source.fetches == 1
    source.hold()
    source.clock.now += 0.02
    assert [at_once(values.value()) for _ in range(20)] == [1] * 20
    await until(lambda: source.fetches == 2)
    assert [at_once(values.value()) for _ in range(20)] == [1] * 20
    source.open.set()
    await until(lambda: at_once(values.value()) == 2)
    assert source.fetches == 2


async def test_a_value_is_not_used_near_its_expiry() -> None:
    source = Source(3600)
    values = source.refresher()
    await values.value()
    source.clock.now += 3600 - 4.9
    assert await values.value() == 2


async def test_nothing_is_fetched_without_callers() -> None:
    source = Source(3600)
    values = source.refresher()
    await values.value()
    source.clock.now += 100_000
    await asyncio.sleep(0.01)
    assert source.fetches == 1
    assert await values.value() == 2


async def test_a_refresh_that_fails_leaves_the_current_value_and_backs_off(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(1000)
    values = source.refresher()
    await values.value()
    source.fault = OSError("the source is on fire:\r\n hidden \x1b[31m")
    source.clock.now += 755
    with caplog.at_level(logging.WARNING, "bud_asgi"):
        assert await values.value() == 1
        await until(lambda: len(caplog.records) == 1)
        assert [at_once(values.value()) for _ in range(20)] == [1] * 20
        source.clock.now += 29.9
        assert at_once(values.value()) == 1
        await asyncio.sleep(0)
        assert source.fetches == 2
        source.clock.now += 0.2
        assert at_once(values.value()) == 1
        await until(lambda: len(caplog.records) == 2)
    assert source.fetches == 3
    record = caplog.records[0]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        r"could not refresh things (OSError: the source is on fire: [secret] \u001b[31m); "
        "using the current ones for another 240 s"
    )


async def test_a_value_that_never_expires_can_fail_to_be_replaced(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    values = source.refresher()
    await values.value()
    source.fault = OSError()
    assert not await values.replace(refused(1))
    assert caplog.messages == ["could not refresh things (OSError); using the current ones"]


async def test_a_failure_is_raised_for_every_caller_and_remembered_for_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    source.fault = OSError("on fire: hidden")
    values = source.refresher()
    outcomes = await asyncio.gather(*(values.value() for _ in range(10)), return_exceptions=True)
    source.clock.now += 0.9
    outcomes += await asyncio.gather(values.value(), return_exceptions=True)
    for failure in outcomes:
        assert isinstance(failure, UpstreamUnavailable)
        assert (str(failure), failure.status, failure.not_sent) == ("upstream authentication failed", 502, True)
        assert str(failure.__cause__) == "OSError: on fire: [secret]"
    assert len(set(map(id, outcomes))) == 11
    assert source.fetches == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.messages == [
        "could not refresh things (OSError: on fire: [secret]); requests that need them fail",
    ]
    source.fault = None
    source.clock.now += 0.2
    assert await values.value() == 2


async def test_a_fetch_that_hangs_ends_at_its_timeout() -> None:
    source = Source(timeout=0.02)
    source.hold()
    with pytest.raises(UpstreamUnavailable) as failed:
        await source.refresher().value()
    assert str(failed.value.__cause__) == "no result within 0.02 s"
    assert source.cancelled == 1


async def test_a_value_that_has_already_expired_is_a_failure() -> None:
    with pytest.raises(UpstreamUnavailable) as failed:
        await Source(lifetime=-1).refresher().value()
    assert str(failed.value.__cause__) == "the fetched value has already expired"


async def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    source = Source()
    source.hold()
    values = source.refresher()
    waiting = [asyncio.create_task(values.value()) for _ in range(4)]
    await until(lambda: source.fetches == 1)
    waiting[0].cancel()
    waiting[2].cancel()
    await asyncio.sleep(0)
    source.open.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [outcomes[1], outcomes[3]] == [1, 1]
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert (source.fetches, source.cancelled) == (1, 0)


async def test_a_fetch_continues_when_all_its_callers_have_left() -> None:
    source = Source()
    source.hold()
    values = source.refresher()
    waiting = asyncio.create_task(values.value())
    await until(lambda: source.fetches == 1)
    waiting.cancel()
    source.open.set()
    assert await values.value() == 1
    assert source.fetches == 1


async def test_a_fetch_cancelled_by_other_code_is_a_failure_and_not_a_cancellation() -> None:
    source = Source()
    source.hold()
    values = source.refresher()
    waiting = asyncio.create_task(values.value())
    await until(lambda: source.fetches == 1)
    for task in asyncio.all_tasks() - {waiting, asyncio.current_task()}:
        task.cancel()
    with pytest.raises(UpstreamUnavailable):
        await waiting
    source.open.set()
    assert await values.value() == 2


# After a refusal: the decision goes by which value was refused.


async def test_callers_refused_with_the_current_value_share_one_fetch() -> None:
    source = Source()
    values = source.refresher()
    await values.value()
    assert await asyncio.gather(*(values.replace(refused(1)) for _ in range(50))) == [True] * 50
    assert await values.value() == 2
    assert source.fetches == 2


async def test_a_caller_refused_with_a_replaced_value_retries_at_once() -> None:
    source = Source()
    values = source.refresher()
    await values.value()
    assert await values.replace(refused(1))
    source.hold()
    assert at_once(values.replace(refused(1)))
    assert source.fetches == 2


async def test_a_value_that_is_revoked_just_after_it_was_fetched_is_replaced_too() -> None:
    """Revocations at once one after the other, with many requests in flight."""
    source = Source()
    values = source.refresher()
    await values.value()
    for value in range(1, MAX_FORCED_REFRESHES + 1):
        assert await asyncio.gather(*(values.replace(refused(value)) for _ in range(30))) == [True] * 30
    assert await values.value() == source.fetches == MAX_FORCED_REFRESHES + 1


async def test_a_refusal_during_a_fetch_that_returns_the_refused_value_is_followed_by_another_fetch() -> None:
    """The source was asked before the value was revoked."""
    source = Source(1000)
    values = source.refresher()
    await values.value()
    source.hold()
    source.same = 1
    source.clock.now += 800
    assert at_once(values.value()) == 1
    replacing = [asyncio.create_task(values.replace(refused(1))) for _ in range(30)]
    await until(lambda: source.fetches == 2)
    source.same = None
    source.open.set()
    assert await asyncio.gather(*replacing) == [True] * 30
    assert source.fetches == 3


async def test_an_upstream_that_refuses_every_value_causes_no_flood_of_fetches() -> None:
    source = Source()
    values = source.refresher()
    await values.value()
    outcomes = [await values.replace(refused(await values.value())) for _ in range(100)]
    assert outcomes == [True] * MAX_FORCED_REFRESHES + [False] * (100 - MAX_FORCED_REFRESHES)
    assert source.fetches == 1 + MAX_FORCED_REFRESHES
    source.clock.now += FORCED_REFRESH_INTERVAL
    assert await values.replace(refused(await values.value()))


@pytest.mark.parametrize("fault", [None, OSError()])
async def test_a_fetch_that_returns_no_other_value_is_not_repeated_for_an_interval(fault: Exception | None) -> None:
    source = Source()
    source.same = 1000
    values = source.refresher()
    first = await values.value()
    source.same = int("1000")
    source.fault = fault
    assert [await values.replace(refused(1000)) for _ in range(5)] == [False] * 5
    assert source.fetches == 2
    assert await values.value() is first
    source.clock.now += UNCHANGED_INTERVAL - 0.1
    assert not await values.replace(refused(1000))
    assert source.fetches == 2
    source.clock.now += 0.2
    source.same = source.fault = None
    assert await values.replace(refused(1000))
    assert await values.value() == 3


async def test_a_fetch_that_was_running_at_the_refusal_is_followed_by_another() -> None:
    """What it returns may have been issued before the revocation, and be revoked as well."""
    source = Source(1000)
    values = source.refresher()
    await values.value()
    source.hold()
    source.clock.now += 800
    assert at_once(values.value()) == 1
    replacing = [asyncio.create_task(values.replace(refused(1))) for _ in range(30)]
    await until(lambda: source.fetches == 2)
    source.open.set()
    assert await asyncio.gather(*replacing) == [True] * 30
    assert await values.value() == source.fetches == 3


async def test_a_replacement_that_fails_leaves_the_value_of_the_fetch_before_it() -> None:
    source = Source(1000)
    values = source.refresher()
    await values.value()
    source.hold()
    source.clock.now += 800
    assert at_once(values.value()) == 1
    replacing = asyncio.create_task(values.replace(refused(1)))
    await until(lambda: source.fetches == 2)
    opened = source.open
    source.hold()
    opened.set()
    await until(lambda: source.fetches == 3)
    source.fault = OSError("on fire")
    source.open.set()
    assert await replacing
    assert await values.value() == 2


async def test_the_previous_values_are_remembered() -> None:
    source = Source()
    values = source.refresher()
    assert values.recent == ()
    await values.value()
    await values.replace(refused(1))
    await values.replace(refused(2))
    assert values.recent == (3, 2, 1)
    for value in range(3, 10):
        source.clock.now += FORCED_REFRESH_INTERVAL
        await values.replace(refused(value))
    assert values.recent == tuple(range(10, 10 - len(values.recent), -1))
    assert MAX_FORCED_REFRESHES < len(values.recent) < 10


# Event loops.


def test_a_loop_that_ends_cancels_its_fetch() -> None:
    source = Source()
    source.hold()
    values = source.refresher()

    async def leave_waiting() -> None:
        task = asyncio.create_task(values.value())
        await until(lambda: source.fetches == 1)
        assert not task.done()

    asyncio.run(leave_waiting())
    assert source.cancelled == 1
    assert not values._running
    source.open.set()
    assert asyncio.run(values.value()) == 2


def test_a_loop_that_was_closed_during_a_fetch_is_forgotten() -> None:
    source = Source()
    source.hold()
    values = source.refresher()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(values.value())
    loop.run_until_complete(asyncio.sleep(0.01))
    tasks = asyncio.all_tasks(loop)
    loop.close()
    source.open = asyncio.Event()
    source.open.set()
    assert asyncio.run(values.value()) == 2
    assert not values._running
    for task in tasks | {waiting}:
        task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue] - closed on purpose
