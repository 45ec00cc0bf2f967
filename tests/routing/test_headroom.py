"""The headroom of a target: the rate-limit headers of its replies, and when they make it nearly full."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from bud_asgi.routing.headroom import shortage_of
from bud_asgi.routing.health import Health

NOW = 1_800_000_000.0
AT_NOW = b"2027-01-15T08:00:00Z"
LATER = b"2027-01-15T08:01:30Z"


def limits(**kinds: tuple[bytes, bytes, bytes]) -> dict[bytes, bytes]:
    """Rate-limit headers: the limit, what remains, and the reset, by kind."""
    return {
        b"anthropic-ratelimit-%b-%b" % (kind.replace("_", "-").encode(), name): value
        for kind, values in kinds.items()
        for name, value in zip((b"limit", b"remaining", b"reset"), values, strict=True)
    }


SHORTAGES: dict[str, tuple[dict[bytes, bytes], float]] = {
    "no headers": ({}, 0.0),
    "other headers": ({b"anthropic-ratelimit-unified-status": b"allowed"}, 0.0),
    "much is left": (limits(requests=(b"100", b"99", LATER), tokens=(b"100", b"50", LATER)), 0.0),
    "exactly 5 % is left": (limits(requests=(b"100", b"5", LATER)), 0.0),
    "less than 5 % of the requests": (limits(requests=(b"100", b"4", LATER)), 90.0),
    "less than 5 % of the tokens": (limits(requests=(b"100", b"99", LATER), tokens=(b"100", b"0", LATER)), 90.0),
    "less than 5 % of the input tokens": (limits(input_tokens=(b"100", b"0", LATER)), 90.0),
    "less than 5 % of the output tokens": (limits(output_tokens=(b"100", b"0", LATER)), 90.0),
    "the later of two": (limits(requests=(b"100", b"0", LATER), tokens=(b"100", b"0", AT_NOW)), 90.0),
    "a reset that is over": (limits(requests=(b"100", b"0", b"2020-01-01T00:00:00Z")), 0.0),
    "a reset in another zone": (limits(requests=(b"100", b"0", b"2027-01-15T10:01:30+02:00")), 90.0),
    "a reset without a zone": (limits(requests=(b"100", b"0", b"2027-01-15T08:01:30")), 90.0),
    "a reset that is no time": (limits(requests=(b"100", b"0", b"soon")), 0.0),
    "a reset that is no ASCII": (limits(requests=(b"100", b"0", b"\xff")), 0.0),
    "a reset too early for a time": (limits(requests=(b"100", b"0", b"0001-01-01T00:00:00+14:00")), 0.0),
    "without a reset": (
        {b"anthropic-ratelimit-requests-limit": b"9", b"anthropic-ratelimit-requests-remaining": b"0"},
        0.0,
    ),
    "without a remainder": ({b"anthropic-ratelimit-requests-limit": b"9"}, 0.0),
    "a limit that is no number": (limits(requests=(b"many", b"0", LATER)), 0.0),
    "a remainder that is no number": (limits(requests=(b"100", b"none", LATER)), 0.0),
    "a number of thousands of digits": (limits(requests=(b"9" * 5000, b"0", LATER)), 0.0),
    "a limit of nothing": (limits(requests=(b"0", b"0", LATER)), 0.0),
}


@pytest.mark.parametrize(("headers", "seconds"), SHORTAGES.values(), ids=SHORTAGES.keys())
def test_the_shortage_that_the_headers_of_a_reply_show(headers: dict[bytes, bytes], seconds: float) -> None:
    assert shortage_of(headers, lambda: NOW) == seconds


def test_the_wall_clock_is_not_read_while_much_is_left() -> None:
    never = cast("Callable[[], float]", None)
    assert shortage_of(limits(requests=(b"100", b"99", LATER)), never) == 0.0


def test_a_target_near_its_limit_is_nearly_full_until_the_reset() -> None:
    health = Health()
    health.note_limits(10.0, limits(requests=(b"100", b"4", LATER)), lambda: NOW)
    reason = "less than 5 % of the upstream's rate limit is left"
    assert (health.is_nearly_full(99.9), health.is_nearly_full(100.0)) == (True, False)
    assert (health.state(10.0), health.state(100.0)) == (("up", reason), ("up", ""))
    assert health.clear_from == 100.0


def test_a_later_reply_ends_the_shortage() -> None:
    health = Health()
    health.note_limits(0.0, limits(requests=(b"100", b"4", LATER)), lambda: NOW)
    health.note_limits(1.0, {}, lambda: NOW)
    assert health.is_nearly_full(1.0)
    health.note_limits(1.0, limits(requests=(b"100", b"50", LATER)), lambda: NOW)
    assert not health.is_nearly_full(1.0)


def test_a_shortage_is_bounded() -> None:
    health = Health()
    health.note_limits(0.0, limits(requests=(b"100", b"4", b"2099-01-01T00:00:00Z")), lambda: NOW)
    assert (health.is_nearly_full(599.0), health.is_nearly_full(600.0)) == (True, False)
