"""The seam of the limits: who counts use."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.limit import Charge
from bud_asgi.protocol.errors import GatewayError


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """How one limit stands for a caller: whole units remaining, and seconds until it is full again."""

    demand: Charge
    remaining: int
    full_in: float


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and how each of its limits stands now, in the order of the demands."""

    reservation: Reservation
    standings: tuple[LimitStatus, ...]


class LimitStore(Protocol):
    """Counts use against limits. Amounts are whole units of their limit's kind."""

    async def reserve(self, demands: Sequence[Charge]) -> Grant:
        """Take all demands, or none.

        Raises `RateLimited` with the seconds until the tightest limit may pass. Cancelled before it returns, nothing
        stays taken.
        """
        ...

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book what was really used, in the order of the demands, instead of what was reserved.

        Settling twice changes nothing. More than was reserved becomes debt; less is given back. What it returns is run
        to its end in a task, whatever becomes of the request; a store that never waits books at once and returns
        `None`.
        """
        ...


LONGEST_WAIT = 60.0
"""Seconds that a client may be asked to wait: SDKs would sleep for a day, so past it they are told not to retry."""


class RateLimited(GatewayError):
    """A limit is used up; `retry_after` is in seconds, and true."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, standing: LimitStatus, retry_after: float) -> None:
        limit = standing.demand.limit
        whose = "your" if limit.per == "principal" else "the"
        seconds = max(1, math.ceil(retry_after - 1e-6))
        words = (
            f"This request would exceed {whose} rate limit of {limit.amount} {limit.kind} in {limit.window:g} seconds."
        )
        if retry_after > LONGEST_WAIT:
            self.retryable = False
            words += (
                f" The next one can pass at {_rfc3339(math.ceil(time.time() + retry_after)).decode()}; try again then."
            )
        lines = {name.decode(): value.decode() for name, value in limit_headers(standing)}
        super().__init__(words, headers={"retry-after": str(seconds), **lines})
        self.retry_after = retry_after


def limit_headers(standing: LimitStatus) -> list[tuple[bytes, bytes]]:
    """The caller's own limit, in the service's header names (vendor page "Rate limits")."""
    limit = standing.demand.limit
    amount, remaining, reset = _names(limit.kind)
    return [
        (amount, b"%d" % limit.amount),
        (remaining, b"%d" % standing.remaining),
        (reset, _rfc3339(math.ceil(time.time() + standing.full_in))),
    ]


@lru_cache(maxsize=256)
def _names(kind: str) -> tuple[bytes, bytes, bytes]:
    family = f"anthropic-ratelimit-{kind}-".encode()
    return family + b"limit", family + b"remaining", family + b"reset"


@lru_cache(maxsize=256)
def _rfc3339(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
