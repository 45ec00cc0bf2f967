"""After a failed attempt: whether another target is tried, within which budget, and which error the client gets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.attempt import AttemptEnd
from bud_asgi.failover import TRY_NEXT, Failure, RetryBudget, classify, error_to_show, may_try_next, retry_after
from bud_asgi.http import HttpError
from bud_asgi.protocol.errors import GatewayError, InvalidRequest
from bud_asgi.providers import (
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    authentication_failed,
    unavailable,
)


def answered(status: int, **headers: str) -> UpstreamErrorResponse:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return UpstreamErrorResponse(status, b"{}", lines)


def limited_for(status: int, wait: str) -> UpstreamErrorResponse:
    return answered(status, retry_after=wait)


def failures(*ends: AttemptEnd) -> list[Failure]:
    return [Failure(end, GatewayError("x")) for end in ends]


LIMITED = Failure("overloaded", answered(429, retry_after="30"))
LASTING = Failure("overloaded", answered(429, retry_after="3600", x_should_retry="false"))
BUSY = Failure("overloaded", answered(529, retry_after="5"))
FAILED = Failure("overloaded", answered(500))
BRIEF = Failure("overloaded", answered(503, retry_after_ms="1500"))
LOST = Failure("unknown", unavailable(HttpError("reset", "x", sent=True)))
DEAD = Failure("not_sent", unavailable(HttpError("connect", "x")))
DENIED = Failure("denied", authentication_failed())
MISSING = Failure("denied", answered(404))
FORBIDDEN = Failure("denied", answered(403))
LACKING = Failure("unsupported", InvalidRequest("mcp_servers: not supported"))
INVALID = Failure("refused", answered(400))
AGAIN = Failure("refused", answered(400))


SHOWN: dict[str, tuple[Sequence[Failure], Failure, str | None]] = {
    "a rate limit before what was lost": ([LIMITED, LOST], LIMITED, "30"),
    "a rate limit before an overload, with the soonest retry": ([LIMITED, BUSY], LIMITED, "5"),
    "the same in the other order": ([BUSY, LIMITED], LIMITED, "5"),
    "a wait in milliseconds counts": ([LIMITED, BRIEF], LIMITED, "1.5"),
    "a limit that lasts keeps its own wait": ([BUSY, LASTING], LASTING, "3600"),
    "the last of several that are as useful": ([BUSY, FAILED], FAILED, "5"),
    "what can be retried before a dead target": ([FAILED, DEAD], FAILED, None),
    "a dead target before a rejected credential": ([DEAD, DENIED], DEAD, None),
    "a rejected credential before a missing feature": ([LACKING, DENIED], DENIED, None),
    "a missing model before a rejected credential": ([MISSING, DENIED], MISSING, None),
    "a denied permission before a missing model": ([FORBIDDEN, MISSING], FORBIDDEN, None),
    "what can be retried before a missing model": ([FAILED, MISSING], FAILED, None),
    "a verdict on the request before all": ([LIMITED, DEAD, INVALID], INVALID, None),
    "a verdict on the request as it came before one on a changed request": ([INVALID, AGAIN], INVALID, None),
    "the same with another target between": ([INVALID, LIMITED, AGAIN], INVALID, None),
    "a changed request that can be retried": ([INVALID, LIMITED], LIMITED, "30"),
}


@pytest.mark.parametrize(("ended", "shown", "wait"), SHOWN.values(), ids=SHOWN.keys())
def test_the_client_gets_the_most_useful_error(ended: list[Failure], shown: Failure, wait: str | None) -> None:
    before = {id(failure): failure.error.headers for failure in ended}
    try:
        error = error_to_show(ended, 0.0)
        assert error is shown.error
        assert error.headers.get("retry-after") == wait
        assert wait is None or "retry-after-ms" not in error.headers
    finally:
        for failure in ended:
            failure.error.headers = before[id(failure)]


def test_the_only_error_is_shown_as_it_came() -> None:
    error = answered(429, retry_after="7", retry_after_ms="6500")
    assert error_to_show([Failure("overloaded", error)], 0.0) is error
    assert error.headers == {"retry-after": "7", "retry-after-ms": "6500"}


@pytest.mark.parametrize("wait", ["0", "0.5", "17", "1234567", "9999999999", "0.001"])
def test_a_wait_keeps_its_value_in_the_header(wait: str) -> None:
    error = error_to_show([LOST, Failure("overloaded", answered(429, retry_after=wait))], 0.0)
    assert error.headers["retry-after"] == wait


ENDS = st.sampled_from(sorted(TRY_NEXT))
WAITS = st.floats(0, 1e9, allow_nan=False).map(lambda seconds: f"{seconds:.3f}")
ERRORS = st.builds(
    Failure,
    st.sampled_from(["overloaded", "unknown", "not_sent", "denied", "unsupported"]),
    st.builds(limited_for, st.sampled_from([401, 408, 429, 500, 529]), WAITS),
)


@examples(50, 2_000)
@given(st.lists(ERRORS, min_size=2, max_size=3))
def test_a_retry_after_is_the_soonest_of_all(ended: list[Failure]) -> None:
    soonest = min(float(failure.error.headers["retry-after"]) for failure in ended)
    shown = error_to_show(ended, 0.0)
    assert any(shown is failure.error for failure in ended)
    assert float(shown.headers["retry-after"]) == pytest.approx(soonest, abs=0.001)
    assert "e" not in shown.headers["retry-after"]
    assert shown.status == 429 or all(failure.error.status != 429 for failure in ended)


WAITING: dict[str, tuple[dict[str, str], float | None]] = {
    "none": ({}, None),
    "seconds": ({"retry-after": "30"}, 30.0),
    "a fraction": ({"retry-after": "0.5"}, 0.5),
    "milliseconds, which are more exact": ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
    "a date": ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 7.0),
    "a date that has passed": ({"retry-after": "Sun, 06 Nov 1994 08:49:00 GMT"}, 0.0),
    "a date that does not exist": ({"retry-after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
    "nothing": ({"retry-after": ""}, None),
    "a point": ({"retry-after": "."}, None),
    "a negative number": ({"retry-after": "-1"}, None),
    "a digit that is none of ASCII's": ({"retry-after": "\u00b2"}, None),
}


@pytest.mark.parametrize(("headers", "seconds"), WAITING.values(), ids=WAITING.keys())
def test_a_wait_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(GatewayError("x", headers=headers), 784_111_770.0) == seconds


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("translated", [False, True], ids=["an error object", "an error in another form"])
def test_no_advice_moves_a_clients_rejected_credential_on(status: int, translated: bool) -> None:
    error: GatewayError = answered(status, x_should_retry="true")
    if translated:
        error = TranslatedUpstreamError("no", status=status, type_="x", upstream_message="x", credential=True)
        error.headers = {"x-should-retry": "true"}
    assert classify(error, committed=False, own_credential=False) == "refused"


NEXT: dict[str, tuple[Sequence[AttemptEnd], bool]] = {
    **{f"after {end}": ((end,), following) for end, following in TRY_NEXT.items()},
    "after two unknown outcomes": (("unknown", "unknown"), False),
    "after two with another between": (("unknown", "overloaded", "unknown"), False),
    "after an unknown outcome and an overload": (("unknown", "overloaded"), True),
    "after an unknown outcome and a dead target": (("unknown", "not_sent"), True),
    "after an overload and an unknown outcome": (("overloaded", "unknown"), True),
}


@pytest.mark.parametrize(("ends", "following"), NEXT.values(), ids=NEXT.keys())
def test_another_target_is_tried_by_the_table(ends: Sequence[AttemptEnd], following: bool) -> None:
    assert may_try_next(failures(*ends), RetryBudget(), 10.0, 70.0) is following


@pytest.mark.parametrize("end", [end for end, following in TRY_NEXT.items() if following])
def test_no_target_is_tried_after_the_deadline(end: AttemptEnd) -> None:
    assert may_try_next(failures(end), RetryBudget(), 69.9, 70.0)
    assert not may_try_next(failures(end), RetryBudget(), 70.0, 70.0)


@pytest.mark.parametrize("end", ["unsupported", "not_sent", "denied"])
def test_what_adds_no_load_is_free_of_the_budget(end: AttemptEnd) -> None:
    budget = RetryBudget(floor=0)
    assert all(may_try_next(failures(end), budget, 0.0, 60.0) for _ in range(100))
    assert not may_try_next(failures("overloaded"), budget, 0.0, 60.0)


def test_what_is_not_tried_takes_nothing_of_the_budget() -> None:
    budget = RetryBudget(floor=1)
    assert not may_try_next(failures("unknown", "unknown"), budget, 0.0, 60.0)
    assert not may_try_next(failures("unknown"), budget, 0.0, 60.0, on_unknown=False)
    assert not may_try_next(failures("overloaded"), budget, 60.0, 60.0)
    assert may_try_next(failures("overloaded"), budget, 0.0, 60.0)


def test_a_retry_that_succeeds_is_given_back() -> None:
    budget = RetryBudget()
    for second in range(1000):
        assert budget.take(second / 10)
        budget.give_back(second / 10)
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_given_back_late_adds_nothing() -> None:
    budget = RetryBudget()
    assert budget.take(0.0)
    budget.give_back(300.0)
    assert [budget.take(300.0) for _ in range(4)] == [True, True, True, False]


def test_the_budget_is_a_tenth_of_the_attempts_and_three_at_least() -> None:
    budget = RetryBudget()
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    for _ in range(49):
        budget.count(1.0)
    assert [budget.take(1.0) for _ in range(2)] == [True, False]
    budget.count(1.0)
    assert [budget.take(1.0) for _ in range(2)] == [True, False]


def test_the_budget_forgets_what_is_older_than_a_minute() -> None:
    budget = RetryBudget()
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.take(50.0)
    assert budget.take(60.0)


STEPS = st.lists(st.tuples(st.sampled_from(["count", "take"]), st.floats(0, 20)), max_size=150)


@examples(50, 2_000)
@given(STEPS, st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5]))
def test_at_no_time_are_retries_over_the_budget(steps: list[tuple[str, float]], floor: int, share: float) -> None:
    budget, now = RetryBudget(share=share, floor=floor), 0.0
    attempts, retries = list[float](), list[float]()
    for step, passed in steps:
        now += passed
        if step == "count":
            budget.count(now)
            attempts.append(now)
            continue
        begin = (now // 6 - 9) * 6  # the minute is counted in tenths
        allowed = max(floor, share * sum(at >= begin for at in attempts))
        fits = sum(at >= begin for at in retries) + 1 <= allowed
        assert budget.take(now) is fits
        retries += [now] * fits


@examples(20, 2_000)
@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_a_budget_without_failures_stays_small(times: list[float]) -> None:
    budget = RetryBudget()
    for now in sorted(times):
        budget.count(now)
    assert len(budget._attempts._older) <= 10


def test_an_error_without_a_class_of_its_own_sent_nothing() -> None:
    assert classify(UpstreamUnavailable("x"), committed=False) == "unknown"
    assert classify(InvalidRequest("x"), committed=False) == "unsupported"
