"""What the rate-limit headers of a reply show of the upstream's own limits. Pure: the wall clock is handed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from bud_asgi.protocol.headers import Headers

LOW = 0.05
"""The share of a limit below which it counts as nearly used up."""

_LIMITS = {
    b"anthropic-ratelimit-%b-limit" % kind: (
        b"anthropic-ratelimit-%b-remaining" % kind,
        b"anthropic-ratelimit-%b-reset" % kind,
    )
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens")
}
LIMIT_HEADERS = frozenset(_LIMITS)
"""The headers with the upstream's limits. A reply without any of them does not show how much is left."""

_MAX_DIGITS = 18


def shortage_of(headers: Headers, wall_clock: Callable[[], float]) -> float:
    """Seconds until the limits that are nearly used up are replenished; 0 if none is.

    `headers` are the upstream's, by lower-case name; values that cannot be read are ignored. `wall_clock` returns
    Unix time in seconds and is only called where a limit is nearly used up.
    """
    seconds = 0.0
    for name in LIMIT_HEADERS & headers.keys():
        remaining, reset = _LIMITS[name]
        if _is_low(headers.get(remaining, b""), headers[name]):
            seconds = max(seconds, _unix_time(headers.get(reset, b"")) - wall_clock())
    return seconds


def _is_low(remaining: bytes, limit: bytes) -> bool:
    if len(remaining) > _MAX_DIGITS or len(limit) > _MAX_DIGITS:
        return False
    try:
        return int(remaining) < LOW * int(limit)
    except ValueError:
        return False


def _unix_time(reset: bytes) -> float:
    """An RFC 3339 time in Unix seconds; 0 if it cannot be read."""
    try:
        at = datetime.fromisoformat(reset.decode("ascii"))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
