"""The budget for request bodies: how many bytes of them an app holds in memory, in all and for each principal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf

import msgspec

from bud_asgi.memory_limit import memory_limit
from bud_asgi.options import OptionError, check_integer
from bud_asgi.protocol.errors import GatewayError

MAX_DEFAULT = 256 << 20
"""The default budget where the process's memory has no limit, in bytes; otherwise at most a quarter of that limit."""

_POLL = 0.02
_REPORT_AGAIN = 60.0
_EXPECTED = "a number of bytes, more than 0"

_log = logging.getLogger("bud_asgi")


class BodiesFull(GatewayError):
    """The bodies of other requests fill the budget. It empties as these are answered."""

    status = 529
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__(
            "The gateway is overloaded: too many request bodies are in progress.", headers={"retry-after": "2"}
        )


class BodyBudget:
    """Counts the bytes of request bodies in memory: `held`, of at most `total`, and `per_principal` for each caller.

    One body has at most `max_body` bytes. A request waits up to `patience` seconds for room.
    """

    __slots__ = ("_by_principal", "_report_at", "held", "max_body", "patience", "per_principal", "total")

    def __init__(self, max_body: int, total: int, per_principal: int, *, patience: float = 1.5) -> None:
        self.max_body = max_body
        self.total = total
        self.per_principal = per_principal
        self.patience = patience
        self.held = 0
        self._by_principal: dict[str, int] = {}
        self._report_at = -inf

    def has_room(self, principal: str, size: int) -> bool:
        """Whether `size` more bytes of this principal's fit."""
        return self.held + size <= self.total and self._by_principal.get(principal, 0) + size <= self.per_principal

    def take(self, principal: str, size: int) -> bool:
        """Count `size` more bytes, if they fit. Returns whether they do."""
        share = self._by_principal.get(principal, 0) + size
        if share > self.per_principal or self.held + size > self.total:
            return False
        self.held += size
        self._by_principal[principal] = share
        return True

    def give_back(self, principal: str, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size
        left = self._by_principal.get(principal, 0) - size
        if left > 0:
            self._by_principal[principal] = left
        else:
            self._by_principal.pop(principal, None)

    def refuse(self, principal: str) -> BodiesFull:
        """Make the error for a request that found no room. Logged once a minute at most."""
        now = _now()
        if now >= self._report_at:
            self._report_at = now + _REPORT_AGAIN
            _log.warning(
                "request bodies fill their memory budget: %d of %d bytes held, %d of %d by the principal %r; "
                "requests get a 529 until others are answered (body_budget)",
                self.held,
                self.total,
                self._by_principal.get(principal, 0),
                self.per_principal,
                principal,
            )
        return BodiesFull()


class Upload(msgspec.Struct, eq=False):
    """The body of one request as it arrives, and its part of the budget.

    `began`: its bytes have been asked for. `waiting`: the next ones have not arrived. `complete`: all of it has. The
    clock that watches it sets `began_at` and `waiting_since` when it first finds it waiting: seconds on the loop's
    clock, which a body that arrives at once need not read. Without a `budget` nothing is counted.
    """

    budget: BodyBudget | None = None
    began: bool = False
    waiting: bool = False
    complete: bool = False
    began_at: float | None = None
    waiting_since: float | None = None
    _principal: str = ""
    _size: int = 0

    def start(self, principal: str, declared: int) -> bool:
        """Begin to read for a principal. Returns whether a body of the declared length has room."""
        self._principal = principal
        return self.budget is None or self.budget.has_room(principal, declared)

    def take(self, size: int) -> bool:
        """Count bytes that have arrived, if they have room. Returns whether they do."""
        if self.budget is None:
            return True
        if not self.budget.take(self._principal, size):
            return False
        self._size += size
        return True

    async def wait_for_room(self, size: int) -> None:
        """Wait until so many bytes have room. Raises `BodiesFull`."""
        await self._wait(lambda: self.budget is None or self.budget.has_room(self._principal, size))

    async def wait_to_take(self, size: int) -> None:
        """Count bytes that have arrived as soon as they have room. Raises `BodiesFull`."""
        await self._wait(lambda: self.take(size))

    async def _wait(self, succeeds: Callable[[], bool]) -> None:
        deadline: float | None = None
        while not succeeds() and self.budget is not None:
            deadline = deadline or _now() + self.budget.patience
            if _now() >= deadline:
                raise self.budget.refuse(self._principal)
            await asyncio.sleep(_POLL)

    def release(self) -> None:
        """Give everything back to the budget. May be called twice."""
        if self._size and self.budget is not None:
            self.budget.give_back(self._principal, self._size)
            self._size = 0


def body_budget(
    max_body: int, total: int | None = None, per_principal: int | None = None, *, patience: float = 1.5
) -> BodyBudget:
    """Make the budget of an app: by default 256 MB, or a quarter of the process's memory limit, and half of it each.

    A body of `max_body` bytes always fits into an empty budget. Raises `OptionError` for sizes where it would not.
    """
    check_integer("max_body", max_body, _EXPECTED, maximum=1 << 40)
    if total is None:
        limit = memory_limit()
        total = max(max_body, MAX_DEFAULT if limit is None else min(MAX_DEFAULT, limit // 4))
        if per_principal is not None:
            total = max(total, _checked("body_budget_per_principal", per_principal, max_body))
    else:
        _checked("body_budget", total, max_body)
    if per_principal is None:
        per_principal = max(max_body, total // 2)
    elif _checked("body_budget_per_principal", per_principal, max_body) > total:
        problem = f"expected at most body_budget ({total} bytes), got {per_principal}"
        raise OptionError("body_budget_per_principal", problem, other="body_budget")
    return BodyBudget(max_body, total, per_principal, patience=patience)


def _checked(option: str, size: int, max_body: int) -> int:
    check_integer(option, size, _EXPECTED, maximum=1 << 50)
    if size < max_body:
        raise OptionError(option, f"expected at least max_body ({max_body} bytes), got {size}", other="max_body")
    return size


def _now() -> float:
    return asyncio.get_running_loop().time()
