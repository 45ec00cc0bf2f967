"""A route table: exact model names, patterns with `*`, and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, TypeVar

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.options import OptionError, check_items, duplicates
from bud_asgi.protocol.account_state import pinning_state
from bud_asgi.protocol.errors import ModelNotAllowed, NotFound
from bud_asgi.protocol.patterns import (
    LONGEST_REMEMBERED,
    MAX_REMEMBERED,
    Pattern,
    base_name,
    compile_pattern,
    is_resource_name,
    names_resource,
)
from bud_asgi.routing.conditions import UNCONDITIONAL, Conditions
from bud_asgi.routing.route import DEFAULT_BALANCE, Balance, Group, Route, check_route

Key = TypeVar("Key")
Found = TypeVar("Found")


class TableRoute(msgspec.Struct, frozen=True):
    """A route of a `RouteTable`, for one model name.

    `model` is the name that permissions, limits and accounts use, `pattern` the one that the route has in the table, at
    the position `index`. `groups` are tried in order, the targets of each share the load by `balance`. `targets` are
    all of them in order. The other options are those of `Route`.
    """

    model: str
    pattern: str
    index: int
    groups: Sequence[Group]
    targets: Sequence[Target]
    balance: Balance
    conditions: Conditions
    hedge: float | None = None
    retry_without_thinking: bool = False
    failover_on_unknown: bool = True

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        """The targets in their order; only those at the first provider if the request names state of one account.

        For a router that wraps a table. The gateway itself takes all targets, and leaves this to `Chooser`.
        """
        request = exchange.read_request
        if len(self.targets) > 1 and request is not None and pinning_state(request):
            return [target for target in self.targets if target.provider == self.targets[0].provider]
        return self.targets


class Step(msgspec.Struct, frozen=True):
    """Why a route of a table is used for a request or not.

    `model`: it is for other models. `condition`: the option in `unmet` does not hold. `used`: it is the route of the
    request. `later`: an earlier one is used.
    """

    index: int
    result: Literal["model", "condition", "used", "later"]
    unmet: str = ""


class RouteTable:
    """Resolves by table: an exact name first, then the patterns in their order.

    A route whose conditions do not hold for a request is skipped, so several may have the same model.
    A cloud's full name of a resource (an ARN) must be named by a route or the principal: `*` alone does not match it.
    A context window behind the name of a Claude model (`claude-opus-4-8[1m]`) is ignored, unless a route has that name.
    Raises `OptionError` for two routes of the same model and conditions.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        routes = check_items("routes", routes, "a list of Route", check_route)
        for index, first in duplicates((route.model, route.conditions) for route in routes):
            raise OptionError(f"routes[{index}].model", f"duplicate route, already defined by routes[{first}]")
        self.routes = routes
        self._exact: dict[str, list[TableRoute]] = {}
        self._patterns: list[tuple[Pattern, TableRoute]] = []
        for index, route in enumerate(routes):
            if "*" in route.model:
                self._patterns.append((compile_pattern(route.model), table_route(route, index)))
            else:
                self._exact.setdefault(route.model, []).append(table_route(route, index))
        patterns = sorted((route for _, route in self._patterns), key=lambda route: route.conditions.by_request)
        self._offered = (*chain.from_iterable(self._exact.values()), *patterns)
        self._has_conditions = any(route.conditions is not UNCONDITIONAL for route in self._offered)
        by_caller = any(route.conditions.by_caller for route in self._offered)
        self._offers = None if by_caller else self._offers_to(None)
        self._matching: dict[str, Sequence[TableRoute]] = {}
        self._remembered: dict[tuple[str, tuple[str, ...]], TableRoute] = {}

    def resolve(self, model: str, principal: Principal | None) -> TableRoute:
        """The route for a model name, where the request is not known: those with conditions on it are skipped.

        Raises `NotFound`, `ModelNotAllowed`.
        """
        return self._find(model, principal, None)

    def resolve_for(self, exchange: Exchange, model: str) -> TableRoute:
        """The route for a model name in a request that has been read. Raises `NotFound`, `ModelNotAllowed`."""
        return self._find(model, exchange.principal, exchange)

    def resolve_checked(self, model: str, principal: Principal, exchange: Exchange) -> TableRoute:
        """Do the same, and check the model of the route as well.

        A route without conditions is remembered for each list of permitted models.
        """
        key = model, principal.models
        resolved = self._remembered.get(key)
        if resolved is None:
            resolved = self._find(model, principal, exchange)
            if not principal.may_use(resolved.model):
                raise ModelNotAllowed(resolved.model)
            if self._is_fixed(model):
                _remember(self._remembered, model, key, resolved)
        return resolved

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """The exact names, then the patterns, without routes that are for other callers.

        Which names a principal may use is checked by the Models API. Routes of one model are one offer. A pattern with
        a condition on the request comes after those without.
        """
        return self._offers_to(principal) if self._offers is None else list(self._offers)

    def explain(self, exchange: Exchange, model: str) -> Sequence[Step]:
        """Why each route is used for a request or not, in the order of the look-up. The request must have been read."""
        used = False
        steps: dict[int, Step] = {}
        for route in self._candidates(model):
            unmet = route.conditions.unmet(exchange.principal, exchange)
            steps[route.index] = Step(route.index, "condition" if unmet else "later" if used else "used", unmet or "")
            used = used or unmet is None
        order = sorted(range(len(self.routes)), key=lambda index: "*" in self.routes[index].model)
        return [steps.get(index) or Step(index, "model") for index in order]

    def _offers_to(self, principal: Principal | None) -> Sequence[Offer]:
        targets: dict[str, dict[Target, None]] = {}
        for route in self._offered:
            if route.conditions.unmet_by(principal) is None:
                targets.setdefault(self.routes[route.index].model, {}).update(dict.fromkeys(route.targets))
        return [Offer(model, tuple(found)) for model, found in targets.items()]

    def _find(self, model: str, principal: Principal | None, exchange: Exchange | None) -> TableRoute:
        """The first route for the model whose conditions hold. Raises `NotFound`, `ModelNotAllowed`."""
        for route in self._matching.get(model) or self._match(model):
            if route.conditions is UNCONDITIONAL or route.conditions.unmet(principal, exchange) is None:
                break
        else:
            raise NotFound(f"model: {model}")
        if principal is not None and not principal.may_use(model):
            raise ModelNotAllowed(model)
        if is_resource_name(model) and not self._names(model, principal, exchange):
            raise ModelNotAllowed(model)
        return route

    def _names(self, resource: str, principal: Principal | None, exchange: Exchange | None) -> bool:
        """Whether a route for this request or the principal names a resource by more than `*`.

        It may belong to another account.
        """
        if principal is not None and names_resource(principal.models, resource):
            return True
        naming = (route for route in self._candidates(resource) if is_resource_name(self.routes[route.index].model))
        return any(route.conditions.unmet(principal, exchange) is None for route in naming)

    def _is_fixed(self, model: str) -> bool:
        """Whether the route for a model is the same for every request and caller."""
        first = (self._matching.get(model) or self._match(model))[0]
        return first.conditions is UNCONDITIONAL and not (self._has_conditions and is_resource_name(model))

    def _match(self, model: str) -> Sequence[TableRoute]:
        """The routes for a model, up to the first without conditions, in the order of the look-up. Remembered."""
        found: list[TableRoute] = []
        for route in self._candidates(model):
            found.append(route)
            if route.conditions is UNCONDITIONAL:
                break
        if found:
            _remember(self._matching, model, model, found)
        return found

    def _candidates(self, model: str) -> Iterator[TableRoute]:
        """Every route for a model: those of its name, those of its name without a context window, the patterns."""
        base = base_name(model)
        yield from self._exact.get(model, ())
        if base != model:
            yield from self._exact.get(base, ())
        for pattern, route in self._patterns:
            if pattern.matches(base):
                yield msgspec.structs.replace(route, model=base)


def table_route(route: Route, index: int = 0) -> TableRoute:
    """A route for its own name; for a pattern, the name is replaced where it is resolved."""
    conditions = route.conditions
    return TableRoute(
        base_name(route.model),
        route.model,
        index,
        route.groups,
        route.targets,
        route.balance or DEFAULT_BALANCE,
        UNCONDITIONAL if conditions == UNCONDITIONAL else conditions,
        route.hedge,
        route.retry_without_thinking,
        route.failover_on_unknown,
    )


def _remember(memo: dict[Key, Found], model: str, key: Key, found: Found) -> None:
    """Remember what was found for a model: clients choose names, so the number and the length are bounded."""
    if len(model) <= LONGEST_REMEMBERED:
        if len(memo) >= MAX_REMEMBERED:
            memo.clear()
        memo[key] = found
