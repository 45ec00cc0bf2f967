"""Fair waiting: a request that would fit soon waits for its turn instead of being refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from bud_asgi.limit import limit_id
from bud_asgi.limits.answers import RateLimited
from bud_asgi.limits.fair_queue import FairQueue, Waiter
from bud_asgi.limits.store import CONCURRENCY_WAIT, Charge, LimitStatus, waiting_time

T = TypeVar("T")
_Key = tuple[asyncio.AbstractEventLoop, str, str]
"""An event loop and a bucket: what waits can only be woken on its own loop."""

_TIMER = 1e-3
"""Seconds that the clock may have gone on since a request began to wait."""

_POLL = 0.1
"""Seconds between two tries with a shared store: settlements by other processes are not reported to this one."""


class _Request(msgspec.Struct, frozen=True):
    """A request that waits until its deadline, on the loop's clock, and all that it takes."""

    principal: str
    charges: Sequence[Charge]
    deadline: float


class WaitingRoom:
    """The `queues` of requests that wait; none is empty. `shared`: the store is also used by other processes."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self.queues: dict[_Key, FairQueue] = {}

    def __len__(self) -> int:
        """The number of requests that wait."""
        return sum(len(queue) for queue in tuple(self.queues.values()))

    def queued(self, charges: Iterable[Charge]) -> Charge | None:
        """The charge to a bucket that other requests wait for already: a further one waits behind them."""
        if self.queues:
            for charge in charges:
                if _key(charge) in self.queues:
                    return charge
        return None

    def wake(self, charges: Iterable[Charge]) -> None:
        """Wake requests that wait for these buckets: something was given back."""
        for charge in charges:
            if (queue := self.queues.get(_key(charge))) is not None:
                queue.wake()

    async def admit(
        self, refusal: RateLimited, principal: str, charges: Sequence[Charge], attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """Wait for room in the bucket that has refused these charges, and try again when it is their turn.

        Where another bucket has no room then, they wait for that one: those who wait only for the first go ahead.
        Returns the result of `attempt`. Raises `RateLimited` at once if it cannot be their turn within the limit's
        `wait`, or if too many requests of the principal wait already; and when the time is over. Cancelled, it leaves
        the queue.
        """
        deadline = asyncio.get_running_loop().time() + refusal.limit_status.charge.limit.wait
        request = _Request(principal, charges, deadline)
        while True:
            result = await self._in_queue(refusal, request, attempt)
            if not isinstance(result, RateLimited):
                return result
            refusal = result

    async def _in_queue(
        self, refusal: RateLimited, request: _Request, attempt: Callable[[], Awaitable[T]]
    ) -> T | RateLimited:
        """Wait in the queue of one bucket. Returns the refusal of another one."""
        charge = refusal.limit_status.charge
        key = _key(charge)
        queue = self.queues.get(key) or FairQueue()
        _check_room(queue, refusal, request)
        waiter = Waiter(request.principal, charge.amount, asyncio.Event())
        self.queues[key] = queue
        queue.join(waiter)
        try:
            return await self._wait(queue, waiter, refusal, request, attempt)
        finally:
            queue.leave(waiter)
            if not len(queue):
                self.queues.pop(key, None)

    async def _wait(
        self,
        queue: FairQueue,
        waiter: Waiter,
        refusal: RateLimited,
        request: _Request,
        attempt: Callable[[], Awaitable[T]],
    ) -> T | RateLimited:
        now, deadline = asyncio.get_running_loop().time, request.deadline
        while True:
            pause = min(refusal.retry_after, _POLL) if self._shared else refusal.retry_after
            until = min(deadline, now() + pause) if waiter is queue.first else deadline
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await waiter.wake.wait()
            waiter.wake.clear()
            if waiter is queue.first:
                try:
                    self._check_turn(queue, request)
                    return await attempt()
                except RateLimited as error:
                    refusal = error
            if now() >= deadline or _is_in_vain(refusal, deadline - now()):
                raise refusal
            if self.queues.get(_key(refusal.limit_status.charge)) is not queue:
                return refusal

    def _check_turn(self, queue: FairQueue, request: _Request) -> None:
        """Raise `RateLimited` for charges to another bucket for which other principals wait already."""
        for charge in request.charges:
            other = self.queues.get(_key(charge))
            if other is not None and other is not queue and other.has_others(request.principal):
                raise behind(charge)


def behind(queued: Charge) -> RateLimited:
    """The refusal of a charge to a bucket that other requests wait for already: nothing is left of it."""
    used = float(queued.limit.amount)
    return RateLimited(LimitStatus(queued, used), waiting_time(queued.limit, used, queued.amount))


def _is_in_vain(refusal: RateLimited, left: float) -> bool:
    """Whether a request that has `left` seconds cannot be admitted in that time."""
    limit = refusal.limit_status.charge.limit
    return not limit.wait or (limit.kind != "concurrent" and refusal.retry_after > left)


def _key(charge: Charge) -> _Key:
    return asyncio.get_running_loop(), limit_id(charge.limit), charge.key


def _check_room(queue: FairQueue, refusal: RateLimited, request: _Request) -> None:
    """Raise the refusal, with the time that it would take, if waiting is in vain."""
    status = refusal.limit_status
    limit, amount = status.charge.limit, status.charge.amount
    left = min(limit.wait, request.deadline - asyncio.get_running_loop().time() + _TIMER)
    if limit.kind == "concurrent":
        wait = CONCURRENCY_WAIT
        in_vain = not limit.wait or queue.is_full(request.principal)
    else:
        used = status.used + queue.ahead(request.principal)
        wait = max(refusal.retry_after, waiting_time(limit, used, amount))
        in_vain = wait > left or queue.is_full(request.principal)
    if in_vain:
        raise RateLimited(status, wait, refusal.statuses)
