"""The order in which a request tries its targets: by their health, and by how a group shares the load."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bud_asgi.exchange import Exchange, ResolvedRoute, Target
from bud_asgi.routing.affinity import affinity_key
from bud_asgi.routing.balance import Candidate, by_affinity, by_weight, least_busy, rendezvous
from bud_asgi.routing.fleet import Fleet
from bud_asgi.routing.route import Balance
from bud_asgi.routing.table import TableRoute


class Chooser:
    """Arranges the targets of requests. `fraction` returns random numbers from 0 up to but not including 1.

    Targets that are down come last, so that a request is always sent somewhere.
    """

    def __init__(self, *, fraction: Callable[[], float] = random.random) -> None:
        self.fleet = Fleet(lambda target: target.concurrency)
        self._fraction = fraction
        self._candidates: dict[int, tuple[Sequence[Target], tuple[Candidate, ...]]] = {}  # by the id of the group

    def arrange(
        self, exchange: Exchange, route: ResolvedRoute | None, targets: Sequence[Target], now: float
    ) -> Sequence[Target]:
        """The targets of a route in the order in which to try them; empty if all have as many calls as they may.

        Groups of a `RouteTable` share the load as their route says; other targets keep their order.
        """
        if len(targets) == 1:
            return () if self.fleet.health(targets[0]).is_full else targets
        if isinstance(route, TableRoute) and len(targets) == len(route.targets):
            return self.fleet.arrange(route.groups, now, _Order(self, exchange, route.balance, now))
        return self.fleet.arrange([(target,) for target in targets], now, _keep)

    def home(self, exchange: Exchange) -> Target | None:
        """The target of a request's conversation in the first group of its route, whatever its load and its health.

        `None` without one: each request of such a route goes to the target that is best at the time.
        """
        route = exchange.route
        if not isinstance(route, TableRoute) or route.balance != "affinity" or len(route.groups[0]) == 1:
            return None
        key = affinity_key(exchange)
        return None if key is None else rendezvous(self._of(route.groups[0]), key)[0].target

    def order(self, group: Sequence[Target], balance: Balance, key: int | None, now: float) -> Sequence[Target]:
        """The targets of one group, those that are down behind the others."""
        candidates = self._of(group)
        available = [one for one in candidates if self.fleet.health(one.target).may_take(now)] or candidates
        if balance == "weighted":
            ordered = by_weight(available, self._fraction)
        elif key is None:
            ordered = least_busy(available, self._fraction)
        else:
            ordered = by_affinity(available, key)
        first = [one.target for one in ordered]
        return first if len(first) == len(group) else [*first, *(target for target in group if target not in first)]

    def _of(self, group: Sequence[Target]) -> tuple[Candidate, ...]:
        known = self._candidates.get(id(group))
        if known is None:
            health = self.fleet.health
            candidates = tuple(Candidate(target, health(target), target.weight or 1) for target in group)
            known = self._candidates[id(group)] = (group, candidates)  # the group is kept, so that its id stays its own
        return known[1]


class _Order:
    """Orders the groups of one request. The key of its conversation is computed once, if a group needs it."""

    __slots__ = ("_balance", "_chooser", "_exchange", "_key", "_now")

    _balance: Balance

    def __init__(self, chooser: Chooser, exchange: Exchange, balance: Balance, now: float) -> None:
        self._chooser = chooser
        self._exchange = exchange
        self._balance = balance
        self._now = now
        self._key: int | None = None

    def __call__(self, group: Sequence[Target]) -> Sequence[Target]:
        if self._balance == "affinity" and self._key is None:
            self._key = affinity_key(self._exchange)
        return self._chooser.order(group, self._balance, self._key, self._now)


def _keep(group: Sequence[Target]) -> Sequence[Target]:
    return group
