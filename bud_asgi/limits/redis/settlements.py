"""Settlements: written at once, or again and again while the lease of the reservation lasts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from bud_asgi.limits.redis.errors import CallFailed
from bud_asgi.limits.redis.health import Health
from bud_asgi.limits.redis.reservation import RedisReservation
from bud_asgi.limits.redis.timing import StoreTiming

MAX_WAITING = 10_000
"""The most settlements that wait to be written again."""


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
