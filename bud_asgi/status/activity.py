"""Collects what the status page shows beside the state: use by caller, recent refusals, latency by target. Bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import nlargest

import msgspec

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import limit_words
from bud_asgi.observer import Observer
from bud_asgi.printable import printable
from bud_asgi.protocol.errors import known_type

MAX_CALLERS = 1000
"""How many callers are counted each. Beyond that, the half of them that used least is added to the rest."""

MAX_REFUSALS = 50
MAX_TARGETS = 256
"""Further targets have no history: a router that is a function may name any number of models."""

STEP = 10.0
"""Seconds of a step of the history."""

STEPS = 60
"""How many steps of a target's history are kept: ten minutes."""

_LONGEST = 80  # characters of a name that a caller chooses


class Use(msgspec.Struct, gc=False):
    """What one caller has used since the start: requests, those that failed, and tokens by kind."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_creation_tokens

    def add(self, other: Use) -> None:
        """Add another one's counts."""
        self.requests += other.requests
        self.failed += other.failed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cache_read_tokens += other.cache_read_tokens
        self.cache_creation_tokens += other.cache_creation_tokens


class Caller(msgspec.Struct):
    """A caller as it was last seen, with the model of its last request, and what it has used."""

    principal: Principal
    model: str | None
    use: Use


class Refusal(msgspec.Struct):
    """Requests that ended with the same error, for the same caller: how many, and the last one of them.

    `at` is its Unix time. `error` is its type in the Messages API, `other` for one that only the upstream knows, empty
    if there was none. `model` is the one that the client named, `limit` the limit that had no room.
    """

    at: float
    status: int | None
    error: str
    outcome: str
    principal: str | None
    limit: str | None
    model: str | None
    request_id: str
    count: int = 1


class Step(msgspec.Struct, gc=False):
    """The attempts that ended within one step of time: how many failed, and the time to the first event of others."""

    number: int
    events: int = 0
    seconds: float = 0.0
    failed: int = 0


class Activity(Observer):
    """The observer of the status page. It keeps nothing of a request's content.

    `clock` returns Unix time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self._rest = Use()
        self._refusals: OrderedDict[tuple[object, ...], Refusal] = OrderedDict()
        self._history: dict[tuple[str, str | None], list[Step | None]] = {}

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        """Add the attempt to the history of its target."""
        target = attempt.target
        key = target.provider, target.model
        steps = self._history.get(key)
        if steps is None:
            if len(self._history) >= MAX_TARGETS:
                return
            steps = self._history[key] = [None] * STEPS
        number = int(self._clock() / STEP)
        step = steps[number % STEPS]
        if step is None or step.number != number:
            step = steps[number % STEPS] = Step(number)
        if attempt.end == "answered" and attempt.first_event is not None:
            step.events += 1
            step.seconds += attempt.first_event - attempt.started
        elif attempt.end not in {"answered", "client_gone", "cancelled"}:
            step.failed += 1

    def settled(self, exchange: Exchange) -> None:
        """Count the request for its caller, and note how it failed."""
        status = exchange.status
        failed = exchange.outcome != "answered" or (status is not None and status >= 400)
        if exchange.principal is not None:
            self._count(exchange, exchange.principal, failed=failed)
        if failed:
            self._note(exchange)

    def callers(self, number: int) -> tuple[Sequence[Caller], Use]:
        """The callers that have used most tokens, and what all others have used."""
        first = nlargest(number, self._callers.values(), key=_most_first)
        rest, shown = msgspec.structs.replace(self._rest), set(map(id, first))
        for caller in self._callers.values():
            if id(caller) not in shown:
                rest.add(caller.use)
        return first, rest

    def recent_callers(self, number: int) -> Sequence[Caller]:
        """The callers whose requests ended last, the latest first."""
        return list(reversed(self._callers.values()))[:number]

    def refusals(self) -> Sequence[Refusal]:
        """The recent refusals and failures, the latest first."""
        return list(reversed(self._refusals.values()))

    def history(self, provider: str, model: str | None) -> Sequence[Step | None]:
        """The steps of the last ten minutes, the oldest first; `None` for those without attempts."""
        steps, now = self._history.get((provider, model)), int(self._clock() / STEP)
        if steps is None:
            return ()
        found = [steps[number % STEPS] for number in range(now - STEPS + 1, now + 1)]
        return [step if step is not None and step.number > now - STEPS else None for step in found]

    def _count(self, exchange: Exchange, principal: Principal, *, failed: bool) -> None:
        callers = self._callers
        caller = callers.pop(principal.id, None)
        if caller is None:
            if len(callers) >= MAX_CALLERS:
                self._fold()
            caller = Caller(principal, None, Use())
        callers[principal.id] = caller  # at the end: they are in the order of their last requests
        caller.principal, use, usage = principal, caller.use, exchange.usage
        if exchange.route is not None:
            caller.model = exchange.route.model
        use.requests += 1
        use.failed += failed
        if usage is not None:
            use.input_tokens += usage.input_tokens or 0
            use.output_tokens += usage.output_tokens or 0
            use.cache_read_tokens += usage.cache_read_input_tokens or 0
            use.cache_creation_tokens += usage.cache_creation_input_tokens or 0

    def _fold(self) -> None:
        """Add the half of the callers that used least to the rest."""
        least = sorted(self._callers.values(), key=_most_first)[: MAX_CALLERS // 2]
        for caller in least:
            self._rest.add(caller.use)
            del self._callers[caller.principal.id]

    def _note(self, exchange: Exchange) -> None:
        principal = None if exchange.principal is None else shown_name(exchange.principal.id)
        limit = None if exchange.refused_by is None else limit_words(exchange.refused_by)
        kind, request = exchange.error_type, exchange.read_request
        error = "" if kind is None else known_type(kind, "other")
        key = exchange.status, error, exchange.outcome, principal, limit
        refusal = self._refusals.pop(key, None)
        if refusal is None and len(self._refusals) >= MAX_REFUSALS:
            self._refusals.popitem(last=False)
        self._refusals[key] = Refusal(
            self._clock(),
            exchange.status,
            error,
            exchange.outcome or "",
            principal,
            limit,
            None if request is None else shown_name(request.model),
            exchange.request_id,
            1 if refusal is None else refusal.count + 1,
        )


def shown_name(name: str) -> str:
    """A name that a caller may have chosen: of bounded length, without unprintable characters."""
    return printable(name[:_LONGEST])[: 2 * _LONGEST]


def _most_first(caller: Caller) -> tuple[int, int]:
    return caller.use.tokens, caller.use.requests
