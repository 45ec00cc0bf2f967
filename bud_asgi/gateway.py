"""The path of one request: authenticate, read and decode, resolve, admit, attempts, settle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from bud_asgi.attempt import Target
from bud_asgi.attempts import run_attempts
from bud_asgi.auth import UNAUTHENTICATED, AuthenticationFailed, FirstOf, authenticate_now
from bud_asgi.budget import BodyBudget
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.failover import RetryBudget, UpstreamsFull
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.host_code import host_code_error
from bud_asgi.limits import NO_LIMITS, Limiter
from bud_asgi.loop import LoopResources
from bud_asgi.models import answer_models
from bud_asgi.observer import NO_OBSERVERS, Observers
from bud_asgi.options import shown
from bud_asgi.protocol.errors import NotFound
from bud_asgi.protocol.hops import HOPS, next_hops
from bud_asgi.protocol.operations import MODELS_API
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers import Provider, check_bounds, gateway_id, traits_of
from bud_asgi.response import Response
from bud_asgi.routing import (
    Chooser,
    HostRouter,
    Route,
    RouteTable,
    TableRoute,
    check_permission,
    choose_targets,
    explain_route,
    find_offers,
    resolve,
    resolve_by_host,
    targets_for_all,
)
from bud_asgi.state import TargetState
from bud_asgi.upstream_call import Upstreams

GATEWAY_KEY = "bud_asgi.gateway"
"""The key under which the gateway of a request travels in its ASGI scope, past middleware that stays for many."""


class Gateway:
    """Serves the Messages API and the Models API.

    Each stage works on the `Exchange` and raises a `GatewayError`; the `Response` around them is the error boundary. A
    stage that is not given (`None`) is left to the middleware in front: the gateway then uses what that left in the
    exchange. It never serves a request without a principal. `observers` get the events of its attempts. `revision` is
    the number of the configuration. Of a `former` gateway it takes over the retry budget, and the health of the targets
    that are still there, unless their provider is another object.
    """

    def __init__(  # noqa: PLR0913 - one for each part of the path
        self,
        providers: Sequence[Provider],
        field_policy: FieldPolicy | None = None,
        *,
        revision: int,
        bodies: BodyBudget,
        auth: FirstOf | None = None,
        router: RouteTable | HostRouter | None = None,
        limiter: Limiter | None = None,
        route_header: bool = False,
        observers: Observers = NO_OBSERVERS,
        former: Gateway | None = None,
    ) -> None:
        self.revision, self.id = revision, gateway_id(providers)
        self.bodies = bodies
        self.other_models = any(traits_of(provider).has_own_bounds for provider in providers)
        self._providers: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self._only = Target(providers[0].name) if len(providers) == 1 else None
        self._auth = auth
        self._router = router
        self._table = router if type(router) is RouteTable else None  # a subclass may have a `resolve_for` of its own
        self._limiter = limiter
        self._field_policy = field_policy or FieldPolicy()
        dropped = {provider.name: _dropped_fields(self._field_policy, provider) for provider in providers}
        self._route_header = route_header
        self._chooser = Chooser(self._providers, dropped)
        self.retry_budget = RetryBudget() if former is None else former.retry_budget
        self._upstreams = Upstreams(self._providers, dropped, self._chooser.fleet, self.retry_budget, observers)
        if former is not None:
            self._continue(former)

    async def serve(self, request: ActiveRequest, loop: LoopResources, scope: Scope, receive: Receive) -> None:
        """Answer one request. Raises `GatewayError` for what the caller of this method has to answer."""
        exchange = request.exchange
        with request:
            if self._auth is not None and (pending := authenticate_now(self._auth, exchange, scope)) is not None:
                await pending  # 401, 429
            principal = exchange.principal
            if type(principal) is not Principal:
                principal = _require_principal(exchange, scope)
            if exchange.operation in MODELS_API:
                request.watch_disconnect(scope, receive)
                await self._answer_models(exchange, principal, loop, request.response, scope)
                return
            limiter, plan, admission = self._limiter, NO_LIMITS, None
            if limiter is not None:
                plan = limiter.check(exchange)  # 429, where it is known before the body is read
                if plan.is_early:
                    admission = limiter.admit_now(exchange, plan) or await limiter.admit(exchange)  # 429
            try:
                message = await exchange.request(receive)  # 400, 408, 413, 529
                read_at = time.monotonic() if self._route_header else None
                request.watch_disconnect(scope, receive)
                if not message.is_plain or exchange.header_names.account:
                    exchange.account_fields = self._field_policy.check(message, exchange.header_names.account)  # 400
                if self._table is not None and not message.named_models:  # the common case
                    exchange.route = self._table.resolve_checked(message.model, principal, exchange)  # 404, 403
                else:
                    await self._resolve(exchange, principal)  # 404, 403
                if message.violation:
                    self._check_bounds(exchange, message)  # 400
                del scope, message  # an open stream does not need them
                if limiter is not None and admission is None:
                    admission = limiter.admit_now(exchange, plan) or await limiter.admit(exchange)  # 429
                targets = self._arranged(exchange, read_at)  # 529
                await run_attempts(request, targets, self._upstreams, loop.client, loop.timing)
            finally:
                if limiter is not None and admission is not None:
                    limiter.settle(admission, exchange, loop.tasks)

    async def _resolve(self, exchange: Exchange, principal: Principal) -> None:
        if isinstance(self._router, HostRouter):
            await resolve_by_host(self._router, exchange)
        elif self._router is not None:
            resolve(self._router, exchange)
        else:
            check_permission(exchange, principal)

    def _check_bounds(self, exchange: Exchange, message: MessagesRequest) -> None:
        """Check a value that only models of other vendors may have. Raises `InvalidRequest`."""
        first = self._targets(exchange)[0]
        check_bounds(message, self._providers[first.provider], first.model)

    async def _answer_models(
        self, exchange: Exchange, principal: Principal, loop: LoopResources, response: Response, scope: Scope
    ) -> None:
        if self._router is not None:
            exchange.offers = await find_offers(self._router, exchange)
        offers: Sequence[Offer] = exchange.offers or ()
        if exchange.offers is None and self._only is not None:
            offers = (Offer("*", (self._only,)),)
        admission = await self._limiter.admit(exchange) if self._limiter is not None else None  # 429
        try:
            lists = partial(loop.model_lists.current, self._providers.values(), hops=self.id)
            await answer_models(exchange, principal, offers, self._providers, lists, scope, response)
        finally:
            if self._limiter is not None and admission is not None:
                self._limiter.settle(admission, exchange, loop.tasks)

    def _continue(self, former: Gateway) -> None:
        """Take over the health of the targets that are still there, and have not changed."""
        same = {name for name, provider in self._providers.items() if former._providers.get(name) is provider}
        targets: Iterable[Target] | None = None  # a function's are unknown
        if self._only is not None:
            targets = (self._only,)
        elif isinstance(self._router, RouteTable):
            targets = (target for route in self._router.routes for target in route.targets)
        self._chooser.fleet.continue_from(former._chooser.fleet, same, targets)

    @property
    def providers(self) -> Iterable[Provider]:
        """The providers."""
        return self._providers.values()

    @property
    def routes(self) -> Sequence[Route]:
        """The routes; empty for a router that is a function."""
        return self._router.routes if isinstance(self._router, RouteTable) else ()

    def target_states(self, now: float) -> Sequence[TargetState]:
        """The state of all targets that have been called, and of those of the routes."""
        return self._chooser.fleet.snapshot(now, (target for route in self.routes for target in route.targets))

    def _arranged(self, exchange: Exchange, read_at: float | None) -> Sequence[Target]:
        """The targets in the order in which they are tried. Raises `UpstreamsFull`.

        `read_at`: when the body had been read, if the client is to be shown how the route was chosen.
        """
        if read_at is not None:
            explain_route(exchange, read_at=read_at, home=self._chooser.home(exchange))
        targets = self._targets(exchange)
        if len(targets) > 1:
            targets = self._chooser.arrange(exchange, exchange.route, targets, time.monotonic())
        elif self._chooser.fleet.health(targets[0]).is_full:
            targets = ()
        if not targets:
            raise UpstreamsFull
        return targets

    def _targets(self, exchange: Exchange) -> Sequence[Target]:
        """The targets of the route, or the only provider."""
        route = exchange.route
        if route is None:
            if self._only is None:
                raise NotFound(f"model: {exchange.decoded_request.model}")
            return (self._only,)
        if self._table is None:
            targets = choose_targets(route, exchange, self._providers)
        else:  # its targets were checked when the app was made
            targets = route.targets if isinstance(route, TableRoute) else route.choose(exchange)
        return targets_for_all(exchange, targets) if exchange.named_routes else targets


class GatewayApp:
    """The gateway as the ASGI app at the end of a stack of middleware; requests are registered by `MessagesApp`.

    `gateway` returns the current one, for a scope that a middleware has made without the one of its request.
    """

    def __init__(self, gateway: Callable[[], Gateway], loop: Callable[[], LoopResources]) -> None:
        self._gateway = gateway
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request through the `send` of the middleware in front."""
        loop, exchange = self._loop(), Exchange.of(scope)
        gateway: Gateway = scope.get(GATEWAY_KEY) or self._gateway()
        response = Response(exchange, send, loop.timing, receive=receive, now=loop.now)
        request = loop.in_flight.get(exchange)
        is_new = request is None  # a middleware has made a new scope
        try:
            if request is None:
                request = loop.add(exchange, response, gateway)
                exchange.hops = next_hops(exchange.headers.get(HOPS), gateway.id)
            request.response = response
            await gateway.serve(request, loop, scope, receive)
        except BaseException as error:
            if not await response.answer_error(error):
                raise
        finally:
            if is_new:
                loop.discard(exchange)


def _dropped_fields(policy: FieldPolicy, provider: Provider) -> frozenset[str]:
    return policy.dropped_for(traits_of(provider).allowed_fields, client_pays=not provider.credential.is_operators)


def _require_principal(exchange: Exchange, scope: Scope) -> Principal:
    if exchange.principal is None and isinstance(user := scope.get("user"), Principal):
        exchange.principal = user
    if exchange.principal is None:
        raise AuthenticationFailed(UNAUTHENTICATED)
    if not isinstance(exchange.principal, Principal):  # pyright: ignore[reportUnnecessaryIsInstance]
        fault = f"a middleware in front set the principal to {shown(exchange.principal)} instead of a Principal"
        raise host_code_error(exchange.request_id, fault, "The authentication of this gateway is misconfigured.")
    return exchange.principal
