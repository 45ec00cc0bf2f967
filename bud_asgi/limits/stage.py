"""Admitting: reserve what a request may use, and settle it on every path out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

import msgspec

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.host_code import host_code_error
from bud_asgi.limits.limit import Limit, charges_of, check_limits
from bud_asgi.limits.memory import MemoryStore
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.store import Grant, LimitStatus, LimitStore, RateLimited, limit_headers
from bud_asgi.options import OptionError, check_methods, mismatch
from bud_asgi.tasks import BackgroundTasks

_REMAINING = attrgetter("remaining")


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What a request has reserved, and the amounts that it used, to be settled once."""

    reservation: Reservation
    amounts: tuple[int, ...]


class Limiter:
    """Admits requests by limits. Counts in this process's memory unless another `store` is given.

    Raises `OptionError`.
    """

    def __init__(self, limits: Sequence[Limit], store: LimitStore | None = None) -> None:
        self.limits = check_limits(limits)
        if store is not None:
            check_methods("store", store, "an object with the methods of a LimitStore", ("reserve", "settle"))
        self.store: LimitStore = MemoryStore() if store is None else store
        self._memory = self.store if isinstance(self.store, MemoryStore) else None
        self._never_waits = type(self.store) is MemoryStore  # a subclass may have methods of its own
        self._refusals = Refusals()
        self._amounts = (1,) * len(self.limits)  # a request is one request, whatever becomes of it

    def check(self, exchange: Exchange) -> None:
        """Refuse a request that is over a limit before its body is read. Reserves nothing. Raises `RateLimited`.

        A store in memory knows at once; of any other, the refusals are remembered.
        """
        if self._memory is not None:
            self._memory.check(self._memory.account_for(self.limits, exchange))
        else:
            self._refusals.check(charges_of(self.limits, exchange))

    def admit_now(self, exchange: Exchange) -> Hold | None:
        """Do what `admit` does if the store is in memory, which never waits; `None` for any other store."""
        if self._memory is None or not self._never_waits:
            return None
        return self._hold(exchange, self._memory.take(self._memory.account_for(self.limits, exchange)))

    async def admit(self, exchange: Exchange) -> Hold:
        """Reserve from all limits, or raise `RateLimited` with a true `retry-after`. Cancelled, nothing is reserved.

        Raises a `GatewayError` (500) if the store returns anything but a `Grant`. The store's own exceptions propagate.
        """
        if hold := self.admit_now(exchange):
            return hold
        charges = charges_of(self.limits, exchange)
        try:
            granted = _checked(await self.store.reserve(charges))
        except RateLimited as error:
            self._refusals.note(charges, error)
            raise
        except OptionError as error:
            fault = f"the limit store {type(self.store).__name__} returned a wrong result: {error}"
            answer = "The rate limits of this gateway are misconfigured."
            raise host_code_error(exchange.request_id, fault, answer) from error
        return self._hold(exchange, granted)

    def settle(self, hold: Hold, tasks: BackgroundTasks) -> None:
        """Book what was used, at once or in the background: cancellation can't skip it."""
        if self._never_waits:
            self.store.settle(hold.reservation, hold.amounts)
        else:
            tasks.run_or_spawn(partial(self.store.settle, hold.reservation, hold.amounts))

    def _hold(self, exchange: Exchange, granted: Grant) -> Hold:
        """Note in the exchange what was granted, and report the tightest limit to the client."""
        exchange.reservation = granted.reservation
        if statuses := granted.statuses:
            tightest = statuses[0] if len(statuses) == 1 else min(statuses, key=_REMAINING)
            exchange.reply_headers += limit_headers(tightest)
        return Hold(granted.reservation, self._amounts)


def _checked(granted: object) -> Grant:
    """What a store returned. Raises `OptionError`."""
    if not isinstance(granted, Grant):
        raise mismatch("the result of reserve()", "a Grant", granted)
    for status in granted.statuses:
        if not isinstance(status, LimitStatus):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("the statuses of the Grant", "a LimitStatus for each kind of limit", status)
    return granted
