"""`MessagesApp`: the Messages API as one ASGI app, to be mounted or served alone."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bud_asgi.auth import AuthMiddleware
from bud_asgi.endpoint import Endpoint
from bud_asgi.exchange import Exchange
from bud_asgi.hosting import PerLoop, install, local_path, run_lifespan
from bud_asgi.http import Engine, HttpClient
from bud_asgi.limits import Limit, RateLimitMiddleware
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.protocol.errors import GatewayError, MethodNotAllowed, NotFound
from bud_asgi.providers import Provider
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware

OPERATIONS: Mapping[str, Mapping[str, str]] = {
    "/v1/messages": {"POST": "messages.create"},
    "/api/hello": {"HEAD": "hello"},
}
"""What is served: the operation by path and method. All else below the prefix is a 404 or 405 of ours."""

OPEN = frozenset({"hello"})
"""The operations that need no credential."""

OnSettled = Callable[[Exchange], Awaitable[None]]

_log = logging.getLogger("bud_asgi")


class MessagesApp:
    """The Messages API (`POST /v1/messages`, JSON and streaming) over one or more providers.

    Who may call is said by `auth`, any Starlette `AuthenticationBackend`; which model goes where by `routes` (with a
    single provider, all models go there); how much by `limits`. Or `middleware` replaces that default stack whole.
    Raises `ValueError` when built without either `auth` or `middleware`: an open mount spends its owner's money.

    `max_body` is in bytes. `client` makes the HTTP client of an event loop. `on_settled` is awaited with each finished
    `Exchange`, after the reply and out of its path; what it raises is logged.
    """

    def __init__(
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
    ) -> None:
        names = _names(providers)
        if middleware is None:
            middleware = _default_stack(auth, routes, limits, names)
        elif auth is not None or routes is not None or limits:
            raise ValueError("middleware= replaces the default stack whole: say auth, routes and limits in it")
        self._resources = PerLoop(client)
        self._max_body = max_body
        self._on_settled = on_settled
        self._stack: ASGIApp = Endpoint(providers, lambda: self._resources.get().client)
        for layer in reversed(middleware):
            self._stack = layer.cls(self._stack, *layer.args, **layer.kwargs)

    def install(self, host: Starlette, path: str) -> None:
        """Mount this app in a Starlette or FastAPI app at a prefix, its lifespan inside the host's.

        `host.mount(path, messages)` works too: then the connections are made on first use and closed when the event
        loop ends, and a request for the bare prefix is redirected by Starlette. FastAPI's dependencies do not run for
        a mounted app: authentication is `auth=`'s alone.
        """
        install(host, path, self, self.lifespan)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Enter this within a host's own lifespan: on the way out settlements are awaited and connections closed."""
        self._resources.get()
        try:
            yield
        finally:
            await self._resources.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: HTTP, the lifespan when served alone; a websocket is refused."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await run_lifespan(self._resources, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "there are no websockets here"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange.of(scope)
        exchange.tasks, exchange.max_body = self._resources.get().tasks, self._max_body
        try:
            await self._answer(exchange, scope, receive, send)
        finally:
            exchange.ended = time.monotonic()
            exchange.outcome = exchange.outcome or "cancelled"
            if self._on_settled is not None:
                exchange.tasks.start(_tell(self._on_settled, exchange))

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """The error layer: whatever the stack does, the client gets an answer and the host no exception."""
        started = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        error: GatewayError | None = None
        try:
            exchange.operation = _operation(local_path(scope), exchange.method)
            if exchange.operation in OPEN:
                await _hello(exchange, watched)
            else:
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


def _operation(path: str, method: str) -> str:
    methods = OPERATIONS.get(path)
    if methods is None:
        raise NotFound("Not found")
    operation = methods.get(method)
    if operation is None:
        raise MethodNotAllowed("Method not allowed", headers={"allow": ", ".join(methods)})
    return operation


async def _hello(exchange: Exchange, send: Send) -> None:
    exchange.outcome = "answered"
    await exchange.start_response(send, 200, [(b"content-length", b"0")])
    await send({"type": "http.response.body", "body": b""})


async def _tell(on_settled: Callable[[Exchange], Any], exchange: Exchange) -> None:
    await on_settled(exchange)
