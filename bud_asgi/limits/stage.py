"""Admitting: reserve what a request may use, and settle it on every path out."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.host_code import host_code_error
from bud_asgi.limits.limit import Charge, Limit, charges_of, check_limits
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.store import Grant, LimitStatus, LimitStore, RateLimited, limit_headers
from bud_asgi.options import OptionError, check_methods, mismatch
from bud_asgi.tasks import BackgroundTasks

_REMAINING = attrgetter("remaining")


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What a request has reserved, to be settled once."""

    reservation: Reservation
    charges: tuple[Charge, ...]


class Limiter:
    """Admits requests by limits. Counts in this process's memory unless another `store` is given.

    Raises `OptionError`.
    """

    def __init__(self, limits: Sequence[Limit], store: LimitStore | None = None) -> None:
        self.limits = check_limits(limits)
        if store is not None:
            check_methods("store", store, "an object with the methods of a LimitStore", ("reserve", "settle"))
        self.store: LimitStore = MemoryStore() if store is None else store
        self._refusals = None if isinstance(self.store, MemoryStore) else Refusals()

    def check(self, exchange: Exchange) -> None:
        """Refuse a request that is over a limit before its body is read. Reserves nothing. Raises `RateLimited`.

        A store in memory knows at once; of any other, the refusals are remembered.
        """
        charges = charges_of(self.limits, exchange)
        if isinstance(self.store, MemoryStore):
            self.store.check(charges)
        elif self._refusals is not None:
            self._refusals.check(charges)

    async def admit(self, exchange: Exchange) -> Hold:
        """Reserve from all limits, or raise `RateLimited` with a true `retry-after`. Cancelled, nothing is reserved.

        Raises a `GatewayError` (500) if the store returns anything but a `Grant`. The store's own exceptions propagate.
        """
        charges = charges_of(self.limits, exchange)
        try:
            granted = _checked(await self.store.reserve(charges))
        except RateLimited as error:
            if self._refusals is not None:
                self._refusals.note(charges, error)
            raise
        except OptionError as error:
            fault = f"the limit store {type(self.store).__name__} returned a wrong result: {error}"
            answer = "The rate limits of this gateway are misconfigured."
            raise host_code_error(exchange.request_id, fault, answer) from error
        exchange.reservation = granted.reservation
        if granted.statuses:
            exchange.reply_headers += limit_headers(min(granted.statuses, key=_REMAINING))
        return Hold(granted.reservation, charges)

    def settle(self, hold: Hold, tasks: BackgroundTasks) -> None:
        """Book what was used, at once or in the background: cancellation can't skip it."""
        amounts = [charge.amount for charge in hold.charges]
        tasks.run_or_spawn(lambda: self.store.settle(hold.reservation, amounts))


def _checked(granted: object) -> Grant:
    """What a store returned. Raises `OptionError`."""
    if not isinstance(granted, Grant):
        raise mismatch("the result of reserve()", "a Grant", granted)
    for status in granted.statuses:
        if not isinstance(status, LimitStatus):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("the statuses of the Grant", "a LimitStatus for each charge", status)
    return granted
