"""A value that expires: one fetch for all, renewed in the background, faults remembered for a moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf

import pytest

from bud_asgi.providers import UpstreamUnavailable
from bud_asgi.providers import refresher as renewal
from bud_asgi.providers.refresher import Expiring, Refresher


class Place:
    """Where values come from: 1, 2, 3 and so on, each lives `lifetime` seconds and takes `delay` seconds to fetch."""

    def __init__(self, lifetime: float = inf, delay: float = 0.0) -> None:
        self.lifetime = lifetime
        self.delay = delay
        self.fault: Exception | None = None
        self.fetches = 0
        self.cancelled = 0
        self.same: int | None = None

    async def fetch(self) -> Expiring[int]:
        self.fetches += 1
        value = self.same or self.fetches
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fault is not None:
            raise self.fault
        return Expiring(value, time.time() + self.lifetime)

    def renewed(self) -> Refresher[int]:
        return Refresher(self.fetch, lambda text: text.replace("hidden", "[secret]"), "things")


def at_once(values: Refresher[int]) -> int:
    """The value, if one gets it without waiting."""
    asked = values.value()
    try:
        asked.send(None)
    except StopIteration as got:
        return got.value
    asked.close()
    raise AssertionError("one has to wait")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a task sets it
            await asyncio.sleep(0.005)


async def test_all_who_come_first_share_one_fetch() -> None:
    place = Place(delay=0.05)
    values = place.renewed()
    assert await asyncio.gather(*(values.value() for _ in range(50))) == [1] * 50
    assert await values.value() == 1
    assert place.fetches == 1


async def test_nobody_waits_for_a_renewal() -> None:
    place = Place(lifetime=0.4)
    values = place.renewed()
    assert await values.value() == 1
    place.delay = 30
    await asyncio.sleep(0.31)
    assert [at_once(values) for _ in range(20)] == [1] * 20
    await until(lambda: place.fetches == 2)
    assert [at_once(values) for _ in range(20)] == [1] * 20
    assert place.fetches == 2


async def test_renewals_come_in_time_for_as_long_as_there_are_callers() -> None:
    place = Place(lifetime=0.8, delay=0.02)
    values = place.renewed()
    seen = [await values.value()]
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        seen.append(at_once(values))
        await asyncio.sleep(0.01)
    assert max(seen) in {3, 4}
    assert set(seen) == set(range(1, max(seen) + 1))
    assert place.fetches == max(seen)


async def test_a_fetch_for_nobody_is_not_made() -> None:
    place = Place(lifetime=0.1)
    values = place.renewed()
    await values.value()
    await asyncio.sleep(0.2)
    assert place.fetches == 1
    assert await values.value() == 2


async def test_a_renewal_that_fails_leaves_the_old_value_and_is_not_hurried(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(lifetime=0.8)
    values = place.renewed()
    await values.value()
    place.fault = OSError("the place is on fire: hidden")
    await asyncio.sleep(0.62)
    with caplog.at_level(logging.WARNING, "bud_asgi"):
        assert await values.value() == 1
        await until(lambda: len(caplog.records) == 1)
        assert [at_once(values) for _ in range(20)] == [1] * 20
    assert place.fetches == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("last 0 s: OSError: the place is on fire: [secret]")


async def test_a_failure_is_told_to_all_and_remembered_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(delay=0.01)
    place.fault = OSError("on fire: hidden")
    values = place.renewed()
    outcomes = await asyncio.gather(*(values.value() for _ in range(10)), return_exceptions=True)
    outcomes += await asyncio.gather(values.value(), return_exceptions=True)
    for failure in outcomes:
        assert isinstance(failure, UpstreamUnavailable)
        assert (str(failure), failure.status, failure.not_sent) == ("upstream authentication failed", 502, True)
        assert str(failure.__cause__) == "OSError: on fire: [secret]"
    assert len(set(map(id, outcomes))) == 11
    assert place.fetches == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    place.fault = None
    await asyncio.sleep(1.0)
    assert await values.value() == 2


async def test_a_fetch_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "DEADLINE", 0.05)
    place = Place(delay=30)
    with pytest.raises(UpstreamUnavailable) as failed:
        await place.renewed().value()
    assert str(failed.value.__cause__) == "TimeoutError: not within the deadline"
    assert place.cancelled == 1


async def test_what_has_expired_already_is_no_value() -> None:
    with pytest.raises(UpstreamUnavailable) as failed:
        await Place(lifetime=-1).renewed().value()
    assert "expired already" in str(failed.value.__cause__)


async def test_who_leaves_harms_nobody() -> None:
    place = Place(delay=0.1)
    values = place.renewed()
    waiting = [asyncio.create_task(values.value()) for _ in range(4)]
    await until(lambda: place.fetches == 1)
    waiting[0].cancel()
    waiting[2].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [outcomes[1], outcomes[3]] == [1, 1]
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert (place.fetches, place.cancelled) == (1, 0)


async def test_a_fetch_goes_on_when_all_have_left() -> None:
    place = Place(delay=0.05)
    values = place.renewed()
    waiting = asyncio.create_task(values.value())
    await until(lambda: place.fetches == 1)
    waiting.cancel()
    assert await values.value() == 1
    assert place.fetches == 1


async def test_a_fetch_that_somebody_else_cancels_is_a_failure_and_not_a_cancellation() -> None:
    place = Place(delay=30)
    values = place.renewed()
    waiting = asyncio.create_task(values.value())
    await until(lambda: place.fetches == 1)
    for task in asyncio.all_tasks() - {waiting, asyncio.current_task()}:
        task.cancel()
    with pytest.raises(UpstreamUnavailable):
        await waiting


async def test_a_forced_renewal_is_shared_by_the_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "FORCED_APART", 0.2)
    place = Place(delay=0.01)
    values = place.renewed()
    await values.value()
    assert await asyncio.gather(*(values.renew() for _ in range(50))) == [True] * 50
    assert [await values.renew(), await values.value(), place.fetches] == [True, 2, 2]
    await asyncio.sleep(0.2)
    assert [await values.renew(), await values.value(), place.fetches] == [True, 3, 3]


async def test_a_forced_renewal_that_brings_the_same_or_fails_is_none() -> None:
    place = Place()
    place.same = 1000
    values = place.renewed()
    first = await values.value()
    place.same = int("1000")
    assert [await values.renew(), await values.renew(), place.fetches] == [False, False, 2]
    assert await values.value() is first
    failing = Place().renewed()
    await failing.value()
    place = Place()
    values = place.renewed()
    await values.value()
    place.fault = OSError()
    assert [await values.renew(), await values.renew(), place.fetches, await values.value()] == [False, False, 2, 1]


async def test_the_value_before_is_known_too() -> None:
    values = Place().renewed()
    assert values.recent == ()
    await values.value()
    await values.renew()
    assert values.recent == (2, 1)


def test_a_loop_that_ends_takes_its_fetch_with_it() -> None:
    place = Place(delay=30)
    values = place.renewed()

    async def left_waiting() -> None:
        task = asyncio.create_task(values.value())
        await until(lambda: place.fetches == 1)
        assert not task.done()

    asyncio.run(left_waiting())
    assert place.cancelled == 1
    assert not values._running
    place.delay = 0
    assert asyncio.run(values.value()) == 2


def test_a_loop_that_was_closed_with_its_fetch_is_forgotten() -> None:
    place = Place(delay=30)
    values = place.renewed()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(values.value())
    loop.run_until_complete(asyncio.sleep(0.01))
    tasks = asyncio.all_tasks(loop)
    loop.close()
    place.delay = 0
    assert asyncio.run(values.value()) == 2
    assert not values._running
    for task in tasks | {waiting}:
        task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue] - closing without cancelling was on purpose
