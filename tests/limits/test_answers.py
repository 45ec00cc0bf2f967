"""How limits appear in responses: headers, and the error of a refusal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bud_asgi.exchange import Exchange
from bud_asgi.limit import LONGEST_WAIT, Limit
from bud_asgi.limits import Charge, LimitStatus, RateLimited
from bud_asgi.limits.answers import headers_of, headers_of_statuses
from bud_asgi.protocol.errors import error_headers

REQUESTS = Limit("requests", 60)
NAMES = ("limit", "remaining", "reset")


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is stopped, a fraction past a second."""
    now = datetime(2026, 10, 21, 12, 0, 0, 250_000, UTC).timestamp()
    monkeypatch.setattr("bud_asgi.limits.answers.time.time", lambda: now)


def status(used: float, limit: Limit = REQUESTS) -> LimitStatus:
    return LimitStatus(Charge(limit, "a", 1), used)


def lines(family: str, *values: str) -> list[tuple[bytes, bytes]]:
    names = [f"anthropic-ratelimit-{family}-{name}".encode() for name in NAMES]
    return list(zip(names, [value.encode() for value in values], strict=True))


FIGURES: dict[str, tuple[Limit, float, tuple[str, str, str]]] = {
    "unused": (REQUESTS, 0.0, ("60", "60", "2026-10-21T12:00:01Z")),
    "a fraction": (REQUESTS, 0.75, ("60", "59", "2026-10-21T12:00:01Z")),
    "one": (REQUESTS, 1.0, ("60", "59", "2026-10-21T12:00:02Z")),
    "rounded by the arithmetic": (REQUESTS, 1.000000001, ("60", "59", "2026-10-21T12:00:02Z")),
    "all": (REQUESTS, 60.0, ("60", "0", "2026-10-21T12:01:01Z")),
    "debt": (REQUESTS, 90.0, ("60", "0", "2026-10-21T12:01:31Z")),
    "a day": (Limit("requests", 24, 86_400.0), 24.0, ("24", "0", "2026-10-22T12:00:01Z")),
    "centuries": (Limit("requests", 1, 1e9), 1000.0, ("1", "0", "9999-12-31T23:59:59Z")),
}


@pytest.mark.parametrize(("limit", "used", "values"), FIGURES.values(), ids=FIGURES.keys())
def test_the_headers_are_those_of_the_service(limit: Limit, used: float, values: tuple[str, str, str]) -> None:
    assert headers_of_statuses([status(used, limit)]) == lines("requests", *values)
    reset = datetime.strptime(values[2], "%Y-%m-%dT%H:%M:%S%z")
    assert reset.tzinfo == UTC
    left = LimitStatus(Charge(limit, "a", 1), used)
    assert (str(left.remaining), left.full_in) == (values[1], used / limit.rate)


def test_each_kind_has_its_headers_and_of_each_the_tightest_limit_is_reported() -> None:
    statuses = [
        status(10, Limit("requests", 1000)),
        status(50, REQUESTS),
        status(0, Limit("requests", 11, 1.0, "team")),
        status(100, Limit("input_tokens", 1000)),
        status(99, Limit("output_tokens", 100)),
        status(500, Limit("tokens", 1000)),
    ]
    assert headers_of_statuses(statuses) == [
        *lines("requests", "60", "10", "2026-10-21T12:00:51Z"),
        *lines("input-tokens", "1000", "900", "2026-10-21T12:00:07Z"),
        *lines("output-tokens", "100", "1", "2026-10-21T12:01:00Z"),
        *lines("tokens", "1000", "500", "2026-10-21T12:00:31Z"),
    ]


def region(exchange: Exchange) -> str | None:
    return exchange.method


@pytest.mark.parametrize(
    ("limit", "reported"),
    [
        (Limit("requests", 5), True),
        (Limit("requests", 5, per="team"), True),
        (Limit("requests", 5, per=region), True),
        (Limit("requests", 5, per="model"), False),
        (Limit("requests", 5, per="all"), False),
        (Limit("requests", 5, mode="observe"), False),
        (Limit("concurrent", 5), False),
    ],
    ids=["principal", "team", "function", "model", "all", "observed", "concurrent"],
)
def test_only_limits_in_force_that_are_the_callers_own_have_headers(limit: Limit, *, reported: bool) -> None:
    """The others would report what other callers do."""
    assert (headers_of(limit) is not None) == bool(headers_of_statuses([status(1, limit)])) == reported
    refusal = RateLimited(status(5, limit), 1.0, [status(60)])
    assert refusal.headers["anthropic-ratelimit-requests-limit"] == ("5" if reported else "60")


def test_without_limits_there_are_no_headers() -> None:
    assert headers_of_statuses([]) == []


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0.001, b"1"), (1.0, b"1"), (1.001, b"2"), (59.5, b"60"), (60.0, b"60"), (86_400.0, b"86400")],
)
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds: float, header: bytes) -> None:
    error = RateLimited(status(60.0), seconds)
    assert (error.status, error.type, error.retry_after) == (429, "rate_limit_error", seconds)
    hopeless = [(b"x-should-retry", b"false")] if seconds > LONGEST_WAIT else []
    assert error_headers(error) == [
        (b"retry-after", header),
        *lines("requests", "60", "0", "2026-10-21T12:01:01Z"),
        *hopeless,
    ]


def test_only_a_refusal_for_longer_than_clients_wait_must_not_be_retried() -> None:
    assert [RateLimited(status(60), wait).retryable for wait in (1.0, 60.0, 60.001)] == [None, None, False]


WHOSE: dict[str, Limit] = {
    "your rate limit of 60 requests per minute": REQUESTS,
    "your team's rate limit of 5 tokens per hour": Limit("tokens", 5, 3600.0, "team"),
    "the rate limit of 5 requests in 0.5 seconds": Limit("requests", 5, 0.5, "all"),
    "the rate limit of 1,000 input tokens per day": Limit("input_tokens", 1000, 86_400.0, region),
    "your rate limit of 2 concurrent requests": Limit("concurrent", 2),
}


@pytest.mark.parametrize("words", WHOSE)
def test_a_refusal_names_the_limit(words: str) -> None:
    assert str(RateLimited(status(1, WHOSE[words]), 1.0)).startswith(f"This request would exceed {words}. ")


def test_a_refusal_says_when_there_is_room() -> None:
    first = "This request would exceed your rate limit of 60 requests per minute. "
    ends = {
        seconds: str(RateLimited(status(60), seconds)).removeprefix(first) for seconds in (0.5, 1.5, 60.0, 86_400.0)
    }
    assert ends[0.5] == "Try again in 1 second."
    assert ends[1.5] == "Try again in 2 seconds."
    assert ends[60.0] == "Try again in 60 seconds."
    assert ends[86_400.0] == "Try again at 2026-10-22T12:00:01Z."


def test_a_refusal_for_concurrency_names_no_time() -> None:
    error = RateLimited(status(2, Limit("concurrent", 2)), 1.0)
    assert str(error).endswith(" of 2 concurrent requests. Try again when one of the running requests has ended.")
    assert error.headers == {"retry-after": "1"}
