"""A stack by hand: the three middlewares in an order of one's own, a router and a middleware of one's own.

ANTHROPIC_API_KEY=... uvicorn examples.own_stack:app
"""

import os
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi import (
    Anthropic,
    ApiKeys,
    AuthMiddleware,
    Exchange,
    GatewayError,
    Limit,
    MessagesApp,
    Middleware,
    Principal,
    RateLimitMiddleware,
    Route,
    RouteTable,
    RoutingMiddleware,
    Secret,
    Target,
    hash_api_key,
)
from bud_asgi.exchange import Offer, ResolvedRoute

TABLE = RouteTable(
    [
        Route("best", to=[Target("anthropic", "claude-opus-5-5")]),
        Route("best-for-free", to=[Target("anthropic", "claude-haiku-4-5")]),
        Route("claude-*", to=["anthropic"]),
    ]
)


class FreeRouter:
    """A router of one's own: the principal `free` gets a cheaper model under the name `best`."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """Resolve by who is asking, then by the table."""
        free = principal is not None and principal.id == "free"
        return TABLE.resolve("best-for-free" if model == "best" and free else model, principal)

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """What the Models API lists."""
        return TABLE.offers(principal)


class Closed(GatewayError):
    """An error of one's own: it reaches the client in the envelope of the Messages API."""

    status = 503
    type = "api_error"


class OpeningHours:
    """A middleware of one's own: plain ASGI, reading the record that travels in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turn everybody but the owner away while the sign says so."""
        principal = Exchange.of(scope).principal
        if os.environ.get("EXAMPLE_CLOSED") and principal is not None and principal.id != "owner":
            raise Closed("We are closed.")
        await self.app(scope, receive, send)


app = MessagesApp(
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
    middleware=[
        Middleware(
            AuthMiddleware,
            backend=ApiKeys(
                {
                    "owner": hash_api_key(os.environ["EXAMPLE_API_KEY"]),
                    "free": hash_api_key(os.environ["EXAMPLE_FREE_API_KEY"]),
                }
            ),
        ),
        Middleware(OpeningHours),
        Middleware(RateLimitMiddleware, limits=[Limit("requests", 5), Limit("requests", 100, per="all")]),
        Middleware(RoutingMiddleware, router=FreeRouter()),
    ],
)
