"""The seam of the limits: who counts use."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.limit import Demand
from bud_asgi.protocol.errors import GatewayError


class Standing(msgspec.Struct, frozen=True):
    """How one limit stands for a caller: whole units remaining, and seconds until it is full again."""

    demand: Demand
    remaining: int
    full_in: float


class Granted(msgspec.Struct, frozen=True):
    """A reservation, and how each of its limits stands now, in the order of the demands."""

    reservation: Reservation
    standings: tuple[Standing, ...]


class LimitStore(Protocol):
    """Counts use against limits. Amounts are whole units of their limit's kind."""

    async def reserve(self, demands: Sequence[Demand]) -> Granted:
        """Take all demands, or none.

        Raises `RateLimited` with the seconds until the tightest limit may pass. Cancelled before it returns, nothing
        stays taken.
        """
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book what was really used, in the order of the demands, instead of what was reserved.

        Settling twice changes nothing. More than was reserved becomes debt; less is given back.
        """
        ...


class RateLimited(GatewayError):
    """A limit is used up; `retry_after` is in seconds, and true."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, standing: Standing, retry_after: float) -> None:
        limit = standing.demand.limit
        whose = "your" if limit.per == "principal" else "the"
        super().__init__(
            f"This request would exceed {whose} rate limit of {limit.amount} {limit.kind} in {limit.window:g} seconds.",
            headers={"retry-after": str(max(1, math.ceil(retry_after - 1e-6))), **dict(limit_headers(standing))},
        )
        self.retry_after = retry_after


def limit_headers(standing: Standing) -> list[tuple[str, str]]:
    """The caller's own limit, in the service's header names (vendor page "Rate limits")."""
    kind = standing.demand.limit.kind
    return [
        (f"anthropic-ratelimit-{kind}-limit", str(standing.demand.limit.amount)),
        (f"anthropic-ratelimit-{kind}-remaining", str(standing.remaining)),
        (f"anthropic-ratelimit-{kind}-reset", _rfc3339(math.ceil(time.time() + standing.full_in))),
    ]


@lru_cache(maxsize=256)
def _rfc3339(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
