"""What the status page shows, as data: the document `status.json`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from heapq import nsmallest

import msgspec

from bud_asgi.exchange import Exchange, ResolvedRoute
from bud_asgi.limit import limit_id, limit_words
from bud_asgi.limits import Limiter, Standing, StoreUnavailable
from bud_asgi.observer import Observers
from bud_asgi.routing import TableRoute
from bud_asgi.state import AppState
from bud_asgi.status.activity import Activity, Caller, Refusal, Use, shown_name

MAX_STREAMS = 100
MAX_KEYS = 100
MAX_STANDINGS = 20
"""How many of the callers whose requests ended last are shown with their limits."""

WITHIN = 1.0
"""Seconds that a shared store of limits may take."""


class StreamRow(msgspec.Struct, frozen=True):
    """A running stream: its `age` in seconds, who and what for, and in how many `pieces` it has been sent so far."""

    request_id: str
    age: float
    principal: str
    model: str
    route: str | None
    target: str | None
    pieces: int


class KeyRow(msgspec.Struct, frozen=True):
    """What a caller has used since the start."""

    principal: str
    team: str | None
    use: Use


class StandingRow(msgspec.Struct, frozen=True):
    """How much of a limit is used, in debt more than its `amount`.

    `limit` describes it, `per` is what it is counted for, and `name` for which of those; `None` for all. `used`
    includes what running requests hold.
    """

    limit: str
    per: str
    name: str | None
    amount: int
    used: float


class HistoryRow(msgspec.Struct, frozen=True):
    """The last ten minutes of a target, in steps of ten seconds, the oldest first.

    `first_byte` is the mean time to the first event in seconds, `None` without one; `failed` are the attempts that
    failed.
    """

    provider: str
    model: str | None
    first_byte: Sequence[float | None]
    failed: Sequence[int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document. `at` is Unix time, and the figures are those of this process alone.

    Of the streams, the oldest are listed; of the keys, those that used most tokens: `other_keys` is the sum of the
    others. `limits` are those of the callers whose requests ended last; `limits_error` is why they are
    unavailable, empty if they are not.
    """

    at: float
    pid: int
    app: AppState
    streams: Sequence[StreamRow]
    history: Sequence[HistoryRow]
    limits: Sequence[StandingRow]
    limits_error: str
    keys: Sequence[KeyRow]
    other_keys: Use
    refusals: Sequence[Refusal]


class StatusSource:
    """What reports are made of: functions that return the state, the requests in flight and the limits, as of now.

    The observer that collects the rest is added to `observers` when it is first needed.
    """

    def __init__(
        self,
        state: Callable[[], AppState],
        in_flight: Callable[[], Sequence[Exchange]],
        limiter: Callable[[], Limiter],
        observers: Observers,
    ) -> None:
        self.state, self.in_flight, self.limiter = state, in_flight, limiter
        self._observers = observers
        self._activity: Activity | None = None

    @property
    def activity(self) -> Activity:
        """What is collected, from the first use of this on."""
        if self._activity is None:
            self._activity = Activity()
            self._observers.add(self._activity)
        return self._activity


async def make_report(source: StatusSource, activity: Activity) -> Report:
    """Make the report. Waits at most `WITHIN` seconds, for a shared store of limits."""
    state = source.state()
    callers, other_keys = activity.callers(MAX_KEYS)
    limits, limits_error = await _standings(source.limiter(), activity, state)
    return Report(
        at=time.time(),
        pid=os.getpid(),
        app=state,
        streams=_streams(source.in_flight()),
        history=_history(state, activity),
        limits=limits,
        limits_error=limits_error,
        keys=[_key(caller) for caller in callers],
        other_keys=other_keys,
        refusals=activity.refusals(),
    )


def _streams(in_flight: Sequence[Exchange]) -> Sequence[StreamRow]:
    now = time.monotonic()
    running = [one for one in in_flight if one.committed is not None and one.read_request and one.read_request.stream]
    return [_stream(exchange, now) for exchange in nsmallest(MAX_STREAMS, running, key=_started)]


def _started(exchange: Exchange) -> float:
    return exchange.started


def _stream(exchange: Exchange, now: float) -> StreamRow:
    request = exchange.read_request
    target = exchange.attempts[-1].target if exchange.attempts else None
    return StreamRow(
        exchange.request_id,
        now - exchange.started,
        "" if exchange.principal is None else shown_name(exchange.principal.id),
        "" if request is None else shown_name(request.model),
        _route_name(exchange.route),
        None if target is None else target.name,
        exchange.writes,
    )


def _route_name(route: ResolvedRoute | None) -> str | None:
    if route is None:
        return None
    return shown_name(route.pattern if isinstance(route, TableRoute) else route.model)


def _key(caller: Caller) -> KeyRow:
    principal = caller.principal
    return KeyRow(shown_name(principal.id), principal.team and shown_name(principal.team), caller.use)


def _history(state: AppState, activity: Activity) -> Sequence[HistoryRow]:
    rows: list[HistoryRow] = []
    for one in state.targets:
        steps = activity.history(one.target.provider, one.target.model)
        if any(steps):
            means = [step.seconds / step.events if step is not None and step.events else None for step in steps]
            failed = [0 if step is None else step.failed for step in steps]
            rows.append(HistoryRow(one.target.provider, one.target.model, means, failed))
    return rows


async def _standings(limiter: Limiter, activity: Activity, state: AppState) -> tuple[Sequence[StandingRow], str]:
    """The limits on all callers, then those of recent callers; and why the latter are unavailable."""
    rows: dict[tuple[str, str | None], StandingRow] = {
        (limit.id, None): StandingRow(limit.name, limit.per, None, limit.amount, limit.used)
        for limit in state.limits
        if limit.used is not None
    }
    try:
        async with asyncio.timeout(WITHIN):
            for caller in activity.recent_callers(MAX_STANDINGS):
                await _add_standings(rows, limiter, caller)
    except StoreUnavailable as unavailable:
        return list(rows.values()), unavailable.reason
    except TypeError:
        return list(rows.values()), "the store cannot report it"
    except Exception as failure:  # noqa: BLE001 - a store may be the host's own code: the page is shown without it
        late = isinstance(failure, TimeoutError)
        return list(rows.values()), f"no answer within {WITHIN:g} s" if late else type(failure).__name__
    return list(rows.values()), ""


async def _add_standings(rows: dict[tuple[str, str | None], StandingRow], limiter: Limiter, caller: Caller) -> None:
    for standing in await limiter.standing(caller.principal, model=caller.model):
        row = _standing(standing, caller)
        rows.setdefault((limit_id(standing.limit), row.name), row)


def _standing(standing: Standing, caller: Caller) -> StandingRow:
    limit, principal = standing.limit, caller.principal
    names = {"principal": principal.id, "team": principal.team, "model": caller.model}
    name = names.get(limit.dimension)
    used = standing.used + standing.reserved
    return StandingRow(limit_words(limit), limit.dimension, name and shown_name(name), limit.amount, used)
