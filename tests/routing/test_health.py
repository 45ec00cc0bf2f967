"""The health of a target: its breaker, its pauses, its probes, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.routing.health import WINDOW, Call, Health, Verdict
from bud_asgi.sliding_count import SlidingCount
from bud_asgi.state import Availability
from routing.test_headroom import LATER, NOW, limits

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Step = tuple[float, Verdict] | tuple[float, Verdict, float]
"""A call that begins and ends at a time, with its verdict and the upstream's `retry-after`."""


def after(*steps: Step) -> Health:
    """A target after calls one by one."""
    health = Health()
    for now, verdict, *retry_after in steps:
        health.end(health.begin(now), now, verdict, *retry_after)
    return health


def failed(count: int, now: float = 0.0) -> tuple[Step, ...]:
    step: Step = (now, "failed")
    return (step,) * count


def succeeded(count: int, now: float = 0.0) -> tuple[Step, ...]:
    step: Step = (now, "ok")
    return (step,) * count


STATES: dict[str, tuple[Sequence[Step], float, Availability, str]] = {
    "without calls": ((), 0.0, "up", ""),
    "after four failures": (failed(4), 0.0, "up", ""),
    "after five failures": (failed(5), 0.0, "down", "5 calls in a row failed"),
    "until five seconds have passed": (failed(5), 4.9, "down", "5 calls in a row failed"),
    "when five seconds have passed": (failed(5), 5.0, "probing", "5 calls in a row failed"),
    "long after the failures": (failed(5), 1e9, "probing", "5 calls in a row failed"),
    "with a success between failures": ((*failed(4), *succeeded(1), *failed(4)), 0.0, "up", ""),
    "with calls that are neutral between failures": (
        (*failed(3), (0.0, "neutral"), (0.0, "missing"), (0.0, "busy"), *failed(2)),
        0.0,
        "down",
        "5 calls in a row failed",
    ),
    "with half of nine calls failed": ((*succeeded(4), *failed(4), *succeeded(1)), 0.0, "up", ""),
    "with half of ten calls failed": (
        (*succeeded(5), *failed(5)),
        0.0,
        "down",
        "5 calls in a row failed",
    ),
    "with half of ten calls failed, never five in a row": (
        (*succeeded(4), *failed(4), *succeeded(1), *failed(1)),
        0.0,
        "down",
        "5 of 10 calls within 30 seconds failed",
    ),
    "with less than half failed": ((*succeeded(6), *failed(4), *succeeded(1), *failed(1)), 0.0, "up", ""),
    "with half failed, over a longer time": (
        (*succeeded(4), *failed(4), *succeeded(1, 20.0), *failed(1, 30.0)),
        30.0,
        "up",
        "",
    ),
    "after a success of the probe": ((*failed(5), *succeeded(1, 5.0)), 5.0, "up", ""),
    "after a failure of the probe": ((*failed(5), *failed(1, 5.0)), 14.9, "down", "5 calls in a row failed"),
    "ten seconds after a failure of the probe": (
        (*failed(5), *failed(1, 5.0)),
        15.0,
        "probing",
        "5 calls in a row failed",
    ),
    "after a success while it is down": ((*failed(5), *succeeded(1, 1.0)), 1.0, "up", ""),
    "after a neutral probe": ((*failed(5), (5.0, "neutral")), 5.0, "probing", "5 calls in a row failed"),
    "after four failures once it is back": ((*failed(5), *succeeded(2, 5.0), *failed(4, 5.0)), 5.0, "up", ""),
    "busy for a time": (((0.0, "busy", 42.0),), 41.9, "down", "rate limited or overloaded"),
    "busy until that time": (((0.0, "busy", 42.0),), 42.0, "up", ""),
    "busy for ever": (((0.0, "busy", inf),), 600.0, "up", ""),
    "busy for no number": (((0.0, "busy", nan),), 0.0, "up", ""),
    "busy for less than nothing": (((0.0, "busy", -1.0),), 0.0, "up", ""),
    "busy for a shorter time later": (
        ((0.0, "busy", 42.0), (1.0, "busy", 2.0)),
        41.0,
        "down",
        "rate limited or overloaded",
    ),
    "busy for a time, with a success in it": (
        ((0.0, "busy", 42.0), (1.0, "ok")),
        2.0,
        "down",
        "rate limited or overloaded",
    ),
    "busy without a time": (((0.0, "busy"),), 0.9, "down", "rate limited or overloaded"),
    "busy without a time, a second later": (((0.0, "busy"),), 1.0, "up", ""),
    "busy without a time, with a success in it": (((0.0, "busy"), (0.5, "ok")), 0.5, "up", ""),
    "busy again": (((0.0, "busy"), (1.0, "busy")), 2.9, "down", "rate limited or overloaded"),
    "busy again, two seconds later": (((0.0, "busy"), (1.0, "busy")), 3.0, "up", ""),
    "busy again after a success": (((0.0, "busy"), (1.0, "ok"), (1.0, "busy")), 2.0, "up", ""),
    "with a refused credential": (((0.0, "credential"),), 29.9, "down", "the credential was refused"),
    "with a refused credential, 30 seconds later": (
        ((0.0, "credential"),),
        30.0,
        "probing",
        "the credential was refused",
    ),
    "with a credential that is refused again": (
        ((0.0, "credential"), (30.0, "credential")),
        59.9,
        "down",
        "the credential was refused",
    ),
    "with a credential that is refused and a failed probe": (
        ((0.0, "credential"), (30.0, "failed")),
        60.0,
        "probing",
        "the credential was refused",
    ),
    "with a credential that is accepted again": (((0.0, "credential"), (30.0, "ok")), 30.0, "up", ""),
    "without the model": (((0.0, "missing"),), 59.9, "down", "the target does not serve the model"),
    "without the model, a minute later": (((0.0, "missing"),), 60.0, "up", ""),
    "with the model again": (((0.0, "missing"), (1.0, "ok")), 1.0, "up", ""),
}


@pytest.mark.parametrize(("steps", "now", "state", "reason"), STATES.values(), ids=STATES.keys())
def test_the_state_of_a_target(steps: Sequence[Step], now: float, state: Availability, reason: str) -> None:
    health = after(*steps)
    assert health.state(now) == (state, reason)
    assert health.may_probe(now) is (state == "probing")
    assert health.may_take(now) is (state != "down")
    assert (health.available_at(now) > now) is (state == "down")


def test_each_failed_probe_doubles_the_time_up_to_a_minute() -> None:
    health, now, times = after(*failed(5)), 0.0, list[float]()
    for _ in range(6):
        times.append(health.available_at(now) - now)
        now = health.available_at(now)
        health.end(health.begin(now), now, "failed")
    assert times == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    health.end(health.begin(now), now, "ok")
    for _ in range(5):
        health.end(health.begin(now), now, "failed")
    assert health.available_at(now) == now + 5.0


def test_each_busy_reply_doubles_the_pause_up_to_half_a_minute() -> None:
    health, now, times = after((0.0, "busy")), 0.0, list[float]()
    for _ in range(7):
        times.append(health.available_at(now) - now)
        now = health.available_at(now)
        health.end(health.begin(now), now, "busy")
    assert times == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("verdict", "until"), [("failed", 5.0), ("busy", 1.0), ("credential", 30.0), ("missing", 60.0)]
)
def test_calls_that_fail_together_count_once(verdict: Verdict, until: float) -> None:
    health = Health()
    for call in [health.begin(0.0) for _ in range(50)]:
        health.end(call, 0.0, verdict)
    assert health.available_at(0.0) == until


def test_a_call_from_before_the_outage_does_not_end_it() -> None:
    health = Health()
    early, answered = health.begin(0.0), health.begin(0.0)
    for _ in range(5):
        health.end(health.begin(0.0), 0.0, "failed")
    health.end(early, 1.0, "ok")
    health.first_byte(answered, 1.0, 1.0)
    assert health.state(1.0)[0] == "down"


@pytest.mark.parametrize("verdict", ["busy", "missing"])
def test_a_call_from_before_a_pause_does_not_end_it(verdict: Verdict) -> None:
    health = Health()
    early = health.begin(0.0)
    health.end(health.begin(0.0), 0.0, verdict)
    health.end(early, 0.5, "ok")
    assert health.state(0.5)[0] == "down"
    if verdict == "busy":
        health.end(health.begin(1.0), 1.0, verdict)
        assert health.available_at(1.0) == 3.0


def test_a_call_from_before_the_recovery_does_not_count_against_it() -> None:
    health = Health()
    early = [health.begin(0.0) for _ in range(10)]
    for _ in range(5):
        health.end(health.begin(0.0), 0.0, "failed")
    early += [health.begin(1.0) for _ in range(10)]
    health.end(health.begin(5.0), 5.0, "ok")
    for call in early:
        health.end(call, 6.0, "failed")
    assert health.state(6.0) == ("up", "")


WINDOWS: dict[str, tuple[Sequence[float], float, int]] = {
    "nothing": ((), 0.0, 0),
    "within a bucket": ((0.0, 1.0, 4.9), 4.9, 3),
    "over several buckets": ((0.0, 5.0, 12.0, 29.0), 29.0, 4),
    "a bucket that has become too old": ((0.0, 26.0), 30.0, 1),
    "a bucket that has become too old at the next call": ((0.0, 10.0, 32.0), 32.0, 2),
    "a clock that went back": ((3600.0, 3601.0, 0.0), 0.0, 1),
    "a clock that went back a little": ((10.0, 16.0, 14.0), 14.0, 2),
    "a clock that went back, and on again": ((3600.0, 0.0, 3600.0), 3600.0, 1),
}


@pytest.mark.parametrize(("times", "now", "calls"), WINDOWS.values(), ids=WINDOWS.keys())
def test_the_calls_of_the_last_30_seconds(times: Sequence[float], now: float, calls: int) -> None:
    count = SlidingCount(WINDOW, 6)
    for time in times:
        count.add(time)
    assert count.total(now) == calls


def test_one_call_at_a_time_is_the_probe() -> None:
    health = after(*failed(5))
    probe = health.begin(5.0)
    assert (health.may_probe(5.0), health.may_take(5.0), health.is_probing) == (False, False, True)
    other = health.begin(5.0)
    health.end(other, 6.0, "neutral")
    assert not health.may_probe(6.0)
    health.end(probe, 7.0, "neutral")
    assert health.may_probe(7.0)


def test_the_first_byte_of_a_probe_closes_the_breaker() -> None:
    health = after(*failed(5))
    probe = health.begin(5.0)
    health.first_byte(probe, 6.0, 1.0)
    assert (health.state(6.0), health.is_probing) == (("up", ""), False)
    for _ in range(5):
        health.end(health.begin(6.0), 6.0, "failed")
    assert health.may_probe(11.0)  # although the stream of the former probe still runs
    health.end(probe, 60.0, "ok")
    assert health.state(60.0)[0] == "probing"


def test_a_stream_counts_as_a_success_when_it_begins() -> None:
    health = Health()
    streams = [health.begin(0.0) for _ in range(20)]
    for stream in (*streams, *streams):
        health.first_byte(stream, 1.0, 1.0)
    for now in (2.0, 3.0, 4.0):
        for _ in range(4):
            health.end(health.begin(now), now, "failed")
        health.first_byte(health.begin(now), now, 1.0)
    assert health.state(4.0) == ("up", "")
    for stream in streams:
        health.end(stream, 5.0, "ok")
    assert (health._recent.total(5.0), health._recent_failures.total(5.0)) == (35, 12)


def test_streams_that_all_break_open_the_breaker() -> None:
    health = Health()
    for now in range(5):
        stream = health.begin(now)
        health.first_byte(stream, now, 0.1)
        health.end(stream, now, "failed")
    assert health.state(5.0) == ("down", "5 of 10 calls within 30 seconds failed")


def test_a_call_ends_once() -> None:
    health = Health()
    call = health.begin(0.0)
    assert health.in_flight == 1
    health.end(call, 0.0, "failed")
    health.end(call, 0.0, "failed")
    assert (health.in_flight, health.calls, health.failures) == (0, 1, 1)


def test_a_full_target_takes_no_call() -> None:
    health = Health(2)
    calls = [health.begin(0.0), health.begin(0.0)]
    assert (health.is_full, health.may_take(0.0), health.state(0.0)) == (
        True,
        False,
        ("up", "all of its 2 calls are running"),
    )
    health.end(calls[0], 0.0, "ok")
    assert (health.is_full, health.may_take(0.0)) == (False, True)


def test_the_time_to_the_first_byte_is_a_moving_average() -> None:
    health, seen = Health(), list[float | None]()
    for seconds in (1.0, 2.0, -5.0):
        seen.append(health.first_byte_seconds)
        health.first_byte(health.begin(0.0), 0.0, seconds)
    assert seen == [None, 1.0, 1.2]
    assert health.first_byte_seconds == pytest.approx(0.96)


def test_an_average_counts_half_as_much_a_minute_after_its_last_change() -> None:
    health = Health()
    health.first_byte(health.begin(0.0), 0.0, 8.0)
    assert [health.first_byte_weight(now) for now in (-5.0, 0.0, 60.0, 180.0)] == [1.0, 1.0, 0.5, 0.125]
    health.first_byte(health.begin(60.0), 60.0, 3.0)
    assert health.first_byte_seconds == pytest.approx(3.0 + 0.4 * 5.0)
    health.first_byte(health.begin(1e6), 1e6, 1.0)
    assert (health.first_byte_seconds, health.first_byte_weight(1e6)) == (1.0, 1.0)


def test_to_wait_in_vain_only_raises_the_average() -> None:
    health = Health()
    health.waited(0.0, 5.0)
    assert health.first_byte_seconds == 5.0
    health.waited(0.0, 4.0)
    assert (health.first_byte_seconds, health.first_byte_weight(60.0)) == (5.0, 0.5)
    health.waited(0.0, 10.0)
    assert health.first_byte_seconds == pytest.approx(6.0)


_events = st.tuples(st.booleans(), st.floats(0.0, 1000.0), st.floats(0.0, 600.0))


@given(st.lists(_events, min_size=1, max_size=30))
@examples(75, 2_000)
def test_the_average_is_between_the_times_that_were_seen(events: Sequence[tuple[bool, float, float]]) -> None:
    health, now, seen = Health(), 0.0, list[float]()
    for in_vain, after_seconds, seconds in events:
        now += after_seconds
        former = health.first_byte_seconds
        if in_vain:
            health.waited(now, seconds)
            assert former is None or (health.first_byte_seconds or 0.0) >= former
        else:
            health.first_byte(health.begin(now), now, seconds)
        seen.append(seconds)
        average = health.first_byte_seconds
        assert average is not None
        assert min(seen) * (1 - 1e-9) <= average <= max(seen) * (1 + 1e-9)
        assert 0.0 <= health.first_byte_weight(now) <= 1.0


Move = tuple[str, int, Verdict, float | None, float]

_times = st.one_of(st.floats(0.0, 3.0), st.floats(0.0, 100.0), st.sampled_from([-3600.0, 3600.0]))
_moves = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "first byte", "end", "end", "limits"]),
        st.integers(0, 5),
        st.sampled_from(VERDICTS),
        st.none() | st.floats(0.0, 1e4),
        _times,
    ),
    max_size=60,
)


def play(health: Health, moves: Sequence[Move], check: Callable[[float, list[Call]], None]) -> None:
    """Make the moves, each some seconds after the one before; the clock may also jump. Check after each."""
    now, running = 0.0, list[Call]()
    for move, index, verdict, retry_after, seconds in moves:
        now += seconds
        call = running[index % len(running)] if running else None
        if move == "begin":
            running.append(health.begin(now))
        elif move == "limits":
            health.note_limits(now, limits(requests=(b"100", b"%d" % index, LATER)), lambda: NOW)
        elif call is not None and move == "first byte":
            health.first_byte(call, now, seconds)
        elif call is not None:
            running.remove(call)
            health.end(call, now, verdict, retry_after)
        check(now, running)


@given(_moves)
@examples(100, 2_000)
def test_the_rules_hold_after_any_calls(moves: Sequence[Move]) -> None:
    health = Health(3)
    former: list[Call | None] = [None]

    def check(now: float, running: list[Call]) -> None:
        assert former[-1] is None or health._probe is None or health._probe is former[-1]  # one probe at a time
        former.append(health._probe)
        assert health.in_flight == len(running)
        assert health._probe is None or health._probe in running
        assert now <= health.available_at(now) <= now + 600.0
        is_up = health.state(now)[0] == "up"
        assert not is_up or not health.may_probe(now)
        if now >= health.clear_from:
            assert is_up
            assert not health.is_nearly_full(now)
        if health._breaker is not None and health._breaker.covers(now) and health._pause is None:
            assert health.available_at(now) <= now + 60.0

    play(health, moves, check)
