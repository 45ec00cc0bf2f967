"""What happens to requests while a shared store does not answer: the policies of `on_failure`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limit import Limit
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.store import Charge, Grant, StoreUnavailable

OnFailure = Literal["open", "closed", "local"]
"""Requests are admitted without limits, refused (529), or limited in memory by a share of each limit."""


class Fallback(Protocol):
    """Decides on requests in place of a store that does not answer. `consequence` describes what happens to them."""

    consequence: str

    async def reserve(self, charges: Sequence[Charge], reason: str) -> Grant:
        """Admit a request, or not. `reason` is why the store failed. Raises `RateLimited` and `StoreUnavailable`."""
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts of a request that was admitted here."""
        ...


class Open:
    """Admits every request, and counts nothing."""

    consequence = "requests are admitted without limits"

    async def reserve(self, charges: Sequence[Charge], reason: str) -> Grant:
        """Admit a request."""
        del charges, reason
        return Grant(Reservation(""))

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Do nothing."""


class Closed:
    """Refuses every request."""

    consequence = "requests are refused with status 529"

    async def reserve(self, charges: Sequence[Charge], reason: str) -> Grant:
        """Raise `StoreUnavailable`."""
        del charges
        raise StoreUnavailable(reason)

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Do nothing: nothing was admitted."""


class Local:
    """Limits requests in the memory of this process, which is one of `replicas`: each gets a share of every amount."""

    def __init__(self, replicas: int) -> None:
        self._store = MemoryStore()
        self._replicas = replicas
        self.consequence = f"each process applies the limits divided by {replicas}"

    async def reserve(self, charges: Sequence[Charge], reason: str) -> Grant:
        """Take all charges, or none. The statuses are those of the shares. Raises `RateLimited`."""
        del reason
        return await self._store.reserve(
            [Charge(share_of(one.limit, self._replicas), one.key, one.amount) for one in charges]
        )

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts."""
        await self._store.settle(reservation, amounts)


@lru_cache(maxsize=4096)
def share_of(limit: Limit, replicas: int) -> Limit:
    """The limit of one among so many processes: at least 1."""
    return msgspec.structs.replace(limit, amount=max(1, limit.amount // replicas))


def fallback_of(on_failure: OnFailure, replicas: int) -> Fallback:
    """The fallback of a policy."""
    if on_failure == "local":
        return Local(replicas)
    return Open() if on_failure == "open" else Closed()
