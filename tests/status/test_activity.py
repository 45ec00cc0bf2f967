"""What the status page collects: counted right, without content, and bounded whatever callers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import http_scope
from support.counts import examples

from bud_asgi import Exchange, Limit, Principal, Target, Usage
from bud_asgi.attempt import Attempt, AttemptEnd
from bud_asgi.protocol.errors import Outcome
from bud_asgi.status import activity as module
from bud_asgi.status.activity import STEPS, Activity, Use

NOW = 1_800_000_000.0


def settled(
    principal: str | None = "ci",
    *,
    outcome: Outcome = "answered",
    status: int = 200,
    error: str | None = None,
    tokens: int = 0,
    refused_by: Limit | None = None,
) -> Exchange:
    """The record of a finished request."""
    exchange = Exchange.of(http_scope([]))
    exchange.principal = None if principal is None else Principal(id=principal)
    exchange.outcome, exchange.status, exchange.error_type, exchange.refused_by = outcome, status, error, refused_by
    exchange.usage = Usage(input_tokens=tokens, output_tokens=1) if tokens else None
    return exchange


def test_use_is_added_up_by_caller_and_the_largest_come_first() -> None:
    activity = Activity(clock=lambda: NOW)
    for name, tokens in (("small", 10), ("large", 1000), ("small", 5)):
        activity.settled(settled(name, tokens=tokens))
    activity.settled(settled("small", outcome="refused", status=429))
    activity.settled(settled(None, outcome="refused", status=401))
    first, rest = activity.callers(1)
    assert [(one.principal.id, one.use) for one in first] == [("large", Use(1, 0, 1000, 1))]
    assert rest == Use(3, 1, 15, 2)
    assert [one.principal.id for one in activity.recent_callers(5)] == ["small", "large"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=80))
@examples(30)
def test_callers_are_bounded_and_no_use_is_lost(requests: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_CALLERS", 8)
        activity = Activity(clock=lambda: NOW)
        for number, tokens in requests:
            activity.settled(settled(f"caller-{number}", tokens=tokens))
            assert len(activity._callers) <= 8
        first, rest = activity.callers(5)
    assert len(first) <= 5
    total = Use()
    for one in (*(caller.use for caller in first), rest):
        total.add(one)
    assert (total.requests, total.input_tokens) == (len(requests), sum(tokens for _, tokens in requests))


def test_equal_refusals_are_one_row_so_that_a_flood_leaves_the_others() -> None:
    activity = Activity(clock=lambda: NOW)
    limit = Limit("requests", 60)
    activity.settled(settled(outcome="refused", status=429, error="rate_limit_error", refused_by=limit))
    for _ in range(2000):
        activity.settled(settled(None, outcome="refused", status=401, error="authentication_error"))
    activity.settled(settled("other", outcome="upstream_failed", status=200))
    rows = [(one.status, one.principal, one.limit, one.count) for one in activity.refusals()]
    assert rows == [
        (200, "other", None, 1),
        (401, None, None, 2000),
        (429, "ci", "60 requests per minute", 1),
    ]


def test_refusals_are_bounded_and_names_are_cut() -> None:
    activity = Activity(clock=lambda: NOW)
    for number in range(120):
        activity.settled(settled(f"{number}\u202e" + "x" * 10_000, outcome="refused", status=400, error="y" * 500))
    rows = activity.refusals()
    assert len(rows) == 50
    assert rows[0].principal is not None
    assert rows[0].principal.startswith("119\\u202exxx")
    assert len(rows[0].principal) < 100


@pytest.mark.parametrize(
    ("kind", "shown"), [("overloaded_error", "overloaded_error"), ("CANARY of the upstream", "other"), (None, "")]
)
def test_an_error_is_shown_by_its_type_and_never_in_the_words_of_an_upstream(kind: str | None, shown: str) -> None:
    activity = Activity(clock=lambda: NOW)
    activity.settled(settled(outcome="answered", status=418, error=kind))
    assert [row.error for row in activity.refusals()] == [shown]


ENDS: dict[AttemptEnd, tuple[int, int]] = {
    "answered": (1, 0),
    "overloaded": (0, 1),
    "not_sent": (0, 1),
    "broken": (0, 1),
    "client_gone": (0, 0),
    "cancelled": (0, 0),
}


@pytest.mark.parametrize(("end", "expected"), ENDS.items(), ids=ENDS.keys())
def test_an_attempt_is_in_the_history_of_its_target(end: AttemptEnd, expected: tuple[int, int]) -> None:
    activity = Activity(clock=lambda: NOW)
    attempt = Attempt(Target("a", "m"), started=1.0, first_event=1.5, end=end)
    activity.attempt_ended(settled(), attempt)
    step = activity.history("a", "m")[-1]
    assert step is not None
    assert (step.events, step.failed) == expected
    assert step.seconds == 0.5 * expected[0]
    assert activity.history("b", None) == ()


def test_the_history_is_ten_minutes_long_and_forgets_what_is_older() -> None:
    now = NOW
    activity = Activity(clock=lambda: now)
    for _ in range(200):
        activity.attempt_ended(settled(), Attempt(Target("a"), started=1.0, first_event=1.5, end="answered"))
        now += 7.0
    now -= 7.0
    steps = activity.history("a", None)
    assert len(steps) == STEPS
    assert all(steps)
    now += 595.0
    assert [step is not None for step in activity.history("a", None)] == [True] + [False] * 59
    now += 10.0
    assert not any(activity.history("a", None))


def test_the_number_of_histories_is_bounded() -> None:
    activity = Activity(clock=lambda: NOW)
    for number in range(2 * module.MAX_TARGETS):
        activity.attempt_ended(settled(), Attempt(Target("a", f"m{number}"), end="not_sent"))
    assert len(activity._history) == module.MAX_TARGETS
