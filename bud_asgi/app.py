"""`MessagesApp`: the Messages API as one ASGI app, to be mounted or served alone."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.auth import ApiKeys, check_backend
from bud_asgi.budget import body_budget as make_budget
from bud_asgi.clock import DEFAULT_TIMING, LONGEST, Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.gateway import Gateway, GatewayApp
from bud_asgi.hosting import FinalErrorEvent, install, local_path, run_lifespan
from bud_asgi.http import Engine, HttpClient
from bud_asgi.limits import Limit, Limiter, LimitStore, RateLimitMiddleware
from bud_asgi.loop import LoopResources, PerLoop
from bud_asgi.options import (
    OptionError,
    check_flag,
    check_function,
    check_items,
    check_seconds,
    check_type,
    name_shown,
)
from bud_asgi.protocol.account_fields import Action
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.protocol.headers import check_head
from bud_asgi.protocol.hops import HOPS, next_hops
from bud_asgi.protocol.operations import PUBLIC, find_operation, model_of_path
from bud_asgi.providers import Provider, check_providers, gateway_id
from bud_asgi.response import Response
from bud_asgi.routing import HostRouter, Route, Router, RouterFunction, RouteTable, TargetState, make_router
from bud_asgi.telemetry import flush_access_log, log_access

OnSettled = Callable[[Exchange], Awaitable[None]]

_log = logging.getLogger("bud_asgi")


class MessagesApp:
    """The Messages API (`POST /v1/messages`, JSON and streaming, `count_tokens`, `GET /v1/models`) over its providers.

    `auth`, any Starlette `AuthenticationBackend`, decides who may call; `routes` decide which model goes where (with a
    single provider, all models go there): a list, a function of the model and the principal, or another `Router`;
    `limits` decide how much, counted in this process's memory or in a `store` that several share. Or `middleware`
    replaces these three stages.
    Raises `ValueError` without either `auth` or `middleware`: an open mount spends its owner's money.

    `field_policy` sets what happens to fields that change what is billed, or to whom: `{"speed": "refuse"}`
    (`FieldPolicy`).

    Sizes are in bytes. `max_body` is the largest request body. `body_budget` is what the app holds of request bodies at
    any time (by default 256 MB, or a quarter of the process's memory limit if that is less),
    `body_budget_per_principal` what it holds of one caller's (by default half of that). A request that finds no room
    gets a 529.

    `client` makes the HTTP client of an event loop. `on_settled` is awaited with each finished `Exchange`, in the
    background after the response; what it raises is logged, and while 10,000 calls of it are running, further ones are
    dropped. `access_log` writes one line of JSON for each request to the logger `bud_asgi.access`, without its content.
    `route_header` adds the header `bud-route` to responses: the route, the attempts and how they ended. `drain_timeout`
    is how many seconds requests in flight get at shutdown. `timing` holds the other durations. Raises
    `OptionError`, a `ValueError`, for any of them that is invalid.
    """

    def __init__(  # noqa: PLR0913 - an app has its settings, all by keyword
        self,
        *,
        providers: Sequence[Provider],
        auth: AuthenticationBackend | None = None,
        routes: Sequence[Route] | RouteTable | Router | RouterFunction | None = None,
        limits: Sequence[Limit] = (),
        store: LimitStore | None = None,
        middleware: Sequence[Middleware] | None = None,
        field_policy: Mapping[str, Action] | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        body_budget: int | None = None,
        body_budget_per_principal: int | None = None,
        client: Callable[[], HttpClient] = Engine,
        on_settled: OnSettled | None = None,
        access_log: bool = False,
        route_header: bool = False,
        drain_timeout: float = 30.0,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        providers = check_providers(providers)
        _check_settings(client, on_settled, drain_timeout, timing, access_log=access_log, route_header=route_header)
        bodies = make_budget(max_body, body_budget, body_budget_per_principal, patience=timing.body_room)
        self._id = gateway_id(providers)
        self._limiter = Limiter(limits, store)
        self._loops = PerLoop(client, providers, timing, bodies, self._id, self._close_store)
        self._timing, self._drain_timeout = timing, drain_timeout
        self._on_settled, self._access_log = on_settled, access_log
        self._stack: ASGIApp | None = None
        gateway = partial(Gateway, providers, field_policy=FieldPolicy(field_policy), route_header=route_header)
        if middleware is None:
            _check_auth(auth, providers)
            router = _router(routes, providers)
            self._gateway = gateway(backend=auth, router=router, limiter=self._limiter)
        elif auth is not None or routes is not None or limits or store is not None:
            raise ValueError("middleware= replaces auth=, routes=, limits= and store=: pass them to your middleware")
        else:
            self._gateway = gateway()
            self._stack = self._build_stack(middleware, providers)

    @property
    def limits(self) -> Limiter:
        """The limits of this app: `await messages.limits.standing(principal)` reports what a caller has used.

        With `middleware`, they are those of the first `RateLimitMiddleware` in it.
        """
        return self._limiter

    def state(self) -> Sequence[TargetState]:
        """The state of the targets as this process sees it: up, down or probing, why, and the requests in flight."""
        return self._gateway.target_states()

    def install(self, host: Starlette, path: str, *, final_error_event: bool = False) -> None:
        """Mount this app in a Starlette or FastAPI app at a prefix, its lifespan inside the host's.

        `host.mount(path, messages)` works too: then the connections are made on first use and closed when the event
        loop ends, and Starlette redirects a request for the bare prefix. FastAPI's dependencies do not run for a
        mounted app: only `auth=` authenticates. A limit of the host's on request bodies applies here too.

        `final_error_event` puts a layer of ours outermost in the host: only with it can a stream below a
        `BaseHTTPMiddleware` end with an `error` event when the server cancels it past its grace period. Raises
        `OptionError`, a `ValueError`, for an invalid path, and where an earlier route of the host would get the
        requests.
        """
        check_flag("final_error_event", final_error_event)
        # A stack of the app's own may contain routes of Starlette's, which use the host's exception handlers.
        install(host, path, self, self.lifespan, shortcut=self._stack is None)
        if final_error_event:
            host.add_middleware(FinalErrorEvent)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Enter this within a host's own lifespan: on exit it drains, then closes its connections."""
        self._loops.get()
        try:
            yield
        finally:
            await self.drain()
            await self._loops.aclose()
            flush_access_log()

    async def drain(self, timeout: float | None = None) -> None:
        """Refuse new requests (529), let those in flight end, and abort the rest after `timeout` seconds.

        The default is the app's `drain_timeout`. Streams that are aborted get an `error` event. Settlements have been
        awaited when this returns. A host that knows of a shutdown before its server does can call it earlier; readiness
        (`/readyz`) is false from then on. Raises `OptionError`.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, maximum=LONGEST, zero=True)
        await self._loops.drain(self._drain_timeout if timeout is None else timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: HTTP, or the lifespan when served alone. A websocket is refused."""
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        try:
            loop = self._loops.get()
        except Exception as error:  # noqa: BLE001 - the boundary to the host: `client` is a function of its own
            await Response(exchange, send, self._timing, receive=receive).answer_error(error)
            return
        response = Response(exchange, send, self._timing, receive=receive, now=loop.now)
        try:
            answering = self._answer(loop.add(exchange, response), loop, scope, receive)
            del scope  # an open stream does not need it
            await answering
        except BaseException as error:
            if not await response.answer_error(error):
                raise
        finally:
            try:
                self._finish(exchange, loop)
            finally:
                loop.discard(exchange)

    def _answer(self, request: ActiveRequest, loop: LoopResources, scope: Scope, receive: Receive) -> Awaitable[None]:
        """Find the operation of a request, and call what answers it.

        Raises `HeadTooLarge`, `NotFound`, `MethodNotAllowed`, `LoopDetected`, and `ShuttingDown` during a drain.
        """
        exchange, response = request.exchange, request.response
        target = len(scope["path"]) + len(scope.get("query_string", b""))
        check_head(len(scope["headers"]), exchange.head_size + target)
        path = local_path(scope)
        operation = exchange.operation = find_operation(path, exchange.method)
        if operation in PUBLIC:
            ready = operation != "readyz" or not loop.draining
            return response.send_whole(200 if ready else 503, (), b"")
        if loop.draining:
            raise ShuttingDown
        exchange.hops = next_hops(exchange.headers.get(HOPS), self._id)
        if operation == "models.retrieve":
            exchange.model_id = model_of_path(path)
        if self._stack is None:
            return self._gateway.serve(request, loop, scope, receive)
        return _call_stack(self._stack, request, scope, receive)

    def _build_stack(self, layers: Sequence[Middleware], providers: Sequence[Provider]) -> ASGIApp:
        """Put the layers around the gateway, the first one outermost."""
        app: ASGIApp = GatewayApp(self._gateway, self._loops.get)
        for layer in reversed(check_items("middleware", layers, "a list of Middleware", _check_layer)):
            _check_pass_through(layer.kwargs.get("backend"), providers)
            app = layer.cls(app, *layer.args, **layer.kwargs)
            if isinstance(app, RateLimitMiddleware):
                self._limiter = app.limiter
        return app

    async def _close_store(self) -> None:
        await self._limiter.aclose()

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(self.lifespan, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "websockets are not supported"})

    def _finish(self, exchange: Exchange, loop: LoopResources) -> None:
        """Complete the record, and report it."""
        exchange.ended = time.monotonic()
        exchange.outcome = exchange.outcome or "cancelled"
        if exchange.operation in PUBLIC:
            return
        if self._access_log:
            log_access(exchange)
        if (on_settled := self._on_settled) is not None:
            loop.tasks.spawn_callback(lambda: _call(on_settled, exchange))


def _check_settings(client: object, on_settled: object, drain_timeout: object, timing: object, **flags: object) -> None:
    check_function("client", client, "a function without arguments that makes an HttpClient, such as Engine")
    if isinstance(client, type):
        check_function("client", getattr(client, "send", None), "Engine, or another class of HttpClient", None, None)
    if on_settled is not None:
        check_function("on_settled", on_settled, "an async function of the Exchange", None)
    for name, flag in flags.items():
        check_flag(name, flag)
    check_seconds("drain_timeout", drain_timeout, maximum=LONGEST, zero=True)
    check_type("timing", timing, Timing, "a Timing")


def _check_auth(backend: object, providers: Sequence[Provider]) -> None:
    if backend is None:
        raise OptionError(
            "auth",
            "missing; expected auth=ApiKeys(...), auth=HostUser(...), or auth=Anonymous() to accept every request",
        )
    check_backend("auth", backend)
    _check_pass_through(backend, providers)


def _check_pass_through(backend: object, providers: Sequence[Provider]) -> None:
    if isinstance(backend, ApiKeys) and not all(provider.credential.is_operators for provider in providers):
        raise OptionError(
            "auth", 'with ApiKeys(...) no provider can have auth="client": callers have keys of this gateway only'
        )


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
                    "routes", f"unknown provider {name_shown(target.provider)!r} in the route {route.model!r}"
                )
    return router


async def _call_stack(stack: ASGIApp, request: ActiveRequest, scope: Scope, receive: Receive) -> None:
    with request:  # a middleware may read the body, or wait
        request.watch_disconnect(scope, receive, is_read=False)
        await stack(scope, receive, request.response.forward)


async def _call(on_settled: Callable[[Exchange], Any], exchange: Exchange) -> None:
    await on_settled(exchange)
