"""The order in which a request tries its targets.

By what it would lose at them, by how a group shares the load, and by their health.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, ResolvedRoute
from bud_asgi.protocol.account_state import pinning_state
from bud_asgi.providers import Provider
from bud_asgi.routing.affinity import affinity_key
from bud_asgi.routing.balance import Candidate, by_affinity, by_hash, by_weight, least_busy
from bud_asgi.routing.fleet import Fleet
from bud_asgi.routing.health import Health
from bud_asgi.routing.losses import Losses, Preference
from bud_asgi.routing.route import DEFAULT_BALANCE, Balance
from bud_asgi.routing.table import TableRoute

MAX_GROUPS = 4096
"""How many groups are remembered with what is known of their targets. Routes of a host's router may come and go."""


class Chooser:
    """Arranges the targets of requests. `fraction` returns random numbers from 0 up to but not including 1.

    `providers` are those of the targets, by name, and `dropped_fields` the account fields that each does not get. A
    target of a provider that is not among them is expected to lose nothing.

    Targets that are down come last, so that a request is always sent somewhere.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider] | None = None,
        dropped_fields: Mapping[str, frozenset[str]] | None = None,
        *,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self.fleet = Fleet(lambda target: target.concurrency)
        self.losses = Losses(providers or {}, dropped_fields or {})
        self._fraction = fraction
        self._groups: dict[int, _Known] = {}  # by the id of the group

    def arrange(
        self, exchange: Exchange, route: ResolvedRoute | None, targets: Sequence[Target], now: float
    ) -> Sequence[Target]:
        """The targets of a route in the order in which to try them; empty if all have as many calls as they may.

        Groups of a `RouteTable` share the load as their route says; other targets keep their order.
        """
        preferred = self.prefer(exchange, route, targets)
        balance = route.balance if isinstance(route, TableRoute) else DEFAULT_BALANCE
        return self.fleet.arrange(preferred.groups, now, _Order(self, exchange, balance, now), preferred.later)

    def prefer(self, exchange: Exchange, route: ResolvedRoute | None, targets: Sequence[Target]) -> Preference:
        """The targets that a request may be sent to, whatever their health, in groups.

        Targets whose provider would reject the request are left out, if another accepts it. If it names state of one
        account, so are those at other providers than the one that has it: where its conversation is at home, because an
        earlier request of that created the state, or else the first.
        """
        if not isinstance(route, TableRoute):
            return self.losses.prefer(exchange, [(target,) for target in targets])
        is_whole = len(targets) == len(route.targets)
        groups = route.groups if is_whole else [(target,) for target in targets]
        preferred = self.losses.prefer(exchange, groups, fixed=is_whole)
        if not pinning_state(exchange.decoded_request):
            return preferred
        first = preferred.groups[0]
        home = self._home(exchange, first, route.balance) or first[0]
        left = [*preferred.groups, *preferred.later]
        return Preference([(target,) for group in left for target in group if target.provider == home.provider])

    def home(self, exchange: Exchange) -> Target | None:
        """The target of a request's conversation in the first group of its route, whatever its load and its health.

        `None` without one: each request of such a route goes to the target that is best at the time.
        """
        route = exchange.route
        return self._home(exchange, route.groups[0], route.balance) if isinstance(route, TableRoute) else None

    def order(self, group: Sequence[Target], balance: Balance, key: int | None, now: float) -> Sequence[Target]:
        """The targets of one group, those that are down behind the others."""
        known = self._of(group)
        available = [
            candidate
            for candidate, health in zip(known.candidates, known.healths, strict=True)
            if (now >= health.clear_from and health.in_flight < health.concurrency) or health.may_take(now)
        ]
        if balance == "weighted":
            ordered = by_weight(available or known.candidates, self._fraction)
        elif key is None:
            ordered = least_busy(available or known.candidates, self._fraction, now)
        else:
            ordered = by_affinity(available or known.candidates, key)
        first = [one.target for one in ordered]
        return first if len(first) == len(group) else [*first, *(target for target in group if target not in first)]

    def _home(self, exchange: Exchange, group: Sequence[Target], balance: Balance) -> Target | None:
        key = affinity_key(exchange) if balance == "affinity" and len(group) > 1 else None
        return None if key is None else by_hash(self._of(group).candidates, key)[0].target

    def _of(self, group: Sequence[Target]) -> _Known:
        known = self._groups.get(id(group))
        if known is None or known.forgotten != self.fleet.forgotten:
            if len(self._groups) >= MAX_GROUPS:
                self._groups.clear()
            healths = tuple(map(self.fleet.health, group))
            pairs = zip(group, healths, strict=True)
            candidates = tuple(Candidate(target, health, target.weight or 1) for target, health in pairs)
            known = self._groups[id(group)] = _Known(group, candidates, healths, self.fleet.forgotten)
        return known


class _Known(msgspec.Struct, frozen=True):
    """The candidates of a group with their health. It keeps the group, so that its id stays its own.

    `forgotten` is how often the fleet had forgotten targets by then: the health of one may be another object since.
    """

    group: Sequence[Target]
    candidates: tuple[Candidate, ...]
    healths: tuple[Health, ...]
    forgotten: int


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
