"""The interface of limit stores: what is reserved, granted, refused and settled."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Protocol, runtime_checkable

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limit import Limit
from bud_asgi.options import check_methods
from bud_asgi.protocol.errors import GatewayError

ROUNDING = 1e-9
"""Relative rounding tolerance: a client that waits exactly `retry_after` must be admitted."""

MAX_DEBT = 10
"""How far a bucket may go into debt, in amounts of its limit: that many windows later it has room again."""

CONCURRENCY_WAIT = 1.0
"""Seconds after which a request over a limit of `concurrent` may try again: when a running one ends is not known."""


class Charge(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An amount to take from one bucket of a limit, in whole units of its kind. `key` names the bucket.

    No two charges of a request are for the same bucket.
    """

    limit: Limit
    key: str
    amount: int


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """The status of one limit for a caller: how much of its amount is `used`. In debt, that is more than the amount.

    `reserved` is the part of it that running requests hold; only `statuses` reports it. Fractions come from the
    continuous refill.
    """

    charge: Charge
    used: float
    reserved: float = 0.0

    @property
    def remaining(self) -> int:
        """Whole units that are left; 0 in debt."""
        amount = self.charge.limit.amount
        left = amount - self.used
        return floor(left + ROUNDING * amount) if left > 0.0 else 0

    @property
    def full_in(self) -> float:
        """Seconds until the whole amount is available again; 0 for `concurrent`, which depends on running requests."""
        rate = self.charge.limit.rate
        return max(0.0, self.used) / rate if rate else 0.0


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and the status of its limits after it: those that a store can report, in any order."""

    reservation: Reservation
    statuses: tuple[LimitStatus, ...] = ()


class StoreUnavailable(GatewayError):
    """The store did not answer in time, or not at all: whether it has reserved is unknown."""

    status = 529
    type = "overloaded_error"

    def __init__(self, reason: str) -> None:
        super().__init__("The rate limits of this gateway are unavailable.", headers={"retry-after": "1"})
        self.reason = reason


class LimitStore(Protocol):
    """Counts use against limits. Amounts are whole units of their limit's kind."""

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none; those of a limit in `observe` mode are taken without a check.

        Raises `RateLimited` with the longest of the waits, and `StoreUnavailable`. Cancelled before it returns,
        nothing stays taken for longer than a lease.
        """
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Book the actual amounts, in the order of the charges, in place of the reserved ones.

        Settling twice changes nothing. What exceeds the reservation becomes debt, up to `MAX_DEBT`; what was
        not used is given back, as far as it has not been refilled yet. Runs to its end in the background, whatever
        happens to the request.
        """
        ...


@runtime_checkable
class SharedStore(LimitStore, Protocol):
    """A store that is shared by many processes: reservations have to be renewed, and its connections closed."""

    @property
    def lease(self) -> float:
        """Seconds after which a reservation that is neither settled nor renewed is given back."""
        ...

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend the leases of running requests. Raises `StoreUnavailable`."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they are opened again when needed."""
        ...


@runtime_checkable
class InspectableStore(Protocol):
    """A store that can report the status of buckets."""

    async def statuses(self, buckets: Sequence[Charge]) -> Sequence[LimitStatus]:
        """The status of each bucket; the amounts of the charges do not matter. Raises `StoreUnavailable`."""
        ...


def check_store(store: object) -> None:
    """Check an option for a `LimitStore`. Raises `OptionError`."""
    check_methods("store", store, "an object with the methods of a LimitStore", ("reserve", "settle"))


def waiting_time(limit: Limit, used: float, amount: int) -> float:
    """Seconds until `amount` can be taken from a bucket of which so much is used; 0 if it can be taken now.

    An amount above that of the limit can be taken from a full bucket; otherwise it never could.
    """
    missing = used + min(amount, limit.amount) - limit.amount
    if missing <= ROUNDING * limit.amount:
        return 0.0
    return missing / limit.rate if limit.rate else CONCURRENCY_WAIT
