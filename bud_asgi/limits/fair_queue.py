"""Fair queueing: requests wait for room in a bucket in order, and principals take turns. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

import msgspec

MAX_WAITING = 16
"""The most requests of one principal that wait for the same bucket."""


class Waiter(msgspec.Struct, eq=False):
    """A request that waits: `amount` is what it takes from the bucket, `wake` is set when it should try again."""

    principal: str
    amount: int
    wake: asyncio.Event


class FairQueue:
    """The requests that wait for one bucket.

    Principals take turns, and the requests of each keep their order: one with many waiting delays only its own.
    """

    def __init__(self) -> None:
        self._by_principal: dict[str, deque[Waiter]] = {}
        self._turns: deque[str] = deque()  # the principals with waiting requests, the next one first

    def __len__(self) -> int:
        return sum(map(len, self._by_principal.values()))

    @property
    def first(self) -> Waiter | None:
        """Whose turn it is."""
        return self._by_principal[self._turns[0]][0] if self._turns else None

    def is_full(self, principal: str) -> bool:
        """Whether no more requests of this principal may wait."""
        return len(self._by_principal.get(principal, ())) >= MAX_WAITING

    def has_others(self, principal: str) -> bool:
        """Whether requests of other principals wait."""
        return len(self._turns) > (principal in self._by_principal)

    def ahead(self, principal: str) -> int:
        """What is taken from the bucket before a further request of this principal gets its turn."""
        own = len(self._by_principal.get(principal, ()))
        total, turns = 0, own + 1  # those whose turn is before the principal's next one come once more than it did
        for other in self._turns:
            if other == principal:
                turns = own
            total += sum(waiter.amount for waiter in islice(self._by_principal[other], turns))
        return total

    def join(self, waiter: Waiter) -> None:
        """Add a request behind those of its principal."""
        waiting = self._by_principal.get(waiter.principal)
        if waiting is None:
            waiting = self._by_principal[waiter.principal] = deque()
            self._turns.append(waiter.principal)
        waiting.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Remove a request that is admitted, refused or gone. If it was its turn, the next principal's comes."""
        was_first = waiter is self.first
        waiting = self._by_principal[waiter.principal]
        waiting.remove(waiter)
        if was_first:
            self._turns.rotate(-1)
        if not waiting:
            del self._by_principal[waiter.principal]
            self._turns.remove(waiter.principal)
        self.wake()

    def wake(self) -> None:
        """Let the first one try again: the bucket may have room."""
        if (first := self.first) is not None:
            first.wake.set()
