"""The headers and the error that report limits to a client."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bud_asgi.limits import Charge, Limit, LimitStatus, RateLimited
from bud_asgi.limits.store import LONGEST_WAIT, limit_headers
from bud_asgi.protocol.errors import error_headers


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is stopped, a fraction past a second."""
    now = datetime(2026, 10, 21, 12, 0, 0, 250_000, UTC).timestamp()
    monkeypatch.setattr("bud_asgi.limits.store.time.time", lambda: now)


def status(remaining: int, full_in: float, limit: Limit | None = None) -> LimitStatus:
    return LimitStatus(Charge(limit or Limit("requests", 60), "a", 1), remaining, full_in)


@pytest.mark.parametrize(
    ("full_in", "reset"),
    [
        (0.0, "2026-10-21T12:00:01Z"),
        (0.75, "2026-10-21T12:00:01Z"),
        (1.0, "2026-10-21T12:00:02Z"),
        (60.0, "2026-10-21T12:01:01Z"),
        (86_400.0, "2026-10-22T12:00:01Z"),
    ],
)
def test_the_headers_are_those_of_the_service(full_in: float, reset: str) -> None:
    assert limit_headers(status(7, full_in)) == [
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"7"),
        (b"anthropic-ratelimit-requests-reset", reset.encode()),
    ]
    assert datetime.strptime(reset, "%Y-%m-%dT%H:%M:%S%z").tzinfo == UTC


WORDS: dict[str, tuple[Limit, str]] = {
    "your own": (Limit("requests", 60), "This request would exceed your rate limit of 60 requests in 60 seconds."),
    "that of all": (
        Limit("requests", 5, 0.5, "all"),
        "This request would exceed the rate limit of 5 requests in 0.5 seconds.",
    ),
    "a day's": (
        Limit("requests", 1000, 86_400.0),
        "This request would exceed your rate limit of 1000 requests in 86400 seconds.",
    ),
}


@pytest.mark.parametrize(("limit", "message"), WORDS.values(), ids=WORDS.keys())
def test_a_refusal_names_the_limit(limit: Limit, message: str) -> None:
    error = RateLimited(status(0, 1.0, limit), 1.0)
    assert (str(error), error.status, error.type) == (message, 429, "rate_limit_error")


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.001, b"1"), (1.0, b"1"), (1.001, b"2"), (59.5, b"60"), (86_400.0, b"86400")]
)
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds: float, header: bytes) -> None:
    error = RateLimited(status(0, 59.75), seconds)
    assert error.retry_after == seconds
    assert error_headers(error) == [
        (b"retry-after", header),
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"0"),
        (b"anthropic-ratelimit-requests-reset", b"2026-10-21T12:01:00Z"),
    ] + ([] if seconds <= LONGEST_WAIT else [(b"x-should-retry", b"false")])


def test_a_long_wait_has_a_time_in_its_message_and_must_not_be_retried() -> None:
    short, long = RateLimited(status(0, 1.0), 60.0), RateLimited(status(0, 1.0), 86_400.0)
    assert (short.retryable, long.retryable) == (None, False)
    assert str(long) == f"{short} The next one can pass at 2026-10-22T12:00:01Z; try again then."
