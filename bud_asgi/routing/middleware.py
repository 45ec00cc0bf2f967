"""The resolving stage as a middleware, for custom stacks and for other apps."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import Exchange
from bud_asgi.host_code import check_app
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import MODELS_API
from bud_asgi.response import Response
from bud_asgi.routing.router import HostRouter, Router, RouterFunction, make_router
from bud_asgi.routing.stage import find_offers, resolve, resolve_by_host
from bud_asgi.routing.table import RouteTable


class RoutingMiddleware:
    """Reads the request and leaves its route in the exchange; the app behind can read the body too.

    `router` is a `RouteTable`, a function of the model and the principal, async or not, or another `Router`.
    Answers 404 or 403 for a model, 400 or 413 for an invalid request. For the Models API it leaves the offers.
    Raises `OptionError`.
    """

    def __init__(self, app: ASGIApp, *, router: RouteTable | Router | RouterFunction) -> None:
        check_app(app)
        self.app = app
        self._router = make_router("router", router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Resolve, then call the app behind."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        if exchange.operation in MODELS_API:
            try:
                exchange.offers = await find_offers(self._router, exchange)
            except GatewayError as error:
                await Response(exchange, send).fail(error)
                return
            await self.app(scope, receive, send)
            return
        try:
            await exchange.request(receive)
            if isinstance(self._router, HostRouter):
                await resolve_by_host(self._router, exchange)
            else:
                resolve(self._router, exchange)
        except GatewayError as error:
            await Response(exchange, send, receive=receive).fail(error)
            return
        await self.app(scope, exchange.replay_body(receive), send)
