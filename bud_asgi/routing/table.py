"""A route table: exact model names, and patterns with `*`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bud_asgi.exchange import Exchange, Offer, Principal, Target
from bud_asgi.options import OptionError, check_items, check_text, check_type, duplicates, mismatch
from bud_asgi.protocol.account_state import PINS_TO_ACCOUNT
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

TARGETS_EXPECTED = "a list of targets: names of providers, or pairs of a provider and its model"


class Route(msgspec.Struct, frozen=True):
    """A model name, or a pattern with `*` for any characters, and the targets that serve it, in order.

    A target is a provider's name, which gets the model as the client wrote it, or a `Target` with the upstream's name
    for the model. Raises `ValueError` without a model or a target.
    """

    model: str
    to: Sequence[str | Target]

    def __post_init__(self) -> None:
        """Check the options; `to` becomes a tuple."""
        check_text("model", self.model, 'a model name or a pattern with *, such as "claude-*"')
        if isinstance(self.to, str) or not isinstance(self.to, Sequence) or not self.to:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("to", TARGETS_EXPECTED, self.to)
        for index, target in enumerate(self.to):
            if not isinstance(target, Target):
                check_text(f"to[{index}]", target, "the name of a provider, or a provider with a model")
        msgspec.structs.force_setattr(self, "to", tuple(self.to))

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets in full."""
        return tuple(Target(to) if isinstance(to, str) else to for to in self.to)


def _check_route(name: str, route: object) -> None:
    check_type(name, route, Route, "a Route")


class _Resolved(msgspec.Struct, frozen=True):
    """A model name with the targets of the route that it matched."""

    model: str
    targets: tuple[Target, ...]

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        """The targets in their order; only those at the first provider if the request names state of one account."""
        if len(self.targets) > 1 and not PINS_TO_ACCOUNT.isdisjoint(exchange.account_state):
            return [target for target in self.targets if target.provider == self.targets[0].provider]
        return self.targets


class RouteTable:
    """Resolves by table: an exact name first, then the patterns in their order.

    A cloud's full name of a resource (an ARN) must be named by a route or the principal: `*` alone does not match it.
    A context window behind the name of a Claude model (`claude-opus-4-8[1m]`) is ignored, unless a route has that name.
    Raises `OptionError` for two routes of the same model.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        routes = check_items("routes", routes, "a list of Route", _check_route)
        for index, first in duplicates(route.model for route in routes):
            raise OptionError(f"routes[{index}].model", f"duplicate route, already defined by routes[{first}]")
        self.routes = routes
        ordered = sorted(routes, key=lambda route: "*" in route.model)
        self._offers = tuple(Offer(route.model, route.targets) for route in ordered)
        self._exact: dict[str, _Resolved] = {}
        self._remembered: dict[tuple[str, tuple[str, ...]], _Resolved] = {}
        self._patterns: list[tuple[Pattern, tuple[Target, ...]]] = []
        for route in routes:
            if "*" in route.model:
                self._patterns.append((compile_pattern(route.model), route.targets))
            else:
                self._exact[route.model] = _Resolved(base_name(route.model), route.targets)

    def resolve(self, model: str, principal: Principal | None) -> _Resolved:
        """The route for a model name. Raises `NotFound`, `ModelNotAllowed`."""
        named = self._exact.get(model)
        resolved = named or self._match(base_name(model))
        if resolved is None:
            raise NotFound(f"model: {model}")
        if principal is not None and not principal.may_use(model):
            raise ModelNotAllowed(model)
        if named is None and is_resource_name(model) and not self._names(model, principal):
            raise ModelNotAllowed(model)
        return resolved

    def resolve_checked(self, model: str, principal: Principal) -> _Resolved:
        """Do the same, and check the model of the route as well. Remembered for each list of permitted models."""
        key = model, principal.models
        resolved = self._remembered.get(key)
        if resolved is None:
            resolved = self.resolve(model, principal)
            if not principal.may_use(resolved.model):
                raise ModelNotAllowed(resolved.model)
            if len(model) <= LONGEST_REMEMBERED:
                if len(self._remembered) >= MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = resolved
        return resolved

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """The exact names, then the patterns. Which names a principal may use is checked by the Models API."""
        return list(self._offers)

    def _names(self, resource: str, principal: Principal | None) -> bool:
        """Whether a route or the principal names a resource by more than `*`: it may belong to another account."""
        patterns = [route.model for route in self.routes]
        return names_resource(patterns if principal is None else [*patterns, *principal.models], resource)

    def _match(self, model: str) -> _Resolved | None:
        if named := self._exact.get(model):
            return named
        for pattern, targets in self._patterns:
            if pattern.matches(model):
                return _Resolved(model, targets)
        return None
