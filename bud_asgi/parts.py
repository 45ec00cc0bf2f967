"""The parts of an app that follow from its options. They are made together, and replaced together while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, cast

import msgspec
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from bud_asgi.auth import AuthMiddleware, FirstOf, as_chain
from bud_asgi.budget import BodyBudget, body_budget
from bud_asgi.clock import Timing
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.gateway import Gateway, GatewayApp
from bud_asgi.http import Origin
from bud_asgi.limits import Limit, Limiter, LimitStore, RateLimitMiddleware
from bud_asgi.loop import Closable, PerLoop
from bud_asgi.observer import Observers
from bud_asgi.options import OptionError, check_flag, check_items, check_type, name_shown, nearest
from bud_asgi.protocol.account_fields import Action
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.providers import Provider, check_providers, traits_of
from bud_asgi.routing import HostRouter, Route, Router, RouterFunction, RouteTable, make_router

Auth = AuthenticationBackend | Sequence[AuthenticationBackend]
Routes = Sequence[Route] | RouteTable | Router | RouterFunction


class Changes(TypedDict, total=False):
    """The options of `MessagesApp` that can be changed while it runs."""

    providers: Sequence[Provider]
    auth: Auth | None
    routes: Routes | None
    limits: Sequence[Limit]
    store: LimitStore | None
    field_policy: Mapping[str, Action] | None
    max_body: int
    body_budget: int | None
    body_budget_per_principal: int | None
    route_header: bool
    access_log: bool


class PartOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `MessagesApp` that its parts follow from."""

    providers: Sequence[Provider]
    auth: Auth | None = None
    routes: Routes | None = None
    limits: Sequence[Limit] = ()
    store: LimitStore | None = None
    middleware: Sequence[Middleware] | None = None
    field_policy: Mapping[str, Action] | None = None
    max_body: int = DEFAULT_MAX_BODY
    body_budget: int | None = None
    body_budget_per_principal: int | None = None
    route_header: bool = False
    access_log: bool = False


class Shared(msgspec.Struct, frozen=True, eq=False):
    """What all parts of one app have in common. `gateway` returns the current gateway."""

    loops: PerLoop
    observers: Observers
    timing: Timing
    gateway: Callable[[], Gateway]


class Parts:
    """The gateway with its stages, made from one set of options. A request is served by the same ones to its end.

    `chains` authenticate, and `limiter` limits: those of the default stack, or of the middlewares that replace it.
    `stack` is what comes around the gateway, if `middleware` was given, and `inner` the gateway as an app.
    `closables` have connections, and `origins` are the servers that the providers send to. What `former` parts have
    learned and counted goes on: buckets of limits, health of targets, keys of issuers. Raises `OptionError`; then
    nothing has changed.
    """

    def __init__(self, options: PartOptions, shared: Shared, revision: int, former: Parts | None = None) -> None:
        self.options, self.revision = options, revision
        providers, policy = check_providers(options.providers), FieldPolicy(options.field_policy)
        _check_flags(options)
        self.bodies = _bodies(options, shared.timing, former)
        self.limiter = Limiter(options.limits, _store(options, former))
        self.chains: list[FirstOf] = []
        self.stack: ASGIApp | None = former.stack if former else None
        router = None
        if options.middleware is None:
            self.chains.append(_auth_chain(options.auth))
            router = _router(options.routes, providers)
        elif (options.auth, options.routes, options.store) != (None, None, None) or options.limits:
            raise ValueError("middleware= replaces auth=, routes=, limits= and store=: pass them to your middleware")
        elif former is None:
            self.stack = self._build_stack(options.middleware, shared)
        if former is not None:  # nothing from here on raises
            self._continue(former)
        is_default = self.stack is None
        self.gateway = Gateway(
            providers,
            revision=revision,
            bodies=self.bodies,
            auth=self.chains[0] if is_default else None,
            router=router,
            limiter=self.limiter if is_default else None,
            field_policy=policy,
            route_header=options.route_header,
            observers=shared.observers,
            former=former and former.gateway,
        )
        self.inner: ASGIApp = self.stack or GatewayApp(lambda: self.gateway, shared.loops.get)
        self.closables: Sequence[Closable] = (
            *self.limiter.closables,
            *itertools.chain(*(one.closables for one in self.chains)),
        )
        self.origins: Sequence[Origin] = [origin for one in providers for origin in traits_of(one).origins]

    def _build_stack(self, layers: Sequence[Middleware], shared: Shared) -> ASGIApp:
        """Put the layers around the gateway, the first one outermost. They stay, whatever is changed behind them."""
        app: ASGIApp = GatewayApp(shared.gateway, shared.loops.get)
        for layer in reversed(check_items("middleware", layers, "a list of Middleware", _check_layer)):
            app = layer.cls(app, *layer.args, **layer.kwargs)
            if isinstance(app, RateLimitMiddleware):
                self.limiter = app.limiter
            elif isinstance(app, AuthMiddleware):
                self.chains.append(app.chain)
        return app

    def _continue(self, former: Parts) -> None:
        """Take over what previous parts have learned and counted."""
        self.bodies = former.bodies.resized(self.bodies)
        if self.options.middleware is not None:
            self.limiter, self.chains = former.limiter, former.chains
            return
        self.limiter.continue_from(former.limiter)
        self.chains[0].continue_from(former.chains[0])


def _check_flags(options: PartOptions) -> None:
    check_flag("route_header", options.route_header)
    check_flag("access_log", options.access_log)


def _bodies(options: PartOptions, timing: Timing, former: Parts | None) -> BodyBudget:
    sizes = _sizes(options)
    if former is not None and sizes == _sizes(former.options):
        return former.bodies
    return body_budget(*sizes, patience=timing.body_room)


def _sizes(options: PartOptions) -> tuple[int, int | None, int | None]:
    return options.max_body, options.body_budget, options.body_budget_per_principal


def _store(options: PartOptions, former: Parts | None) -> LimitStore | None:
    """The store to count in: the previous one, unless the option has changed."""
    return former.limiter.store if former is not None and options.store is former.options.store else options.store


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
