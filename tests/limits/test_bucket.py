"""The arithmetic of a bucket in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.limit import Limit
from bud_asgi.limits.bucket import Bucket
from bud_asgi.limits.store import CONCURRENCY_WAIT, waiting_time

_seconds = st.floats(0, 1e6, allow_nan=False)
_capacities = st.integers(1, 10**9)
_windows = st.floats(0.001, 1e6, allow_nan=False)
_used = st.floats(0, 1e9, allow_nan=False)

Level = tuple[float, float]
"""What is used, and when that was counted."""

REFILLED: dict[str, tuple[Level, float, Level]] = {
    "nothing passes in no time": ((9.0, 10.0), 10.0, (9.0, 10.0)),
    "it fills evenly": ((9.0, 10.0), 20.0, (7.0, 20.0)),
    "a window fills it whole": ((12.0, 10.0), 70.0, (0.0, 70.0)),
    "it never runs over": ((1.0, 10.0), 1e9, (0.0, 1e9)),
    "it fills out of debt": ((16.0, 10.0), 20.0, (14.0, 20.0)),
    "a clock that went back changes nothing": ((9.0, 100.0), 50.0, (9.0, 100.0)),
    "a clock that went back by a window changes nothing": ((9.0, 100.0), 40.0, (9.0, 100.0)),
    "a clock that went back by more starts again there": ((9.0, 100.0), 39.0, (9.0, 39.0)),
    "at rest, it starts at any time": ((0.0, 100.0), 50.0, (0.0, 50.0)),
}


def bucket_of(used: float, updated_at: float = 0.0, capacity: int = 12, window: float = 60.0) -> Bucket:
    bucket = Bucket.of(Limit("tokens", capacity, window), "a", updated_at)
    bucket.used = used
    return bucket


@pytest.mark.parametrize(("before", "now", "expected"), REFILLED.values(), ids=REFILLED.keys())
def test_a_bucket_of_12_in_60_seconds_fills(before: Level, now: float, expected: Level) -> None:
    bucket = bucket_of(*before)
    assert bucket.refill(now) == expected[0]
    assert (bucket.used, bucket.updated_at) == expected


WAITS: dict[str, tuple[float, int, float]] = {
    "none when there is enough": (7.0, 5, 0.0),
    "none when there is more": (0.0, 1, 0.0),
    "none for nothing": (12.0, 0, 0.0),
    "for what is missing": (8.0, 5, 5.0),
    "for the debt too": (14.0, 1, 15.0),
    "for the debt alone if nothing is taken": (14.0, 0, 10.0),
    "until it is full for more than it holds": (1.0, 100, 5.0),
    "none for more than it holds when it is full": (0.0, 100, 0.0),
}


@pytest.mark.parametrize(("used", "amount", "seconds"), WAITS.values(), ids=WAITS.keys())
def test_the_wait_for_a_bucket_of_12_in_60_seconds(used: float, amount: int, seconds: float) -> None:
    assert waiting_time(Limit("tokens", 12, 60.0), used, amount) == seconds


def test_the_wait_for_a_bucket_that_does_not_refill_is_a_guess() -> None:
    assert waiting_time(Limit("concurrent", 2), 1, 1) == 0
    assert waiting_time(Limit("concurrent", 2), 2, 1) == CONCURRENCY_WAIT


def test_what_is_reserved_shrinks_with_the_bucket_however_often_it_is_emptied() -> None:
    bucket, marks = bucket_of(0.0), [0.0]
    for round_ in range(1, 2001):
        bucket.refill(round_ * 1000.0 - 1)
        marks.append(bucket.drained)
        bucket.used += 8
        bucket.reserved += 8
        assert bucket.refill(round_ * 1000.0 - 1 + 30) == bucket.reserved == 2
    assert bucket.release(8, marks[0]) == 0
    assert bucket.release(8, marks[1000]) == 0
    assert bucket.release(8, marks[-1]) == pytest.approx(2)
    assert bucket.reserved == 0


def test_a_bucket_that_is_almost_empty_after_a_very_large_reservation_stays_exact() -> None:
    bucket = bucket_of(0.0, capacity=1, window=1.0)
    bucket.used = bucket.reserved = float(1 << 53)
    bucket.updated_at = 0.0
    bucket.refill(float((1 << 53) - 1))
    assert bucket.used == bucket.reserved == 1
    assert bucket.release(float(1 << 53), 0.0) == pytest.approx(1)


@pytest.mark.torture
@examples()
@given(used=_used, updated_at=_seconds, now=_seconds, capacity=_capacities, window=_windows)
def test_a_bucket_never_runs_over_and_never_loses(
    used: float, updated_at: float, now: float, capacity: int, window: float
) -> None:
    after = bucket_of(used, updated_at, capacity, window)
    after.refill(now)
    assert 0 <= after.used <= used
    went_back_far = now < updated_at - window
    assert after.updated_at == (now if went_back_far or not used else max(now, updated_at))
    if now <= updated_at:
        assert after.used == used


@pytest.mark.torture
@examples()
@given(used=_used, amount=st.integers(0, 10**9), capacity=_capacities, window=_windows)
def test_waiting_exactly_so_long_makes_the_amount_available(
    used: float, amount: int, capacity: int, window: float
) -> None:
    limit = Limit("tokens", capacity, window)
    wait = waiting_time(limit, used, amount)
    assert wait >= 0
    rounding = 1e-8 * max(1.0, used, float(capacity))  # floats are as coarse as that
    missing = used + min(amount, capacity) - capacity
    assert wait == 0 or missing > 0
    assert wait > 0 or missing <= rounding
    assert bucket_of(used, 0.0, capacity, window).refill(wait) <= capacity - min(amount, capacity) + rounding
    if missing > 1000 * rounding:
        sooner = bucket_of(used, 0.0, capacity, window).refill(wait * 0.99)
        assert waiting_time(limit, sooner, amount) > 0


@pytest.mark.torture
@examples()
@given(used=_used, steps=st.lists(st.floats(0, 100), max_size=10), capacity=st.integers(1, 1000), window=_windows)
def test_reading_often_does_not_change_the_level(used: float, steps: list[float], capacity: int, window: float) -> None:
    bucket = bucket_of(used, 0.0, capacity, window)
    for step in steps:
        bucket.refill(bucket.updated_at + step)
    at_once = bucket_of(used, 0.0, capacity, window).refill(bucket.updated_at)
    assert bucket.used == pytest.approx(at_once, rel=1e-9, abs=1e-6 * max(1.0, used * 1e-6))
