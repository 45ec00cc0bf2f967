"""Limits: what one is, what a request takes from it, and the arithmetic of token buckets. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.options import check_choice, check_integer, check_items, check_seconds, check_type
from bud_asgi.protocol.operations import MODELS_API

ROUNDING = 1e-9
"""Relative rounding tolerance: a client that waits exactly `retry_after` must be admitted."""

_Kind = Literal["requests"]
_Per = Literal["principal", "all"]


class Limit(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """At most `amount` of a kind in `window` seconds, for each principal or for all together.

    It is a token bucket: a caller that was idle may use the whole amount at once; then it refills evenly. Raises
    `OptionError`.
    """

    kind: _Kind
    amount: int
    window: float = 60.0
    per: _Per = "principal"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("kind", self.kind, get_args(_Kind))
        check_integer("amount", self.amount, "a whole number, at least 1")
        check_seconds("window", self.window, maximum=1e9)
        check_choice("per", self.per, get_args(_Per))


def check_limits(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """Check for a list of limits, and return it as a tuple. Raises `OptionError`."""
    return check_items(
        "limits", limits, "a list of Limit", lambda name, limit: check_type(name, limit, Limit, "a Limit")
    )


class Charge(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An amount to take from one bucket of a limit, in whole units of its kind. `key` names the bucket."""

    limit: Limit
    key: str
    amount: int


def charges_of(limits: tuple[Limit, ...], exchange: Exchange) -> tuple[Charge, ...]:
    """The charges of a request, one for each limit. Requests without a principal share one bucket.

    Counting tokens has buckets of its own, as at the service (vendor page "Token counting"), and so has the Models API.
    """
    operation = "count_tokens" if exchange.counting else "messages"
    if exchange.operation in MODELS_API:
        operation = "models"
    return _charges(limits, operation, exchange.principal.id if exchange.principal else "")


@lru_cache(maxsize=1024)
def _charges(limits: tuple[Limit, ...], operation: str, principal: str) -> tuple[Charge, ...]:
    keys = {"principal": f"{operation}:{principal}", "all": operation}
    return tuple(Charge(limit, keys[limit.per], 1) for limit in limits)


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """How many tokens a bucket had at `updated_at`, in seconds on a clock that only goes forward."""

    tokens: float
    updated_at: float


def refilled(bucket: Bucket, now: float, *, capacity: float, window: float) -> Bucket:
    """The bucket as it is now: it refills evenly, `capacity` tokens in `window` seconds, up to its capacity.

    If the clock went back, nothing changes until it has caught up.
    """
    elapsed = now - bucket.updated_at
    if elapsed <= 0:
        return Bucket(min(capacity, bucket.tokens), bucket.updated_at)
    return Bucket(min(capacity, bucket.tokens + elapsed * capacity / window), now)


def waiting_time(bucket: Bucket, amount: float, *, capacity: float, window: float) -> float:
    """Seconds until `amount` can be taken from a bucket that is up to date; 0 if it can be taken now.

    An amount above the capacity can be taken from a full bucket; otherwise it never could.
    """
    missing = min(amount, capacity) - bucket.tokens
    return missing * window / capacity if missing > ROUNDING * capacity else 0.0


def taken(bucket: Bucket, amount: float) -> Bucket:
    """The bucket after an amount was taken, or given back if it is negative; it may go into debt."""
    return Bucket(bucket.tokens - amount, bucket.updated_at)
