"""Admitting: reserve what a request may use, and settle it on every path out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.host_code import host_code_error
from bud_asgi.limits.limit import Limit, charges_of, check_limits, own_key
from bud_asgi.limits.memory import Account, MemoryStore
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.store import Grant, LimitStatus, LimitStore, RateLimited, limit_headers
from bud_asgi.options import OptionError, check_methods, mismatch
from bud_asgi.tasks import BackgroundTasks

_MAX_ACCOUNTS = 4096
_LONGEST_KEY = 256  # characters
_REMAINING = attrgetter("remaining")


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
        self._accounts: dict[str, Account] = {}
        self._refusals = Refusals()
        self._amounts = (1,) * len(self.limits)  # a request is one request, whatever becomes of it

    def check(self, exchange: Exchange) -> Account | None:
        """Refuse a request that is over a limit before its body is read. Reserves nothing. Raises `RateLimited`.

        A store in memory knows at once; of any other, the refusals are remembered. The result is for `take`; it is
        `None` for a store that may wait.
        """
        if self._memory is None:
            self._refusals.check(charges_of(self.limits, exchange))
            return None
        key = own_key(exchange)
        account = self._accounts.get(key)
        if account is None:
            account = self._memory.account(charges_of(self.limits, exchange))
            if len(self._accounts) >= _MAX_ACCOUNTS:
                self._accounts.clear()
            if len(key) <= _LONGEST_KEY:
                self._accounts[key] = account
        self._memory.check(account)
        return account if self._never_waits else None

    def take(self, exchange: Exchange, account: Account) -> Reservation:
        """Do what `admit` does, without a coroutine, for the result of `check`."""
        assert self._memory is not None  # noqa: S101 - it has made the account
        exchange.reservation, tightest = self._memory.take(account)
        if tightest is not None:
            exchange.reply_headers.extend(limit_headers(tightest))
        return exchange.reservation

    async def admit(self, exchange: Exchange) -> Reservation:
        """Reserve from all limits, or raise `RateLimited` with a true `retry-after`. Cancelled, nothing is reserved.

        Raises a `GatewayError` (500) if the store returns anything but a `Grant`. The store's own exceptions propagate.
        """
        if self._never_waits and (account := self.check(exchange)):
            return self.take(exchange, account)
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
        exchange.reservation = granted.reservation
        if granted.statuses:
            exchange.reply_headers.extend(limit_headers(min(granted.statuses, key=_REMAINING)))
        return granted.reservation

    def settle(self, reservation: Reservation, tasks: BackgroundTasks) -> None:
        """Book what was used, at once or in the background: cancellation can't skip it."""
        if self._never_waits:
            self.store.settle(reservation, self._amounts)
        else:
            tasks.run_or_spawn(partial(self.store.settle, reservation, self._amounts))


def _checked(granted: object) -> Grant:
    """What a store returned. Raises `OptionError`."""
    if not isinstance(granted, Grant):
        raise mismatch("the result of reserve()", "a Grant", granted)
    for status in granted.statuses:
        if not isinstance(status, LimitStatus):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("the statuses of the Grant", "a LimitStatus for each kind of limit", status)
    return granted
