"""Admitting: reserve what a request may use, and settle it on every path out."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limits.limit import Charge, Limit, charges_of
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.store import LimitStore, RateLimited, limit_headers
from bud_asgi.tasks import BackgroundTasks

_REMAINING = attrgetter("remaining")


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What a request has reserved, to be settled once."""

    reservation: Reservation
    charges: tuple[Charge, ...]


class Limiter:
    """Admits requests by limits. Counts in this process's memory unless another `store` is given."""

    def __init__(self, limits: Sequence[Limit], store: LimitStore | None = None) -> None:
        self.limits = tuple(limits)
        self.store: LimitStore = store or MemoryStore()
        self._refusals = Refusals()

    def check(self, exchange: Exchange) -> None:
        """Refuse a request that is over a limit before its body is read. Reserves nothing. Raises `RateLimited`.

        A store in memory knows at once; of any other, the refusals are remembered.
        """
        charges = tuple(charges_of(self.limits, exchange))
        if isinstance(self.store, MemoryStore):
            self.store.check(charges)
        else:
            self._refusals.check(charges)

    async def admit(self, exchange: Exchange) -> Hold:
        """Reserve from all limits, or raise `RateLimited` with a true `retry-after`. Cancelled, nothing is reserved."""
        charges = tuple(charges_of(self.limits, exchange))
        try:
            granted = await self.store.reserve(charges)
        except RateLimited as error:
            self._refusals.note(charges, error)
            raise
        exchange.reservation = granted.reservation
        if granted.statuses:
            exchange.reply_headers += limit_headers(min(granted.statuses, key=_REMAINING))
        return Hold(granted.reservation, charges)

    def settle(self, hold: Hold, tasks: BackgroundTasks) -> None:
        """Book what was used, at once or in the background: cancellation can't skip it."""
        amounts = [charge.amount for charge in hold.charges]
        tasks.run_or_spawn(lambda: self.store.settle(hold.reservation, amounts))
