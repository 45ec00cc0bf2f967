"""Resolving: from the requested model to a route that the principal may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute, Target
from bud_asgi.protocol.errors import InvalidRequest, ModelNotAllowed, NotFound
from bud_asgi.protocol.patterns import is_resource_name, names_resource


class Router(Protocol):
    """Knows which models there are, and who may use them."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """The route for a model name as the client wrote it. Pure: no I/O, no clock.

        Raises `NotFound` for a name that is not served, `ModelNotAllowed` for one that this principal may not use.
        """
        ...

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """Everything that can be resolved, in the order of the look-up: what the Models API lists. Pure."""
        ...


def resolve(router: Router, exchange: Exchange) -> None:
    """Set the exchange's route, and those of the further models that the body names. The request must have been read.

    Raises `NotFound`, `ModelNotAllowed`.
    """
    request, principal = exchange.decoded_request, exchange.principal
    exchange.route = router.resolve(request.model, principal)
    if request.named_models:
        exchange.named_routes = tuple(
            (named.model, _resolve_named(router, named.model, named.field, principal))
            for named in request.named_models
            if named.model is not None
        )
    if principal is not None:
        check_permission(exchange, principal)


def _resolve_named(router: Router, model: str, field: str, principal: Principal | None) -> ResolvedRoute:
    try:
        return router.resolve(model, principal)
    except NotFound:
        raise NotFound(f"{field}: {model}") from None
    except ModelNotAllowed:
        raise ModelNotAllowed(model, field) from None


def check_permission(exchange: Exchange, principal: Principal) -> None:
    """Check every model that a request names, whatever the router did. Raises `ModelNotAllowed`."""
    request, route = exchange.decoded_request, exchange.route
    model = route.model if route is not None else request.model
    if not principal.may_use(model) or (route is None and not _may_use_resource(principal, model)):
        raise ModelNotAllowed(model)
    for named in request.named_models:
        if named.model is None:
            if not principal.may_use_all:
                raise ModelNotAllowed("default", named.field)
        elif not principal.may_use(named.model) or not (
            exchange.named_routes or _may_use_resource(principal, named.model)
        ):
            raise ModelNotAllowed(named.model, named.field)


def _may_use_resource(principal: Principal, model: str) -> bool:
    return not is_resource_name(model) or names_resource(principal.models, model)


def targets_for_all(exchange: Exchange, targets: Sequence[Target]) -> Sequence[Target]:
    """The targets that also serve the further models that the body names, under the names that it gives.

    The body goes to one upstream, which reads the names in it. Raises `InvalidRequest`.
    """
    for number, (model, route) in enumerate(exchange.named_routes):
        serving = {target.provider for target in route.choose(exchange) if target.model in {None, model}}
        targets = [target for target in targets if target.provider in serving]
        if not targets:
            fields = [named.field for named in exchange.decoded_request.named_models if named.model is not None]
            raise InvalidRequest(f"{fields[number]}: {model} is not served together with the model of this request")
    return targets
