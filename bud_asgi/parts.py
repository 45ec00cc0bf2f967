"""The parts of an app that follow from its providers and stages. They are made, and replaced, together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import cast

import msgspec
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from bud_asgi.auth import AuthMiddleware, FirstOf, as_chain
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.gateway import Gateway, GatewayApp
from bud_asgi.limits import Limit, Limiter, LimitStore, RateLimitMiddleware
from bud_asgi.loop import PerLoop
from bud_asgi.observer import Observers
from bud_asgi.options import OptionError, check_items, check_type, name_shown, nearest
from bud_asgi.protocol.account_fields import Action
from bud_asgi.providers import Provider, check_providers, gateway_id
from bud_asgi.routing import HostRouter, Route, Router, RouterFunction, RouteTable, make_router

NewLoops = Callable[[Sequence[Provider], bytes, Callable[[], Awaitable[None]]], PerLoop]
"""Makes the resources by event loop, from the providers, the gateway's id, and what closes its stores."""


class PartOptions(msgspec.Struct, frozen=True):
    """The options of `MessagesApp` that its parts follow from."""

    providers: Sequence[Provider]
    auth: AuthenticationBackend | Sequence[AuthenticationBackend] | None
    routes: Sequence[Route] | RouteTable | Router | RouterFunction | None
    limits: Sequence[Limit]
    store: LimitStore | None
    middleware: Sequence[Middleware] | None
    field_policy: Mapping[str, Action] | None
    route_header: bool
    observers: Observers


class Parts:
    """The gateway with its stages, and what it keeps for each event loop.

    `chains` authenticate, and `limiter` limits: those of the default stack, or of the middlewares that replace it.
    `stack` is what comes around the gateway, if `middleware` was given, and `inner` the gateway as an app. Raises
    `OptionError`.
    """

    def __init__(self, options: PartOptions, new_loops: NewLoops) -> None:
        providers = check_providers(options.providers)
        self.options = options
        self.id = gateway_id(providers)
        self.limiter = Limiter(options.limits, options.store)
        self.chains: list[FirstOf] = []
        self.loops = new_loops(providers, self.id, self._close_stores)
        gateway = partial(
            Gateway,
            providers,
            field_policy=FieldPolicy(options.field_policy),
            route_header=options.route_header,
            observers=options.observers,
        )
        if options.middleware is None:
            self.chains.append(chain := _auth_chain(options.auth))
            self.gateway = gateway(auth=chain, router=_router(options.routes, providers), limiter=self.limiter)
        elif (options.auth, options.routes, options.store) != (None, None, None) or options.limits:
            raise ValueError("middleware= replaces auth=, routes=, limits= and store=: pass them to your middleware")
        else:
            self.gateway = gateway()
        gateway_app = GatewayApp(self.gateway, self.loops.get)
        self.stack = None if options.middleware is None else self._build_stack(options.middleware, gateway_app)
        self.inner: ASGIApp = self.stack or gateway_app

    def _build_stack(self, layers: Sequence[Middleware], app: ASGIApp) -> ASGIApp:
        """Put the layers around the gateway, the first one outermost."""
        for layer in reversed(check_items("middleware", layers, "a list of Middleware", _check_layer)):
            app = layer.cls(app, *layer.args, **layer.kwargs)
            if isinstance(app, RateLimitMiddleware):
                self.limiter = app.limiter
            elif isinstance(app, AuthMiddleware):
                self.chains.append(app.chain)
        return app

    async def _close_stores(self) -> None:
        for store in (self.limiter, *self.chains):
            await store.aclose()


def _auth_chain(auth: object) -> FirstOf:
    if auth is None:
        raise OptionError(
            "auth",
            "missing; expected auth=ApiKeys(...), auth=HostUser(...), or auth=Anonymous() to accept every request",
        )
    return as_chain("auth", auth)


def _check_layer(option: str, layer: object) -> None:
    check_type(option, layer, Middleware, "a Middleware, made by Middleware(AuthMiddleware, backend=...) for example")


def _router(
    routes: Sequence[Route] | RouteTable | Router | RouterFunction | None, providers: Sequence[Provider]
) -> RouteTable | HostRouter:
    names = [provider.name for provider in providers]
    if routes is None and len(names) > 1:
        raise OptionError("routes", "needed with more than one provider, to choose between them")
    if routes is None:
        return RouteTable([Route("*", to=names)])
    if isinstance(routes, Sequence):
        router = RouteTable(cast("Sequence[Route]", routes))
    elif isinstance(router := make_router("routes", routes, "a list of Route, "), HostRouter):
        return router
    if not router.routes:
        raise OptionError("routes", "an empty list serves no model; expected at least one Route")
    for route in router.routes:
        for target in route.targets:
            if target.provider not in names:
                raise OptionError(
                    "routes",
                    f"unknown provider {name_shown(target.provider)!r} in the route {route.model!r}"
                    f"{nearest(target.provider, names)}",
                )
    return router
