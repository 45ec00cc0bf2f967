"""Reservations in a shared store, and their settlements: written at once, or again while the lease lasts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from bud_asgi.exchange import Reservation
from bud_asgi.limits.redis.errors import CallFailed
from bud_asgi.limits.redis.health import Health
from bud_asgi.limits.redis.timing import StoreTiming
from bud_asgi.limits.store import Charge

MAX_WAITING = 10_000
"""The most settlements that wait to be written again."""


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


class Settlements:
    """The settlements of one event loop. `write` writes one, and raises `CallFailed`."""

    def __init__(
        self,
        write: Callable[[RedisReservation, Sequence[int]], Awaitable[None]],
        *,
        timing: StoreTiming,
        health: Health,
    ) -> None:
        self._write = write
        self._timing = timing
        self._health = health
        self._waiting: deque[tuple[RedisReservation, Sequence[int]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def settle(self, reservation: RedisReservation, amounts: Sequence[int]) -> None:
        """Write a settlement; if that fails, it is written again in the background."""
        try:
            await self._write(reservation, amounts)
        except CallFailed:
            self.settle_later(reservation, amounts)
        except asyncio.CancelledError:
            self.settle_later(reservation, amounts)
            raise

    def settle_later(self, reservation: RedisReservation, amounts: Sequence[int]) -> None:
        """Write a settlement in the background."""
        if len(self._waiting) >= MAX_WAITING:
            self._health.drop()
            return
        self._waiting.append((reservation, amounts))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all(), name="bud_asgi settlements")

    async def aclose(self) -> None:
        """Wait a short while for the settlements that have not been written, then drop them."""
        if self._writer is None or self._writer.done():
            return
        await asyncio.wait({self._writer}, timeout=self._timing.close_within)
        self._writer.cancel()
        with suppress(asyncio.CancelledError):
            await self._writer
        self._health.drop(len(self._waiting))
        self._waiting.clear()

    async def _write_all(self) -> None:
        failures = 0
        while self._waiting:
            reservation, amounts = self._waiting[0]
            if time.monotonic() >= reservation.lease.ends_at:  # it has been given back
                self._waiting.popleft()
                self._health.drop()
                continue
            try:
                await self._write(reservation, amounts)
            except CallFailed:
                failures += 1
                await asyncio.sleep(self._timing.pause(failures))
            else:
                failures = 0
                self._waiting.popleft()
