"""The middleware that resolves the model of a request to a route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import MODELS_API


class Router(Protocol):
    """Knows which models there are, and who may use them."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """The route for a model name as the client wrote it. Pure: no I/O, no clock.

        Raises `NotFound` for a name that nothing serves, `ModelNotAllowed` for one that this principal may not use.
        """
        ...

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """All that can be resolved, in the order in which it is looked up: what the Models API lists. Pure."""
        ...


class RoutingMiddleware:
    """Reads the request, resolves its model and leaves the route in the exchange; the app behind can read the body too.

    Refuses with 404 or 403, and with 400 or 413 what is no Messages request. For the Models API it leaves what there
    is to choose from.
    """

    def __init__(self, app: ASGIApp, *, router: Router) -> None:
        self.app = app
        self.router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Resolve, then call the app behind."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        if exchange.operation in MODELS_API:
            exchange.offers = self.router.offers(exchange.principal)
            await self.app(scope, receive, send)
            return
        try:
            exchange.route = self.router.resolve((await exchange.request(receive)).model, exchange.principal)
        except GatewayError as error:
            await exchange.refuse(error, send)
            return
        await self.app(scope, exchange.replaying(receive), send)
