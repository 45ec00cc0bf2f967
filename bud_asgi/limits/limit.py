"""Limits: what one is, what a request takes from it, and the arithmetic of token buckets. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.options import check_choice, check_integer, check_items, check_seconds, check_type
from bud_asgi.protocol.operations import Operation

ROUNDING = 1e-9
"""Relative rounding tolerance: a client that waits exactly `retry_after` must be admitted."""

_Kind = Literal["requests"]
_Per = Literal["principal", "all"]
_KINDS: dict[Operation | None, str] = {
    "messages.create": "messages",
    "messages.count_tokens": "count_tokens",
    "models.list": "models",
    "models.retrieve": "models",
}


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
    own = own_key(exchange)
    shared = own[: own.index(":")]
    return tuple([Charge(limit, own if limit.per == "principal" else shared, 1) for limit in limits])


def own_key(exchange: Exchange) -> str:
    """The key of the principal's own buckets: the kind of operation, a colon, the principal's id."""
    kind = _KINDS.get(exchange.operation) or ("count_tokens" if exchange.counting else "messages")
    return f"{kind}:{exchange.principal.id}" if exchange.principal else f"{kind}:"


class Bucket(msgspec.Struct, gc=False):
    """How many tokens a bucket had at `updated_at`, in seconds on a clock that only goes forward.

    It refills evenly, `capacity` tokens in `window` seconds. It may go into debt.
    """

    tokens: float
    updated_at: float
    capacity: float
    window: float

    def refill(self, now: float, taken: float = 0.0) -> float:
        """Bring the bucket up to date, take tokens from it (give them back if negative), and return what is left.

        If the clock went back, nothing is added until it has caught up.
        """
        tokens, capacity, elapsed = self.tokens, self.capacity, now - self.updated_at
        if elapsed > 0:
            tokens += elapsed * capacity / self.window
            self.updated_at = now
        tokens = tokens if tokens < capacity else capacity  # noqa: FURB136 - a third of a call of min()
        self.tokens = tokens = tokens - taken
        return tokens


def waiting_time(tokens: float, amount: float, *, capacity: float, window: float) -> float:
    """Seconds until `amount` can be taken from a bucket that has so many tokens now; 0 if it can be taken now.

    An amount above the capacity can be taken from a full bucket; otherwise it never could.
    """
    missing = min(amount, capacity) - tokens
    return missing * window / capacity if missing > ROUNDING * capacity else 0.0
