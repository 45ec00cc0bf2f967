"""Refusals that are remembered: the same request is refused again without the store, until it has room."""

from __future__ import annotations

import time
from collections.abc import Callable

from bud_asgi.limits.limit import Charge
from bud_asgi.limits.store import LimitStatus, RateLimited

MAX_REFUSALS = 10_000
"""The most refusals that are remembered."""

_Charges = tuple[Charge, ...]


class Refusals:
    """What a store has refused, by the charges of the request, until `retry_after` is over.

    `clock` returns seconds and only goes forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[_Charges, tuple[float, LimitStatus]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def note(self, charges: _Charges, error: RateLimited) -> None:
        """Remember a refusal."""
        now = self._clock()
        if len(self._until) >= MAX_REFUSALS:
            self._until = {key: entry for key, entry in self._until.items() if entry[0] > now}
        if len(self._until) < MAX_REFUSALS:
            self._until[charges] = (now + error.retry_after, error.limit_status)

    def check(self, charges: _Charges) -> None:
        """Raise `RateLimited` for charges that were refused, while they have no room."""
        entry = self._until.get(charges) if self._until else None
        if entry is None:
            return
        until, status = entry
        left = until - self._clock()
        if left > 0:
            raise RateLimited(status, left)
        del self._until[charges]
