"""A route: a model, the groups of targets that serve it, and the requests that it is for. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast, get_args

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.options import (
    OptionError,
    check_choice,
    check_flag,
    check_seconds,
    check_text,
    check_type,
    duplicates,
    mismatch,
)
from bud_asgi.protocol.patterns import base_name
from bud_asgi.routing.conditions import (
    ANY,
    FEATURES_EXPECTED,
    Conditions,
    check_headers,
    check_patterns,
    check_sizes,
    covers,
)

Balance = Literal["affinity", "least_busy", "weighted"]
"""How the targets of a group share the load.

`affinity`: a conversation stays at one target, where its prompt is cached. `least_busy`: the target with the fewest
requests and the shortest time to the first token. `weighted`: at random, by weight.
"""

DEFAULT_BALANCE: Balance = "affinity"

LONGEST_HEDGE = 3600.0
"""Seconds."""

Group = tuple[Target, ...]
"""Targets that share the load."""

TARGETS_EXPECTED = "a list of targets: names of providers, or pairs of a provider and its model"
_TARGET_EXPECTED = "the name of a provider, or a provider with a model"


class Route(msgspec.Struct, frozen=True):
    """A model name, or a pattern with `*` for any characters, and the targets that serve it.

    A target is a provider's name, which gets the model as the client wrote it, or a `Target`. Targets are tried in
    order. A nested list is a group, whose targets share the load: `to=[["anthropic", Target("second", weight=3)],
    "bedrock"]` are two groups. A list in which a target has a weight, and that has no nested list, is one group.
    `balance` is how a group shares the load, by default `affinity`; `None` where each group has one target. `hedge` is
    in seconds: where a reply has not begun by then, the next target gets the request too, and the reply that begins
    first is delivered. The other call is cancelled, and may be billed.

    `principals`, `teams`, `features`, `headers`, `min_bytes` and `max_bytes` are conditions, which must all hold;
    otherwise the next route for the model is tried. `principals` and `teams` are names or patterns, and so are
    `features`: of beta flags and top-level fields, of which the request uses at least one. `headers` maps names of
    request headers to patterns of their values, and the sizes, both inclusive, are those of the request body. Clients
    choose features and headers, so that a condition on them does not protect anything.

    `retry_without_thinking`: where an upstream refuses the signature of a thinking block in the conversation, the
    request is tried once more without such blocks. `failover_on_unknown`: whether the next target is tried where a
    request was sent and no reply came; it may then be billed twice, once to the operator. Raises `OptionError`.
    """

    model: str
    to: Sequence[str | Target | Sequence[str | Target]]
    balance: Balance | None = None
    principals: Sequence[str] = ANY
    teams: Sequence[str] = ANY
    headers: Mapping[str, str] = {}
    min_bytes: int | None = None
    max_bytes: int | None = None
    features: Sequence[str] = ANY
    hedge: float | None = None
    retry_without_thinking: bool = False
    failover_on_unknown: bool = True

    def __post_init__(self) -> None:
        """Check the options; lists become tuples."""
        check_text("model", self.model, 'a model name or a pattern with *, such as "claude-*"')
        msgspec.structs.force_setattr(self, "to", _checked_targets(self.to))
        _check_together(self)
        if self.balance is not None:
            check_choice("balance", self.balance, get_args(Balance))
        if any(len(group) > 1 for group in self.groups):
            msgspec.structs.force_setattr(self, "balance", self.balance or DEFAULT_BALANCE)
        elif self.balance is not None:
            raise OptionError("balance", "meaningless without a group of several targets: to = [[...]]", other="to")
        if self.hedge is not None:
            check_seconds("hedge", self.hedge, maximum=LONGEST_HEDGE)
            if len(self.targets) == 1:
                raise OptionError("hedge", "meaningless with one target: another one is called", other="to")
        msgspec.structs.force_setattr(self, "principals", check_patterns("principals", self.principals))
        msgspec.structs.force_setattr(self, "teams", check_patterns("teams", self.teams))
        features = check_patterns("features", self.features, FEATURES_EXPECTED)
        msgspec.structs.force_setattr(self, "features", features)
        msgspec.structs.force_setattr(self, "headers", check_headers(self.headers))
        check_sizes(self.min_bytes, self.max_bytes)
        check_flag("retry_without_thinking", self.retry_without_thinking)
        check_flag("failover_on_unknown", self.failover_on_unknown)

    def __hash__(self) -> int:
        """The same for equal routes: a route can be the key of a cache. Headers cannot be hashed."""
        return hash((self.model, self.to, self.balance))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The targets in full, in groups. The groups are tried in order."""
        if any(isinstance(item, tuple) for item in self.to):
            return tuple(
                tuple(map(_target, item)) if isinstance(item, tuple) else (_target(cast("str | Target", item)),)
                for item in self.to
            )
        if any(target.weight is not None for target in self.targets):
            return (self.targets,)
        return tuple((target,) for target in self.targets)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets in full, in one list."""
        return tuple(_target(target) for _, target in _named(self.to))

    @property
    def conditions(self) -> Conditions:
        """The conditions, in a form in which equal ones compare equal."""
        headers = sorted((name.encode(), pattern) for name, pattern in self.headers.items())
        principals, teams, features = (
            tuple(sorted(set(patterns))) for patterns in (self.principals, self.teams, self.features)
        )
        return Conditions(principals, teams, tuple(headers), self.min_bytes or 0, self.max_bytes, features)


def unreachable(routes: Sequence[Route]) -> Iterator[tuple[int, int]]:
    """Yield the index of each route that no request can reach, and of the one that is always used before it."""
    conditions = [route.conditions for route in routes]
    for index, route in enumerate(routes):
        for earlier in range(index):
            wider = routes[earlier].model
            covered = covers(wider, route.model) if "*" in route.model else wider == route.model
            if covered and conditions[earlier].cover(conditions[index]):
                yield index, earlier
                break


def _target(target: str | Target) -> Target:
    return Target(target) if isinstance(target, str) else target


def _named(to: Sequence[str | Target | Sequence[str | Target]]) -> Iterator[tuple[str, str | Target]]:
    """Yield the targets, nested ones too, with the names that errors give them."""
    for index, item in enumerate(to):
        if isinstance(item, tuple):
            yield from ((f"to[{index}][{place}]", target) for place, target in enumerate(item))
        else:
            yield f"to[{index}]", cast("str | Target", item)


def _checked_targets(to: object) -> tuple[str | Target | tuple[str | Target, ...], ...]:
    return tuple(_checked_item(f"to[{index}]", item) for index, item in enumerate(_items("to", to)))


def _checked_item(option: str, item: object) -> str | Target | tuple[str | Target, ...]:
    if not isinstance(item, list | tuple):
        return _checked_target(option, item)
    targets = _items(option, cast("object", item))
    return tuple(_checked_target(f"{option}[{index}]", target) for index, target in enumerate(targets))


def _items(option: str, value: object) -> Sequence[object]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise mismatch(option, TARGETS_EXPECTED, cast("object", value))
    return cast("Sequence[object]", value)


def _checked_target(option: str, target: object) -> str | Target:
    if isinstance(target, Target):
        return target
    check_text(option, target, _TARGET_EXPECTED)
    return cast("str", target)


def _check_together(route: Route) -> None:
    """Check the targets beside each other: each one is another, and a weight compares it with others."""
    named = list(_named(route.to))
    own_name = None if "*" in route.model else base_name(route.model)
    for index, first in duplicates((one.provider, one.model or own_name) for one in route.targets):
        raise OptionError(named[index][0], f"the same provider and model as {named[first][0]}", other="to")
    sizes = [len(group) for group in route.groups for _ in group]
    for (name, _), target, size in zip(named, route.targets, sizes, strict=True):
        if size == 1 and target.weight is not None:
            problem = "meaningless for a target that shares its load with no other; expected a group: to = [[...]]"
            raise OptionError(f"{name}.weight", problem, other="to")


def check_route(name: str, route: object) -> None:
    """Check for a `Route`. Raises `OptionError`."""
    check_type(name, route, Route, "a Route")
