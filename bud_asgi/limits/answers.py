"""How limits appear in responses: the headers on every reply, and the errors."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, floor

import msgspec

from bud_asgi.host_code import host_code_error
from bud_asgi.limit import LONGEST_WAIT, Kind, Limit, limit_words
from bud_asgi.limits.store import ROUNDING, LimitStatus
from bud_asgi.protocol.errors import GatewayError

_SHARED = frozenset({"model", "all"})
_WHOSE = {"principal": "your rate limit", "team": "your team's rate limit", "model": "this model's rate limit"}


_Line = tuple[bytes, bytes]


class RateLimited(GatewayError):
    """A limit has no room for a request. `limit_status` is its status, `retry_after` the seconds until it has room.

    `statuses` are those of all limits of the request, as far as they are known. If the time is longer than clients
    wait, `x-should-retry: false` is sent.
    """

    status = 429
    type = "rate_limit_error"

    def __init__(self, status: LimitStatus, retry_after: float, statuses: Iterable[LimitStatus] = ()) -> None:
        seconds = max(1, ceil(retry_after - 1e-6))
        if retry_after > LONGEST_WAIT:
            self.retryable = False
        lines = {name.decode(): value.decode() for name, value in headers_of_statuses((status, *statuses))}
        super().__init__(_message(status, seconds), headers={"retry-after": str(seconds), **lines})
        self.retry_after = retry_after
        self.limit_status = status
        self.statuses = tuple(statuses)


class LimitHeaders(msgspec.Struct, frozen=True, gc=False):
    """The headers of a limit: the line of its amount, and the names of the other two (vendor page "Rate limits").

    The `amount` includes the tolerance for rounding errors.
    """

    kind: Kind
    amount: float
    rate: float
    amount_line: _Line
    remaining: bytes
    reset: bytes

    @property
    def names(self) -> tuple[bytes, bytes, bytes]:
        """The names of all three."""
        return self.amount_line[0], self.remaining, self.reset

    def lines(self, used: float, now: float) -> tuple[_Line, _Line, _Line]:
        """All three, given how much of the limit is used, and the Unix time."""
        left = self.amount - used
        remaining = b"%d" % floor(left) if left > 0.0 else b"0"
        full_at = rfc3339(ceil(now + used / self.rate))
        return self.amount_line, (self.remaining, remaining), (self.reset, full_at)


def add_limit_headers(lines: list[_Line], levels: Iterable[tuple[LimitHeaders, float]], now: float) -> None:
    """Add the headers of these limits to those that another limiter has added: of each kind the tightest.

    `levels` are how much of each limit is used, `now` is the Unix time.
    """
    levels = tightest(levels)
    if lines:
        known = dict(lines)
        levels = [
            (headers, used)
            for headers, used in levels
            if (other := known.get(headers.remaining)) is None or headers.amount - used < int(other)
        ]
        remove_headers(lines, [name for headers, _ in levels for name in headers.names])
    for headers, used in levels:
        lines += headers.lines(used, now)


def remove_headers(lines: list[_Line], names: Iterable[bytes]) -> None:
    """Remove the headers of these names."""
    removed = frozenset(names)
    lines[:] = [line for line in lines if line[0] not in removed]


def tightest(levels: Iterable[tuple[LimitHeaders, float]]) -> list[tuple[LimitHeaders, float]]:
    """The limit of each kind that has the least left."""
    found: dict[Kind, tuple[LimitHeaders, float]] = {}
    for headers, used in levels:
        known = found.get(headers.kind)
        if known is None or headers.amount - used < known[0].amount - known[1]:
            found[headers.kind] = headers, used
    return list(found.values())


@lru_cache(maxsize=4096)
def headers_of(limit: Limit) -> LimitHeaders | None:
    """The headers of a limit; `None` if it has none.

    A limit that is shared with other callers would report their use; an observed one is not in force.
    """
    if limit.kind == "concurrent" or limit.per in _SHARED or limit.observed:
        return None
    name = f"anthropic-ratelimit-{limit.kind.replace('_', '-')}-".encode()
    amount_line = (name + b"limit", b"%d" % limit.amount)
    amount = (1.0 + ROUNDING) * limit.amount
    return LimitHeaders(limit.kind, amount, limit.rate, amount_line, name + b"remaining", name + b"reset")


def headers_of_statuses(statuses: Iterable[LimitStatus]) -> list[_Line]:
    """The headers that report the limits of a caller, the tightest of each kind."""
    lines: list[_Line] = []
    add_limit_headers(lines, levels_of(statuses), time.time())
    return lines


def levels_of(statuses: Iterable[LimitStatus]) -> list[tuple[LimitHeaders, float]]:
    """The limits of a caller that are reported, and how much of each is used."""
    return [(headers, one.used) for one in statuses if (headers := headers_of(one.charge.limit)) is not None]


@lru_cache(maxsize=1024)
def rfc3339(second: int) -> bytes:
    """A Unix time as RFC 3339 in UTC; the last second of the year 9999 for anything later."""
    return datetime.fromtimestamp(min(second, 253402300799), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def misconfigured(request_id: str, fault: str) -> GatewayError:
    """The error (500) where code of the host's has returned something wrong; `fault` is only logged."""
    return host_code_error(request_id, fault, "The rate limits of this gateway are misconfigured.")


def _message(status: LimitStatus, seconds: int) -> str:
    limit = status.charge.limit
    whose = _WHOSE.get(limit.dimension, "the rate limit")
    message = f"This request would exceed {whose} of {limit_words(limit)}."
    if limit.kind == "concurrent":
        return f"{message} Try again when one of the running requests has ended."
    if seconds > LONGEST_WAIT:
        at = rfc3339(ceil(time.time() + seconds)).decode()
        return f"{message} Try again at {at}."
    return f"{message} Try again in {seconds} second{'s' if seconds > 1 else ''}."
