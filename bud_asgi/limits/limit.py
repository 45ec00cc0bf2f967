"""What a limit is, and what a request asks of it."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.options import check_choice, check_integer, check_seconds

_Kind = Literal["requests"]
_Per = Literal["principal", "all"]


class Limit(msgspec.Struct, frozen=True, gc=False):
    """At most `amount` of a kind in `window` seconds, for each principal or for all together.

    It is a token bucket: a caller that was idle may use the whole amount at once, then it fills again evenly. Raises
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
