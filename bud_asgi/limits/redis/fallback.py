"""What happens to requests while a shared store does not answer: the policies of `on_failure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limit import Limit
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.store import Charge, Grant, StoreUnavailable

OnFailure = Literal["open", "closed", "local"]
"""Requests are admitted without limits, refused (529), or limited in memory by a share of each limit."""

_CONSEQUENCES: Mapping[OnFailure, str] = {
    "open": "requests are admitted without limits",
    "closed": "requests are refused with status 529",
    "local": "each process applies the limits divided by {replicas}",
}


class Fallback:
    """Decides on requests in place of a store that does not answer.

    `replicas` is the number of processes, each of which gets a share of every amount. `consequence` describes what
    happens to requests, for log lines.
    """

    def __init__(self, on_failure: OnFailure, replicas: int) -> None:
        self.consequence = _CONSEQUENCES[on_failure].format(replicas=replicas)
        self._replicas = replicas
        self._is_closed = on_failure == "closed"
        self._local = MemoryStore() if on_failure == "local" else None

    async def reserve(self, charges: Sequence[Charge], reason: str) -> Grant:
        """Admit a request, or not; `reason` is why the store failed. Raises `RateLimited` and `StoreUnavailable`.

        The statuses are those of the shares.
        """
        if self._is_closed:
            raise StoreUnavailable(reason)
        if self._local is None:
            return Grant(Reservation(""))
        shares = [Charge(_share_of(one.limit, self._replicas), one.key, one.amount) for one in charges]
        return await self._local.reserve(shares)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts of a request that was admitted here."""
        if self._local is not None:
            await self._local.settle(reservation, amounts)


@lru_cache(maxsize=4096)
def _share_of(limit: Limit, replicas: int) -> Limit:
    """The limit of one among so many processes: at least 1."""
    return msgspec.structs.replace(limit, amount=max(1, limit.amount // replicas))
