"""The policies that are compared: in which order a replica tries its targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange
from bud_asgi.routing import Balance, Chooser, Route, RouteTable
from bud_asgi.routing.affinity import affinity_key
from bud_asgi.routing.balance import FACTOR, Candidate, by_affinity

MODEL = "claude-haiku-4-5"

Arrange = Callable[[Exchange, float], Sequence[Target]]
"""The targets of a request in the order in which to try them, at a time in seconds."""


class Policy(msgspec.Struct, frozen=True):
    """How replicas arrange their targets. `arranger` is called once for each replica."""

    name: str
    arranger: Callable[[Chooser, Sequence[Target]], Arrange]


def _balanced(balance: Balance, chooser: Chooser, targets: Sequence[Target]) -> Arrange:
    """The gateway's own: by health, then by the balance of the group."""
    route = RouteTable([Route(MODEL, [list(targets)], balance=balance)]).resolve(MODEL, None)
    return lambda exchange, now: chooser.arrange(exchange, route, route.targets, now)


def _affinity_within(deviations: float, chooser: Chooser, targets: Sequence[Target]) -> Arrange:
    """By affinity alone, for targets without faults."""
    candidates = [Candidate(target, chooser.fleet.health(target)) for target in targets]
    return lambda exchange, now: [
        one.target for one in by_affinity(candidates, affinity_key(exchange) or 0, FACTOR, deviations)
    ]


def _round_robin(chooser: Chooser, targets: Sequence[Target]) -> Arrange:
    """Each request begins at the next target, regardless of its health."""
    numbers = count()

    def arrange(exchange: Exchange, now: float) -> Sequence[Target]:
        first = next(numbers) % len(targets)
        return [*targets[first:], *targets[:first]]

    return arrange


def _priority(chooser: Chooser, targets: Sequence[Target]) -> Arrange:
    """All requests try the targets in the same order, regardless of their health."""
    return lambda exchange, now: targets


AFFINITY = Policy("affinity", partial(_balanced, "affinity"))
LEAST_BUSY = Policy("least busy", partial(_balanced, "least_busy"))
ROUND_ROBIN = Policy("round robin", _round_robin)
PRIORITY = Policy("priority order", _priority)

POLICIES = (AFFINITY, LEAST_BUSY, ROUND_ROBIN, PRIORITY)


def affinity_within(deviations: float) -> Policy:
    """Affinity with so many standard deviations above its share for a target that is not overloaded."""
    return Policy(f"{deviations:g}", partial(_affinity_within, deviations))
