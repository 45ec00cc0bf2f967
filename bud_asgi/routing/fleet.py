"""The targets of a gateway with their health, and the order in which a request tries them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from operator import itemgetter

from bud_asgi.attempt import Target
from bud_asgi.routing.health import UNLIMITED, Health, Verdict
from bud_asgi.state import TargetState

MAX_TARGETS = 4096
"""How many targets are remembered. Above that, those without calls are forgotten, the healthy ones first."""

ENOUGH = 6
"""How many targets a request needs at most: three are tried, and others may become full meanwhile."""

Order = Callable[[Sequence[Target]], Sequence[Target]]
"""Orders the targets of a group: it returns each of them once."""

_FAILURES: Mapping[Verdict, str] = {
    "failed": "no connection, no reply in time, an error of the server's, or a broken reply",
    "busy": "rate limited or overloaded",
    "credential": "the credential was refused",
    "missing": "the target does not serve the model",
}

_Key = tuple[str, str | None]
_time_first = itemgetter(0)


def _unlimited(target: Target) -> int | None:
    return None


class Fleet:
    """Keeps the health of each target, by provider and model, and arranges the targets of a request.

    `concurrency` returns how many calls to a target may run at once, `None` for any number. It is called when a target
    is first seen. Unknown targets are added. `forgotten` counts how often targets have been forgotten: references to
    their health are out of date from then on.
    """

    __slots__ = ("_concurrency", "_known", "forgotten")

    def __init__(self, concurrency: Callable[[Target], int | None] = _unlimited) -> None:
        self._concurrency = concurrency
        self._known: dict[_Key, Health] = {}
        self.forgotten = 0

    def health(self, target: Target) -> Health:
        """The health of a target. Begin its call at once: a target without calls may be forgotten."""
        return self._known.get((target.provider, target.model)) or self._add(target)

    def continue_from(self, former: Fleet, providers: Collection[str], targets: Iterable[Target] | None = None) -> None:
        """Take over the health of these targets, as far as they are of these providers; of all without `targets`.

        Their `concurrency` may be another one from now on.
        """
        for target in [Target(*key) for key in former._known] if targets is None else targets:
            key = target.provider, target.model
            health = former._known.get(key)
            if health is None or target.provider not in providers or key in self._known:
                continue
            if targets is not None:
                health.concurrency = self._limit_of(target)
            self._known[key] = health

    def arrange(
        self, groups: Sequence[Sequence[Target]], now: float, order: Order, later: Sequence[Sequence[Target]] = ()
    ) -> Sequence[Target]:
        """The targets of all groups, in the order in which to try them; empty if none has room for a call.

        Once there are `ENOUGH` that may be tried now, further ones are left out: no request is sent to so many.
        The groups follow each other, each as `order` arranges it. Targets that are nearly full come after those of all
        groups, then those of the `later` groups in the same way, then those that are down, by the time at which they
        may be tried again; those that are full are left out. A target that is due for a probe keeps its place.
        """
        if len(groups) == 1 and len(groups[0]) == 1 and not later:
            return groups[0] if not self.health(groups[0][0]).is_full else ()
        down: list[tuple[float, Target]] = []
        ready = self._ready(groups, now, order, down)
        if len(ready) >= ENOUGH:
            return ready
        if later:
            ready += self._ready(later, now, order, down)
        if down:
            down.sort(key=_time_first)
            ready += [target for _, target in down]
        return ready

    def _ready(
        self, groups: Sequence[Sequence[Target]], now: float, order: Order, down: list[tuple[float, Target]]
    ) -> list[Target]:
        """The targets that may be tried now, those that are nearly full last; the others with room go to `down`."""
        ready: list[Target] = []
        nearly_full: list[Target] = []
        for group in groups:
            self._divide(order(group) if len(group) > 1 else group, now, ready, nearly_full, down)
            if len(ready) >= ENOUGH:
                return ready
        return ready + nearly_full if nearly_full else ready

    def _divide(
        self,
        group: Sequence[Target],
        now: float,
        ready: list[Target],
        nearly_full: list[Target],
        down: list[tuple[float, Target]],
    ) -> None:
        """Add the targets of a group that have room to one of the lists, until enough are ready."""
        known = self._known.get
        for target in group:
            health = known((target.provider, target.model)) or self._add(target)
            if health.in_flight >= health.concurrency:
                continue
            if now >= health.clear_from:
                ready.append(target)
                if len(ready) >= ENOUGH:
                    return
            elif (at := health.available_at(now)) > now or health.is_probing:
                down.append((at, target))
            elif health.is_nearly_full(now):
                nearly_full.append(target)
            else:
                ready.append(target)

    def snapshot(self, now: float, others: Iterable[Target] = ()) -> Sequence[TargetState]:
        """The state of all targets that have been called, then of the others."""
        states = [_state_of(Target(*key), health, now) for key, health in tuple(self._known.items())]
        unseen = {(target.provider, target.model): None for target in others}.keys() - self._known.keys()
        return [*states, *(TargetState(Target(*key), "up") for key in unseen)]

    def _add(self, target: Target) -> Health:
        if len(self._known) >= MAX_TARGETS:
            self._forget()
        health = self._known[target.provider, target.model] = Health(self._limit_of(target))
        return health

    def _limit_of(self, target: Target) -> int:
        limit = self._concurrency(target)
        return UNLIMITED if limit is None else limit

    def _forget(self) -> None:
        """Forget targets without calls, at most half of all: the healthy ones first, then those known longest."""
        idle = [(key, health) for key, health in self._known.items() if not health.in_flight]
        idle.sort(key=lambda item: item[1].clear_from > -inf)
        for key, _ in idle[: MAX_TARGETS // 2]:
            del self._known[key]
        self.forgotten += 1


def _state_of(target: Target, health: Health, now: float) -> TargetState:
    state, reason = health.state(now)
    until = health.available_at(now)
    return TargetState(
        target,
        state,
        reason,
        until - now if until > now else None,
        health.in_flight,
        health.first_byte_seconds,
        health.calls,
        health.failures,
        health.breaker(now),
        "" if health.last_failure is None else _FAILURES[health.last_failure],
        None if health.last_failure_at is None else now - health.last_failure_at,
    )
