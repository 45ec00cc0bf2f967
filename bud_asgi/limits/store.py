"""The interface of limit stores, and the refusal of a request that is over a limit."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.limit import Charge, Limit
from bud_asgi.protocol.errors import GatewayError


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """The status of one limit for a caller: whole units remaining, and seconds until it is full again."""

    charge: Charge
    remaining: int
    full_in: float


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and the status of the tightest limit of each kind after it. More statuses do no harm."""

    reservation: Reservation
    statuses: tuple[LimitStatus, ...]


class LimitStore(Protocol):
    """Counts use against limits. Amounts are whole units of their limit's kind."""

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none.

        Raises `RateLimited` with the seconds until the tightest limit has room. Cancelled before it returns, nothing
        stays taken.
        """
        ...

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> Coroutine[object, object, None] | None:
        """Book the actual amounts, in the order of the charges, in place of the reserved ones.

        Settling twice changes nothing. More than was reserved becomes debt; less is given back. A returned coroutine is
        run to its end in the background, whatever happens to the request; a store that never awaits books at once and
        returns `None`.
        """
        ...


LONGEST_WAIT = 60.0
"""The longest `retry-after`, in seconds, that an SDK should wait for; above it, `x-should-retry: false` is sent."""


class RateLimited(GatewayError):
    """A limit, of status `limit_status`, has no room for a request. After `retry_after` seconds it has."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, status: LimitStatus, retry_after: float) -> None:
        limit = status.charge.limit
        whose = "your" if limit.per == "principal" else "the"
        seconds = max(1, math.ceil(retry_after - 1e-6))
        message = (
            f"This request would exceed {whose} rate limit of {limit.amount} {limit.kind} in {limit.window:g} seconds."
        )
        if retry_after > LONGEST_WAIT:
            self.retryable = False
            message += (
                f" The next one can pass at {_rfc3339(math.ceil(time.time() + retry_after)).decode()}; try again then."
            )
        lines = {name.decode(): value.decode() for name, value in limit_headers(status)}
        super().__init__(message, headers={"retry-after": str(seconds), **lines})
        self.retry_after = retry_after
        self.limit_status = status


def limit_headers(status: LimitStatus) -> list[tuple[bytes, bytes]]:
    """The headers that report a limit to its caller, named as the service names them (vendor page "Rate limits")."""
    amount, remaining, reset = _parts(status.charge.limit)
    full_at = math.ceil(time.time() + status.full_in)
    return [amount, (remaining, b"%d" % status.remaining), (reset, _rfc3339(full_at))]


@lru_cache(maxsize=256)
def _parts(limit: Limit) -> tuple[tuple[bytes, bytes], bytes, bytes]:
    family = f"anthropic-ratelimit-{limit.kind}-".encode()
    return (family + b"limit", b"%d" % limit.amount), family + b"remaining", family + b"reset"


@lru_cache(maxsize=256)
def _rfc3339(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
