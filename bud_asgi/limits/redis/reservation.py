"""A reservation in a shared store, and what this process knows of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.store import Charge


class Lease(msgspec.Struct):
    """What is known of the hold of a reservation in the store.

    `expires_at` is seconds on the server's clock, 0 if it is not known whether there is a hold. `ends_at` is the same
    on the monotonic clock, never later. `shared` is whether the store can have a hold at all. `local` is what was
    reserved in place of it while the store did not answer.
    """

    expires_at: float = 0.0
    ends_at: float = 0.0
    shared: bool = True
    settled: bool = False
    local: Reservation | None = None


class RedisReservation(Reservation, frozen=True, eq=False):
    """What a request holds: the charges, the keys of their buckets, and the state of the lease."""

    charges: tuple[Charge, ...]
    keys: Sequence[bytes]
    lease: Lease
