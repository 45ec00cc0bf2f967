"""What a limit is, and what a request asks of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from bud_asgi.exchange import Exchange


class Limit(msgspec.Struct, frozen=True, gc=False):
    """At most `amount` of a kind in `window` seconds, for each principal or for all together.

    It is a token bucket: a caller that was idle may use the whole amount at once, then it fills again evenly. Raises
    `ValueError` for an amount or a window that is not positive.
    """

    kind: Literal["requests"]
    amount: int
    window: float = 60.0
    per: Literal["principal", "all"] = "principal"

    def __post_init__(self) -> None:
        """Refuse a limit that nothing could ever pass."""
        if self.amount < 1 or self.window <= 0:
            raise ValueError("a limit needs an amount of at least 1 and a window of more than 0 seconds")


class Charge(msgspec.Struct, frozen=True, gc=False):
    """So much of one bucket: the limit, whose bucket it is, and the amount in whole units of its kind."""

    limit: Limit
    key: str
    amount: int


def charges_of(limits: tuple[Limit, ...], exchange: Exchange) -> list[Charge]:
    """What a request asks of each limit. A request that no `Principal` came with shares one bucket with its like.

    Counting tokens has buckets of its own, as it has at the service (vendor page "Token counting").
    """
    whose = exchange.principal.id if exchange.principal else ""
    if not exchange.counting:
        return [Charge(limit, whose if limit.per == "principal" else "", 1) for limit in limits]
    return [Charge(limit, f"count_tokens:{whose if limit.per == 'principal' else ''}", 1) for limit in limits]
