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

        Also called for each further model that a body names, such as a fallback.
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
            (named, _resolve_named(router, named.model, named.field, principal))
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
        serving = {target.provider for target in route.choose(exchange) if target.model in {None, named.model}}
        targets = [target for target in targets if target.provider in serving]
        if not targets:
            raise InvalidRequest(f"{named.field}: {named.model} is not served together with the model of this request")
    return targets
