"""The budget for request bodies: how many bytes of them an app holds in memory, in all and for each principal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf

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

    `by_principal` has each caller's part of what is held. One body has at most `max_body` bytes. A request waits up to
    `patience` seconds for room.
    """

    __slots__ = ("_report_at", "by_principal", "held", "max_body", "patience", "per_principal", "total")

    def __init__(self, max_body: int, total: int, per_principal: int, *, patience: float = 1.5) -> None:
        self.max_body = max_body
        self.total = total
        self.per_principal = per_principal
        self.patience = patience
        self.held = 0
        self.by_principal: dict[str, int] = {}
        self._report_at = -inf

    def resized(self, other: BodyBudget) -> BodyBudget:
        """Adopt the sizes of another budget. Bytes that are held stay counted."""
        self.max_body, self.total, self.per_principal = other.max_body, other.total, other.per_principal
        return self

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
                self.by_principal.get(principal, 0),
                self.per_principal,
                principal,
            )
        return BodiesFull()


class Upload:
    """The body of one request as it arrives, and its part of the budget: `size` bytes, for the `principal`.

    `began_at`: its first bytes were asked for, `waiting_since`: the next ones are awaited, in seconds on the loop's
    clock. Both are 0 until the clock that watches them finds them so: a body that arrives at once need not read the
    time. `complete`: all of it has arrived. Without a `budget` nothing is counted.
    """

    # A class, not a struct: its attributes are set ten times a request, which costs more in a struct.
    __slots__ = ("began_at", "budget", "complete", "principal", "size", "waiting_since")

    def __init__(self) -> None:
        self.budget: BodyBudget | None = None
        self.principal = ""
        self.size = 0
        self.began_at: float | None = None
        self.waiting_since: float | None = None
        self.complete = False

    @property
    def began(self) -> bool:
        """Whether its bytes have been asked for."""
        return self.began_at is not None

    def has_room(self, size: int) -> bool:
        """Whether so many more bytes have room."""
        budget = self.budget
        return budget is None or (
            budget.held + size <= budget.total
            and budget.by_principal.get(self.principal, 0) + size <= budget.per_principal
        )

    def take(self, size: int) -> bool:
        """Count bytes that have arrived, if they have room. Returns whether they do."""
        budget = self.budget
        if budget is None or not size:
            return True
        share = budget.by_principal.get(self.principal, 0) + size
        if share > budget.per_principal or budget.held + size > budget.total:
            return False
        budget.held += size
        budget.by_principal[self.principal] = share
        self.size += size
        return True

    async def wait_for_room(self, size: int) -> None:
        """Wait until so many bytes have room. Raises `BodiesFull`."""
        await self._wait(self.has_room, size)

    async def wait_to_take(self, size: int) -> None:
        """Count bytes that have arrived as soon as they have room. Raises `BodiesFull`."""
        await self._wait(self.take, size)

    async def _wait(self, succeeds: Callable[[int], bool], size: int) -> None:
        deadline: float | None = None
        while not succeeds(size) and self.budget is not None:
            deadline = deadline or _now() + self.budget.patience
            if _now() >= deadline:
                raise self.budget.refuse(self.principal)
            await asyncio.sleep(_POLL)

    def release(self) -> None:
        """Give everything back to the budget. May be called twice."""
        budget, size = self.budget, self.size
        if budget is None or not size:
            return
        self.size = 0
        budget.held -= size
        left = budget.by_principal[self.principal] - size
        if left:
            budget.by_principal[self.principal] = left
        else:
            del budget.by_principal[self.principal]


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
