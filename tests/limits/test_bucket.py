"""The arithmetic of a bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.limits.store import Bucket, waiting_time

_seconds = st.floats(0, 1e6, allow_nan=False)
_capacities = st.integers(1, 10**9)
_windows = st.floats(0.001, 1e6, allow_nan=False)
_levels = st.floats(-1e9, 1e9, allow_nan=False)


Level = tuple[float, float]
"""Tokens, and when they were counted."""

REFILLED: dict[str, tuple[Level, float, Level]] = {
    "nothing passes in no time": ((3.0, 10.0), 10.0, (3.0, 10.0)),
    "it fills evenly": ((3.0, 10.0), 20.0, (5.0, 20.0)),
    "a window fills it whole": ((0.0, 10.0), 70.0, (12.0, 70.0)),
    "it never runs over": ((11.0, 10.0), 1e9, (12.0, 1e9)),
    "it fills out of debt": ((-4.0, 10.0), 20.0, (-2.0, 20.0)),
    "what is over the brim is lost": ((20.0, 10.0), 10.0, (12.0, 10.0)),
    "a clock that went back changes nothing": ((3.0, 10.0), 5.0, (3.0, 10.0)),
}


@pytest.mark.parametrize(("before", "now", "expected"), REFILLED.values(), ids=REFILLED.keys())
def test_a_bucket_of_12_in_60_seconds_fills(before: Level, now: float, expected: Level) -> None:
    bucket = Bucket(*before, capacity=12, window=60)
    assert bucket.refill(now) == expected[0]
    assert (bucket.tokens, bucket.updated_at) == expected


WAITS: dict[str, tuple[float, float, float]] = {
    "none when there is enough": (5.0, 5, 0.0),
    "none when there is more": (12.0, 1, 0.0),
    "none for nothing": (0.0, 0, 0.0),
    "for what is missing": (4.0, 5, 5.0),
    "for the debt too": (-2.0, 1, 15.0),
    "until it is full for more than it holds": (11.0, 100, 5.0),
    "none for more than it holds when it is full": (12.0, 100, 0.0),
}


@pytest.mark.parametrize(("tokens", "amount", "seconds"), WAITS.values(), ids=WAITS.keys())
def test_the_wait_for_a_bucket_of_12_in_60_seconds(tokens: float, amount: float, seconds: float) -> None:
    assert waiting_time(tokens, amount, capacity=12, window=60) == seconds


@pytest.mark.torture
@examples()
@given(tokens=_levels, updated_at=_seconds, now=_seconds, capacity=_capacities, window=_windows)
def test_a_bucket_never_runs_over_and_never_loses(
    tokens: float, updated_at: float, now: float, capacity: int, window: float
) -> None:
    after = Bucket(tokens, updated_at, capacity, window)
    after.refill(now)
    assert min(tokens, capacity) <= after.tokens <= capacity
    assert after.updated_at == max(now, updated_at)
    if now <= updated_at:
        assert after.tokens == min(tokens, capacity)


@pytest.mark.torture
@examples()
@given(tokens=_levels, amount=st.integers(0, 10**9), capacity=_capacities, window=_windows)
def test_waiting_exactly_so_long_makes_the_amount_available(
    tokens: float, amount: int, capacity: int, window: float
) -> None:
    tokens = min(tokens, capacity)
    wait = waiting_time(tokens, amount, capacity=capacity, window=window)
    assert wait >= 0
    rounding = 1e-8 * max(1.0, abs(tokens), float(capacity))  # floats are as coarse as that
    missing = min(amount, capacity) - tokens
    assert wait == 0 or missing > 0
    assert wait > 0 or missing <= rounding
    assert Bucket(tokens, 0.0, capacity, window).refill(wait) >= min(amount, capacity) - rounding
    if missing > 1000 * rounding:
        sooner = Bucket(tokens, 0.0, capacity, window).refill(wait * 0.99)
        assert waiting_time(sooner, amount, capacity=capacity, window=window) > 0


@pytest.mark.torture
@examples()
@given(tokens=_levels, steps=st.lists(st.floats(0, 100), max_size=10), capacity=st.integers(1, 1000), window=_windows)
def test_reading_often_does_not_change_the_level(
    tokens: float, steps: list[float], capacity: int, window: float
) -> None:
    bucket = Bucket(tokens, 0.0, capacity, window)
    bucket.refill(0.0)
    for step in steps:
        bucket.refill(bucket.updated_at + step)
    at_once = Bucket(tokens, 0.0, capacity, window).refill(bucket.updated_at)
    assert bucket.tokens == pytest.approx(at_once, rel=1e-9, abs=1e-6 * max(1.0, abs(tokens) * 1e-6))
