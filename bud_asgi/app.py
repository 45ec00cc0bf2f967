"""`MessagesApp`: the Messages API as one ASGI app, to be mounted or served alone."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bud_asgi.auth import ApiKeys, AuthMiddleware
from bud_asgi.endpoint import Endpoint
from bud_asgi.exchange import Exchange
from bud_asgi.hosting import FinalErrorEvent, PerLoop, install, local_path, run_lifespan
from bud_asgi.http import Engine, HttpClient
from bud_asgi.limits import Limit, RateLimitMiddleware
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.protocol.errors import GatewayError, ShuttingDown
from bud_asgi.protocol.operations import PUBLIC, find_operation, model_of_path
from bud_asgi.providers import Provider
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware
from bud_asgi.telemetry import log_access

OnSettled = Callable[[Exchange], Awaitable[None]]

_log = logging.getLogger("bud_asgi")


class MessagesApp:
    """The Messages API (`POST /v1/messages`, JSON and streaming, `count_tokens`, `GET /v1/models`) over its providers.

    Who may call is said by `auth`, any Starlette `AuthenticationBackend`; which model goes where by `routes` (with a
    single provider, all models go there); how much by `limits`. Or `middleware` replaces that default stack whole.
    Raises `ValueError` when built without either `auth` or `middleware`: an open mount spends its owner's money.

    `max_body` is in bytes. `client` makes the HTTP client of an event loop. `on_settled` is awaited with each finished
    `Exchange`, after the reply and out of its path; what it raises is logged. `access_log` writes one line of JSON for
    each request to the logger `bud_asgi.access`, without its content. `drain_timeout` is how many seconds requests in
    flight get at shutdown.
    """

    def __init__(  # noqa: PLR0913 - an app has its settings, all by keyword
        self,
        *,
        providers: Sequence[Provider],
        auth: AuthenticationBackend | None = None,
        routes: Sequence[Route] | None = None,
        limits: Sequence[Limit] = (),
        middleware: Sequence[Middleware] | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        client: Callable[[], HttpClient] = Engine,
        on_settled: OnSettled | None = None,
        access_log: bool = False,
        drain_timeout: float = 30.0,
    ) -> None:
        names = _names(providers)
        if middleware is None:
            middleware = _default_stack(auth, routes, limits, names)
        elif auth is not None or routes is not None or limits:
            raise ValueError("middleware= replaces the default stack whole: say auth, routes and limits in it")
        ours = all(provider.credential.is_operators for provider in providers)
        if not ours and any(isinstance(layer.kwargs.get("backend"), ApiKeys) for layer in middleware):
            raise ValueError(
                'with auth=ApiKeys(...) no provider can have auth="client": it would hand your keys to its upstream'
            )
        self._resources = PerLoop(client, providers)
        self._max_body = max_body
        self._on_settled = on_settled
        self._access_log = access_log
        self._drain_timeout = drain_timeout
        self._stack: ASGIApp = Endpoint(providers, self._resources.get)
        for layer in reversed(middleware):
            self._stack = layer.cls(self._stack, *layer.args, **layer.kwargs)

    def install(self, host: Starlette, path: str, *, final_error_event: bool = False) -> None:
        """Mount this app in a Starlette or FastAPI app at a prefix, its lifespan inside the host's.

        `host.mount(path, messages)` works too: then the connections are made on first use and closed when the event
        loop ends, and a request for the bare prefix is redirected by Starlette. FastAPI's dependencies do not run for
        a mounted app: authentication is `auth=`'s alone. A limit of the host's on request bodies holds here too.

        `final_error_event` puts a layer of ours outermost in the host: only with it can a stream below a
        `BaseHTTPMiddleware` end with an `error` event when the server cancels it past its grace. Raises `ValueError`
        where something is mounted already.
        """
        install(host, path, self, self.lifespan)
        if final_error_event:
            host.add_middleware(FinalErrorEvent)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Enter this within a host's own lifespan: on the way out it drains, then closes its connections."""
        self._resources.get()
        try:
            yield
        finally:
            await self.drain()
            await self._resources.aclose()

    async def drain(self, timeout: float | None = None) -> None:
        """Refuse new requests (529), let those in flight end, and end the rest after `timeout` seconds.

        The default is the app's `drain_timeout`. Streams that are ended get an `error` event. Settlements have been
        awaited when this returns. A host that knows of a shutdown before its server does calls it earlier; readiness
        (`/readyz`) is false from then on.
        """
        await self._resources.drain(self._drain_timeout if timeout is None else timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: HTTP, the lifespan when served alone; a websocket is refused."""
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        try:
            resources = self._resources.get()
        except Exception:  # noqa: BLE001 - the host's own `client` can't be made: the host must not meet it here
            _log.exception("%s: the HTTP client can't be made", exchange.request_id)
            await exchange.refuse(GatewayError("Internal server error"), send)
            return
        exchange.tasks, exchange.max_body = resources.tasks, self._max_body
        resources.entered(exchange)
        try:
            await self._answer(exchange, resources.draining, scope, receive, send)
        finally:
            self._account(exchange)
            resources.left(exchange)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(self.lifespan, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "there are no websockets here"})

    def _account(self, exchange: Exchange) -> None:
        """Close the account of a request, and tell whoever wants to know."""
        exchange.ended = time.monotonic()
        exchange.outcome = exchange.outcome or "cancelled"
        if exchange.operation in PUBLIC:
            return
        if self._access_log:
            log_access(exchange)
        if self._on_settled is not None:
            exchange.tasks.start(_tell(self._on_settled, exchange))

    async def _answer(self, exchange: Exchange, draining: bool, scope: Scope, receive: Receive, send: Send) -> None:
        """The error layer: whatever the stack does, the client gets an answer and the host no exception."""
        started = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        error: GatewayError | None = None
        try:
            path = local_path(scope)
            operation = exchange.operation = find_operation(path, exchange.method)
            if operation in PUBLIC:
                await _answer_open(exchange, watched, ready=not draining)
            elif draining:
                error = ShuttingDown()
            else:
                if operation == "models.retrieve":
                    exchange.model_id = model_of_path(path)
                await self._stack(scope, receive, watched)
        except GatewayError as refusal:
            error = refusal
        except Exception:  # noqa: BLE001 - the boundary to the client: it reports, and answers
            _log.exception("%s: the request failed", exchange.request_id)
            error = GatewayError("Internal server error")
        if error is not None and not started:
            await exchange.refuse(error, send)


def _names(providers: Sequence[Provider]) -> frozenset[str]:
    names = [provider.name for provider in providers]
    if not names:
        raise ValueError("at least one provider is needed")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two providers have the name {name!r}: give one of them another name=")
    return frozenset(names)


def _default_stack(
    auth: AuthenticationBackend | None,
    routes: Sequence[Route] | None,
    limits: Sequence[Limit],
    providers: frozenset[str],
) -> list[Middleware]:
    if auth is None:
        raise ValueError(
            "say who may call: auth=ApiKeys(...), auth=HostUser(...), or auth=Anonymous() to let everybody in"
        )
    if routes is None and len(providers) > 1:
        raise ValueError("with more than one provider, routes= must say which model goes where")
    table = RouteTable(routes if routes is not None else [Route("*", to=list(providers))])
    for route in table.routes:
        for target in route.targets:
            if target.provider not in providers:
                raise ValueError(f"the route {route.model!r} leads to {target.provider!r}, which is no provider")
    stack = [Middleware(AuthMiddleware, backend=auth), Middleware(RoutingMiddleware, router=table)]
    return [*stack, Middleware(RateLimitMiddleware, limits=limits)] if limits else stack


async def _answer_open(exchange: Exchange, send: Send, *, ready: bool) -> None:
    """Health and readiness are told by the status alone."""
    exchange.outcome = "answered"
    status = 503 if exchange.operation == "readyz" and not ready else 200
    await exchange.start_response(send, status, [(b"content-length", b"0")])
    await send({"type": "http.response.body", "body": b""})


async def _tell(on_settled: Callable[[Exchange], Any], exchange: Exchange) -> None:
    await on_settled(exchange)
