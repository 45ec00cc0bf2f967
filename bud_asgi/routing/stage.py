"""Resolving: from the requested model to a route that the principal may use."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute
from bud_asgi.host_code import host_code_error
from bud_asgi.options import shown
from bud_asgi.protocol.errors import InvalidRequest, ModelNotAllowed, NotFound
from bud_asgi.protocol.patterns import is_resource_name, names_resource
from bud_asgi.protocol.request import MessagesRequest, NamedModel
from bud_asgi.routing.router import HostRouter
from bud_asgi.routing.table import RouteTable, TableRoute


def resolve(table: RouteTable, exchange: Exchange) -> None:
    """Set the exchange's route, and those of the further models that the body names. The request must have been read.

    Raises `NotFound`, `ModelNotAllowed`.
    """
    request = exchange.decoded_request
    exchange.route = table.resolve_for(exchange, request.model)
    routes: list[tuple[NamedModel, ResolvedRoute]] = []
    for named, model in _names(request):
        with _errors_of(named):
            routes.append((named, table.resolve_for(exchange, model)))
    _complete(exchange, routes)


async def resolve_by_host(router: HostRouter, exchange: Exchange) -> None:
    """Do the same by a router of the host's.

    Raises also a `GatewayError` (500) for a wrong result, or if it takes too long. The host's exceptions propagate.
    """
    await router.within_limit(_resolve_by_host(router, exchange), exchange)


async def _resolve_by_host(router: HostRouter, exchange: Exchange) -> None:
    request = exchange.decoded_request
    exchange.route = await router.resolve(exchange, request.model)
    routes: list[tuple[NamedModel, ResolvedRoute]] = []
    for named, model in _names(request):
        with _errors_of(named):
            routes.append((named, await router.resolve(exchange, model)))
    _complete(exchange, routes)


def _names(request: MessagesRequest) -> Iterator[tuple[NamedModel, str]]:
    return ((named, named.model) for named in request.named_models if named.model is not None)


def _complete(exchange: Exchange, routes: Sequence[tuple[NamedModel, ResolvedRoute]]) -> None:
    exchange.named_routes = routes
    if exchange.principal is not None:
        check_permission(exchange, exchange.principal)


@contextmanager
def _errors_of(named: NamedModel) -> Generator[None]:
    """Name the field in an error about the model."""
    try:
        yield
    except NotFound:
        raise NotFound(f"{named.field}: {named.model}") from None
    except ModelNotAllowed:
        raise ModelNotAllowed(str(named.model), named.field) from None


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
        answer = f"The route of this model is misconfigured: {route.model}"
        raise host_code_error(exchange.request_id, f"the router chose {fault} for model {route.model!r}", answer)
    return targets


async def find_offers(router: RouteTable | HostRouter, exchange: Exchange) -> Sequence[Offer]:
    """What the router offers to the principal, for the Models API.

    Raises a `GatewayError` (500) for a router that returns anything else, or not in time.
    """
    if isinstance(router, RouteTable):
        return router.offers(exchange.principal)
    return await router.within_limit(router.offers(exchange), exchange)


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
