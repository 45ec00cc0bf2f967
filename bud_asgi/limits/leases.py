"""Leases: the reservations of running requests in a shared store, renewed until they are settled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from bud_asgi.exchange import Reservation
from bud_asgi.limits.store import SharedStore, StoreUnavailable
from bud_asgi.tasks import BackgroundTasks

_RENEWALS = 3  # in each lease: two may fail


class Leases:
    """The open reservations of one event loop. A timer renews them while there are any."""

    def __init__(self, store: SharedStore, tasks: BackgroundTasks, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._tasks = tasks
        self._loop = loop
        self._open: dict[str, Reservation] = {}
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, reservation: Reservation) -> None:
        """Renew a reservation from now on."""
        self._open[reservation.id] = reservation
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(self._store.lease / _RENEWALS, self._renew)

    def discard(self, reservation: Reservation) -> None:
        """Stop renewing it; it is about to be settled."""
        self._open.pop(reservation.id, None)

    def _renew(self) -> None:
        self._scheduled = bool(self._open)
        if self._open:
            self._tasks.spawn(_renew(self._store, tuple(self._open.values())))
            self._loop.call_later(self._store.lease / _RENEWALS, self._renew)


async def _renew(store: SharedStore, reservations: Sequence[Reservation]) -> None:
    with suppress(StoreUnavailable):  # the store reports that itself, and the next renewal may succeed
        await store.renew(reservations)
