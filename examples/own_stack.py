"""A custom middleware stack: another order, a custom router, and a custom middleware.

Run it in the repository's root, with two API keys of your choice:

    ANTHROPIC_API_KEY=sk-ant-... EXAMPLE_API_KEY=... EXAMPLE_FREE_API_KEY=... uvicorn examples.own_stack:app

Clients use the base URL http://127.0.0.1:8000.
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
from bud_asgi.routing import Offer, ResolvedRoute

TABLE = RouteTable(
    [
        Route("best", to=[Target("anthropic", "claude-opus-5-5")]),
        Route("best-for-free", to=[Target("anthropic", "claude-haiku-4-5")]),
        Route("claude-*", to=["anthropic"]),
    ]
)


class FreeRouter:
    """A custom router: for the principal `free`, the name `best` stands for a cheaper model."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """Resolve the name for this principal, then look it up in the table."""
        free = principal is not None and principal.id == "free"
        return TABLE.resolve("best-for-free" if model == "best" and free else model, principal)

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """The models that the Models API lists."""
        return TABLE.offers(principal)


class Closed(GatewayError):
    """A custom error. Clients receive it in the error format of the Messages API."""

    status = 503
    type = "api_error"


class OpeningHours:
    """A custom middleware: plain ASGI that reads the `Exchange` in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject all principals but the owner while `EXAMPLE_CLOSED` is set."""
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
