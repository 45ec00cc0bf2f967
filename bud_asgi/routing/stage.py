"""Resolving: from the requested model to a route that the principal may use."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol, cast

from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute, Target
from bud_asgi.host_code import host_code_error
from bud_asgi.options import OptionError, check_items, check_type, shown
from bud_asgi.protocol.errors import GatewayError, InvalidRequest, ModelNotAllowed, NotFound
from bud_asgi.protocol.patterns import is_resource_name, names_resource
from bud_asgi.routing.table import RouteTable, TableRoute


class Router(Protocol):
    """Knows which models there are, and who may use them."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """The route for a model name as the client wrote it. Pure: no I/O, no clock.

        Also called for each further model that a body names, such as a fallback.
        Raises `NotFound` for a name that is not served, `ModelNotAllowed` for one that this principal may not use.
        """
        ...

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """Everything that can be resolved, in the order of the look-up: what the Models API lists. Pure."""
        ...


def resolve(router: Router, exchange: Exchange) -> None:
    """Set the exchange's route, and those of the further models that the body names. The request must have been read.

    Raises `NotFound`, `ModelNotAllowed`, and a `GatewayError` (500) for a router that returns no route.
    """
    request, principal = exchange.decoded_request, exchange.principal
    if type(router) is RouteTable and principal is not None and not request.named_models:  # the common case
        exchange.route = router.resolve_checked(request.model, principal, exchange)
        return
    exchange.route = _resolve(router, request.model, exchange)
    if request.named_models:
        exchange.named_routes = tuple(
            (named, _resolve_named(router, named.model, named.field, exchange))
            for named in request.named_models
            if named.model is not None
        )
    if principal is not None:
        check_permission(exchange, principal)


def _resolve(router: Router, model: str, exchange: Exchange) -> ResolvedRoute:
    if getattr(type(router), "resolve", None) is RouteTable.resolve:  # also in a subclass that leaves it as it is
        return cast("RouteTable", router).resolve_for(exchange, model)
    route = router.resolve(model, exchange.principal)
    name: object = getattr(route, "model", None)
    if not name or not isinstance(name, str) or not callable(getattr(route, "choose", None)):
        fault = f"{shown(route)} instead of a route with a model and a method choose()"
        raise _misconfigured(exchange, "the router returned", fault, model)
    return route


def _resolve_named(router: Router, model: str, field: str, exchange: Exchange) -> ResolvedRoute:
    try:
        return _resolve(router, model, exchange)
    except NotFound:
        raise NotFound(f"{field}: {model}") from None
    except ModelNotAllowed:
        raise ModelNotAllowed(model, field) from None


def check_permission(exchange: Exchange, principal: Principal) -> None:
    """Check every model that a request names, whatever the router did. Raises `ModelNotAllowed`."""
    request, route = exchange.decoded_request, exchange.route
    model = request.model if route is None else route.model
    if not _is_allowed(principal, model, is_routed=route is not None):
        raise ModelNotAllowed(model)
    for named in request.named_models:
        if named.model is None:
            if not principal.may_use_all:
                raise ModelNotAllowed("default", named.field)
        elif not _is_allowed(principal, named.model, is_routed=bool(exchange.named_routes)):
            raise ModelNotAllowed(named.model, named.field)


def _is_allowed(principal: Principal, model: str, *, is_routed: bool) -> bool:
    """Whether the principal may use a model. A cloud's resource is named by its route, or by its own list."""
    return principal.may_use(model) and (
        is_routed or not is_resource_name(model) or names_resource(principal.models, model)
    )


def targets_for_all(exchange: Exchange, targets: Sequence[Target]) -> Sequence[Target]:
    """The targets that also serve the further models that the body names, under the names that it gives.

    The body goes to one upstream, which reads the names in it. Raises `InvalidRequest`.
    """
    for named, route in exchange.named_routes:
        serving_it = route.targets if isinstance(route, TableRoute) else route.choose(exchange)
        serving = {target.provider for target in serving_it if target.model in {None, named.model}}
        targets = [target for target in targets if target.provider in serving]
        if not targets:
            raise InvalidRequest(f"{named.field}: {named.model} is not served together with the model of this request")
    return targets


def choose_targets(route: ResolvedRoute, exchange: Exchange, providers: Container[str]) -> Sequence[Target]:
    """The targets of a route, in their order.

    Raises a `GatewayError` (500) for a route that chooses no target, or one of an unknown provider.
    """
    targets = route.choose(exchange)
    if fault := _fault_of(targets, providers):
        raise _misconfigured(exchange, "the router chose", fault, route.model)
    return targets


def find_offers(router: Router, exchange: Exchange) -> Sequence[Offer]:
    """What the router offers to the principal. Raises a `GatewayError` (500) for what are no offers."""
    offers = router.offers(exchange.principal)
    try:
        check_items("the result of offers()", offers, "a list of Offer", _check_offer)
    except OptionError as error:
        answer = "The routes of this gateway are misconfigured."
        raise host_code_error(exchange.request_id, f"the router returned a wrong result: {error}", answer) from error
    return offers


def _check_offer(name: str, offer: object) -> None:
    check_type(name, offer, Offer, "an Offer")


def _fault_of(targets: Sequence[object], providers: Container[str]) -> str:
    """What is wrong with the targets that a router chose; empty if nothing is."""
    is_list = isinstance(targets, (tuple, Sequence))  # pyright: ignore[reportUnnecessaryIsInstance] - a tuple is faster
    if not is_list or isinstance(targets, str):
        return f"{shown(targets)} instead of a list of Target"
    for target in targets:
        if not isinstance(target, Target):
            return f"{shown(target)} instead of a Target"
        if target.provider not in providers:
            return f"the unknown provider {target.provider!r}"
    return "" if targets else "no target"


def _misconfigured(exchange: Exchange, did: str, fault: str, model: str) -> GatewayError:
    answer = f"The route of this model is misconfigured: {model}"
    return host_code_error(exchange.request_id, f"{did} {fault} for model {model!r}", answer)
