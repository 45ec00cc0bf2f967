"""Fair waiting: a request that would fit soon waits for its turn instead of being refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from bud_asgi.limit import limit_id
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.lines import Line, Waiter
from bud_asgi.limits.store import CONCURRENCY_WAIT, Charge, waiting_time

T = TypeVar("T")

_POLL = 0.1
"""Seconds between two tries with a shared store: settlements by other processes are not reported to this one."""


class WaitingRoom:
    """The lines of one event loop, by bucket. `shared`: the store is also used by other processes."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._lines: dict[tuple[str, str], Line] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def queued(self, charges: Iterable[Charge]) -> Charge | None:
        """The charge to a bucket that other requests wait for already: a further one waits behind them."""
        if self._lines:
            for charge in charges:
                if _key(charge) in self._lines:
                    return charge
        return None

    def wake(self, charges: Iterable[Charge]) -> None:
        """Wake requests that wait for these buckets: something was given back."""
        if self._lines:
            for charge in charges:
                if (line := self._lines.get(_key(charge))) is not None:
                    line.wake()

    async def admit(self, refusal: RateLimited, principal: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Wait for room in the bucket that has refused a request, and try again when it is its turn.

        Returns the result of `attempt`. Raises `RateLimited` at once if it cannot be its turn within the limit's
        `wait`, or if too many requests of the principal wait already; and when the time is over. Cancelled, it leaves
        the line.
        """
        charge = refusal.limit_status.charge
        line = self._lines.get(_key(charge)) or Line()
        _check_room(line, refusal, principal)
        waiter = Waiter(principal, charge.amount, asyncio.Event())
        self._lines[_key(charge)] = line
        line.join(waiter)
        try:
            return await self._wait(line, waiter, refusal, attempt)
        finally:
            line.leave(waiter)
            if not len(line):
                self._lines.pop(_key(charge), None)

    async def _wait(self, line: Line, waiter: Waiter, refusal: RateLimited, attempt: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time
        deadline = now() + refusal.limit_status.charge.limit.wait
        while True:
            pause = min(refusal.retry_after, _POLL) if self._shared else refusal.retry_after
            until = min(deadline, now() + pause) if waiter is line.first else deadline
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await waiter.wake.wait()
            waiter.wake.clear()
            if waiter is line.first:
                try:
                    return await attempt()
                except RateLimited as error:
                    refusal = error
            if now() >= deadline or _is_in_vain(refusal, deadline - now()):
                raise refusal


def _is_in_vain(refusal: RateLimited, left: float) -> bool:
    """Whether a request that has `left` seconds cannot be admitted in that time."""
    limit = refusal.limit_status.charge.limit
    return not limit.wait or (limit.kind != "concurrent" and refusal.retry_after > left)


def _key(charge: Charge) -> tuple[str, str]:
    return limit_id(charge.limit), charge.key


def _check_room(line: Line, refusal: RateLimited, principal: str) -> None:
    """Raise the refusal, with the time that it would take, if waiting is in vain."""
    status = refusal.limit_status
    limit, amount = status.charge.limit, status.charge.amount
    if limit.kind == "concurrent":
        wait = CONCURRENCY_WAIT
        in_vain = line.is_full(principal)
    else:
        used = status.used + line.ahead(principal)
        wait = max(refusal.retry_after, waiting_time(used, amount, capacity=float(limit.amount), rate=limit.rate))
        in_vain = wait > limit.wait or line.is_full(principal)
    if in_vain:
        raise RateLimited(status, wait, refusal.statuses)
