"""`MessagesApp`: the Messages API as one ASGI app, to be mounted or served alone."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Unpack, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Router as StarletteRouter
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.auth import CREDENTIAL_HEADERS
from bud_asgi.clock import DEFAULT_TIMING, LONGEST, Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import STAGES_KEY, Exchange
from bud_asgi.gateway import GATEWAY_KEY
from bud_asgi.hosting import FinalErrorEvent, check_host, include, install, local_path, operation_of, run_lifespan
from bud_asgi.http import Engine, HttpClient, check_client
from bud_asgi.limits import Limit, Limiter, LimitStore
from bud_asgi.loop import LoopResources
from bud_asgi.observer import NO_OBSERVERS, Observer, Observers
from bud_asgi.options import check_flag, check_function, check_items, check_seconds, check_type
from bud_asgi.parts import Auth, Changes, PartOptions, Parts, Routes
from bud_asgi.protocol.account_fields import Action
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.protocol.headers import MAX_HEAD, head_too_large
from bud_asgi.protocol.hops import HOPS, next_hops
from bud_asgi.protocol.operations import PUBLIC, Operation, model_of_path
from bud_asgi.providers import Provider
from bud_asgi.response import Response
from bud_asgi.revisions import Revisions
from bud_asgi.snapshot import check_readiness, take_snapshot
from bud_asgi.state import AppState, Readiness
from bud_asgi.status import StatusPage, StatusSource
from bud_asgi.telemetry import MetricsSource, OnSettled, SettledCallback, flush_access_log
from bud_asgi.transport import Caller, InProcessTransport

if TYPE_CHECKING:
    from fastapi import APIRouter
    from fastapi.params import Depends
    from prometheus_client import CollectorRegistry

    from bud_asgi.telemetry.prometheus import Metrics

_JSON = ((b"content-type", b"application/json"),)

_log = logging.getLogger("bud_asgi")


class MessagesApp:
    """The Messages API (`POST /v1/messages`, JSON and streaming, `count_tokens`, `GET /v1/models`) over its providers.

    `auth`, any Starlette `AuthenticationBackend` or a list of them (`FirstOf`), decides who may call; `routes` decide
    which model goes where (with a single provider, all models go there): a list, a function of the model and the
    principal, or another `Router`; `limits` decide how much, counted in this process's memory or in a `store` that
    several share. Or `middleware` replaces these three stages.
    Raises `ValueError` without either `auth` or `middleware`, because anyone could then spend your money.

    `field_policy` sets what happens to fields that change what is billed, or to whom: `{"speed": "refuse"}`
    (`FieldPolicy`).

    Sizes are in bytes. `max_body` is the largest request body. `body_budget` is what the app holds of request bodies at
    any time (by default 256 MB, or a quarter of the process's memory limit if that is less),
    `body_budget_per_principal` what it holds of one caller's (by default half of that). A request that finds no room
    gets a 529.

    `client` makes the HTTP client of an event loop. `observers` get the events of each request (`Observer`).
    `on_settled` is awaited with each finished `Exchange`, in the background after the response; its exceptions are
    logged, and while 10,000 calls of it are running, further ones are dropped. `access_log` writes one line of JSON for
    each request to the logger `bud_asgi.access`, without its content.
    `route_header` adds the header `bud-route` to responses: the route, the attempts and how they ended. `drain_timeout`
    is how many seconds requests in flight get at shutdown. `timing` holds the other durations. Raises
    `OptionError`, a `ValueError`, for any of them that is invalid. `source` is the `Settings` that the app was made
    from, if it was.
    """

    source: object = None

    def __init__(  # noqa: PLR0913 - an app has its settings, all by keyword
        self,
        *,
        providers: Sequence[Provider],
        auth: Auth | None = None,
        routes: Routes | None = None,
        limits: Sequence[Limit] = (),
        store: LimitStore | None = None,
        middleware: Sequence[Middleware] | None = None,
        field_policy: Mapping[str, Action] | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        body_budget: int | None = None,
        body_budget_per_principal: int | None = None,
        client: Callable[[], HttpClient] = Engine,
        on_settled: OnSettled | None = None,
        observers: Sequence[Observer] = (),
        access_log: bool = False,
        route_header: bool = False,
        drain_timeout: float = 30.0,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        _check_settings(client, drain_timeout, timing)
        self._timing, self._drain_timeout, self._observers = timing, drain_timeout, _observers(observers, on_settled)
        options = PartOptions(
            providers=providers,
            auth=auth,
            routes=routes,
            limits=limits,
            store=store,
            middleware=middleware,
            field_policy=field_policy,
            max_body=max_body,
            body_budget=body_budget,
            body_budget_per_principal=body_budget_per_principal,
            route_header=route_header,
            access_log=access_log,
        )
        self._revisions = Revisions(options, client, timing, self._observers)
        self._loops = self._revisions.loops
        self._metrics = MetricsSource(self.state, self._observers)

    @property
    def limits(self) -> Limiter:
        """The limits of this app: `await messages.limits.standing(principal)` reports what a caller has used.

        With `middleware`, they are those of the first `RateLimitMiddleware` in it.
        """
        return self._revisions.current.limiter

    @property
    def revision(self) -> int:
        """The number of the configuration that serves new requests: 1 at the start, more after each `reload`."""
        return self._revisions.current.revision

    @property
    def providers(self) -> Sequence[Provider]:
        """The providers that new requests are sent to."""
        return self._revisions.current.options.providers

    def state(self) -> AppState:
        """The state of this app as its process sees it: targets, connections, credentials, what is in flight.

        It never waits, starts nothing, and may be called from any thread. `ready` is as of the last calls to the store
        of the callers' keys.
        """
        return take_snapshot(self._revisions.current, self._loops, started=self._revisions.started)

    async def readiness(self) -> Readiness:
        """Whether requests can be served, for a host's own health check; `/readyz` returns the same.

        Calls the store of the callers' keys if it has not answered within the last seconds.
        """
        return await check_readiness(self._revisions.current, self._loops)

    def status_page(self, *, auth: Auth) -> StatusPage:
        """Make a page with the state of this app for operators, to be mounted: `host.mount("/status", page)`.

        `auth` decides who sees it. Use and failures are counted from the first call on. Raises `OptionError`.
        """
        return StatusPage(self._status, auth)

    @cached_property
    def _status(self) -> StatusSource:
        return StatusSource(self.state, self._loops.in_flight, lambda: self.limits, self._observers)

    def metrics(self, registry: CollectorRegistry | None = None) -> Metrics:
        """Make an ASGI app that a Prometheus server scrapes; requests are counted from now on.

        It serves all metrics of `registry`, by default a new one with only those of this app. A host that serves its
        registry already needs just this call. Called again, it returns the same app. Raises `OptionError` for another
        registry, and for one that has the metrics of another app; `ImportError` without `prometheus_client`.
        """
        return self._metrics.make(registry)

    def install(self, host: Starlette | StarletteRouter, path: str, *, final_error_event: bool = False) -> None:
        """Mount this app in a Starlette or FastAPI app at a prefix, its lifespan inside the host's.

        The host may also be a router. In an `APIRouter` of FastAPI's it is included as `router()`, so that the
        dependencies of the `APIRouter` run; install it before the `APIRouter` itself is included.

        `host.mount(path, messages)` works too: then the connections are made on first use and closed when the event
        loop ends, and Starlette redirects a request for the bare prefix. FastAPI's dependencies do not run for a
        mounted app (they do for `router()`): only `auth=` authenticates. A limit of the host's on request bodies
        applies here too.

        `final_error_event` puts a layer of ours outermost in the host: only with it can a stream below a
        `BaseHTTPMiddleware` end with an `error` event when the server cancels it past its grace period. Raises
        `OptionError`, a `ValueError`, for an invalid path, and where an earlier route of the host would get the
        requests.
        """
        check_flag("final_error_event", final_error_event)
        check_host(host, final_error_event=final_error_event)
        if isinstance(host, StarletteRouter) and hasattr(host, "include_router"):
            include(cast("APIRouter", host), path, self.router())
            return
        # A stack of the app's own may contain routes of Starlette's, which use the host's exception handlers.
        install(host, path, self, self.lifespan, shortcut=self._revisions.current.stack is None)
        if final_error_event:
            cast("Starlette", host).add_middleware(FinalErrorEvent)

    def router(
        self,
        *,
        dependencies: Sequence[Depends] = (),
        principal: Callable[..., object] | None = None,
        credential_headers: Collection[str] = CREDENTIAL_HEADERS,
    ) -> APIRouter:
        """Make an `APIRouter` that serves this app behind FastAPI's dependencies, for `include_router(prefix=...)`.

        `dependencies` run before each request, those with `yield` end after its response, and so does what the router
        is included with. What they raise is answered in the error format, an `HTTPException` with its own status and
        headers. They must not read the request's body. The paths that need no credential run none.

        `principal` is a dependency too: its result is the caller, as from the function of `HostUser`, in place of
        `auth=`. Without it, `auth=` authenticates. `credential_headers` are those that the dependencies read, as for
        `HostUser`.

        The router has the lifespan of this app, and is not in the OpenAPI schema. Raises `OptionError`, and
        `ImportError` without FastAPI.
        """
        from bud_asgi.fastapi_router import make_router  # noqa: PLC0415 - FastAPI is optional

        return make_router(
            self,
            self.lifespan,
            dependencies=dependencies,
            principal=principal,
            credential_headers=credential_headers,
        )

    def reload(self, **changes: Unpack[Changes]) -> int:
        """Change options while the app runs, and return the number of the new revision, from 1 at the start.

        Those that are not given stay as they are. All are checked first: an invalid one raises `OptionError`, and
        nothing changes. New requests use the new options at once; running ones, streams included, finish with those
        that they started with. Then connections that are no longer used are closed.

        Buckets of limits are kept, also if the amount or wait of a limit has changed, unless `store` is another one. So
        are the health of targets whose provider is the same object, connections to the same servers, cached keys of the
        same store, and the keys of unchanged issuers. It can be called in any thread, and does no I/O. `client`,
        `middleware`, `observers`, `on_settled`, `drain_timeout` and `timing` cannot be changed.
        """
        return self._revisions.change(changes).revision

    def override(
        self,
        *,
        providers: Sequence[Provider] | None = None,
        auth: Auth | None = None,
        routes: Routes | None = None,
        limits: Sequence[Limit] | None = None,
        store: LimitStore | None = None,
    ) -> AbstractContextManager[None]:
        """Replace options within a `with` block, in tests for example; those that are not given stay as they are.

        It applies to every request that arrives during the block, in every thread and wherever the app is mounted.
        Limits are counted from zero, and the health of targets is unknown; after the block, both are as before. Blocks
        can be nested. Raises `OptionError`, as the constructor does.
        """
        given = {"providers": providers, "auth": auth, "routes": routes, "limits": limits, "store": store}
        return self._revisions.override({name: value for name, value in given.items() if value is not None})

    def transport(self, principal: Caller) -> InProcessTransport:
        """Make a transport for an async client of httpx or httpx2 that calls this app in its own process.

        The caller is `principal`: a `Principal`, an id, or a function without arguments that returns one, called for
        each request in its context. It needs no credential; limits, accounts and the access log are as for any caller.
        Only the path of a URL counts, without a prefix: `base_url` may be `http://gateway`. Raises `OptionError`.
        """
        return InProcessTransport(self, principal)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Enter this within a host's own lifespan: on exit it drains, then closes its connections."""
        self._loops.get()
        with self._metrics:
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
        exchange, parts = Exchange.of(scope), self._revisions.current
        try:
            loop = self._loops.get()
        except Exception as error:  # noqa: BLE001 - the boundary to the host: `client` is a function of its own
            await Response(exchange, send, self._timing, receive=receive).answer_error(error)
            return
        response = Response(exchange, send, self._timing, receive=receive, now=loop.now, observers=self._observers)
        try:
            request = loop.add(exchange, response, parts.gateway)
            answering = self._answer(request, parts, loop, scope, receive)
            del scope  # an open stream does not need it
            await answering
        except BaseException as error:
            if not await response.answer_error(error):
                raise
        finally:
            exchange.ended = time.monotonic()
            if exchange.outcome is None:
                exchange.outcome = "cancelled"
            try:
                if response.observers.settled:
                    response.observers.notify(response.observers.settled, exchange)
            finally:
                loop.discard(exchange)

    def _answer(
        self, request: ActiveRequest, parts: Parts, loop: LoopResources, scope: Scope, receive: Receive
    ) -> Awaitable[None]:
        """Find the operation of a request, and call what answers it.

        Raises `HeadTooLarge`, `NotFound`, `MethodNotAllowed`, `LoopDetected`, and `ShuttingDown` during a drain.
        """
        exchange = request.exchange
        try:
            size = exchange.head_size + len(scope["path"]) + len(scope.get("query_string", b""))
            if size > MAX_HEAD:  # several servers have no limit
                raise head_too_large(len(scope["headers"]))
            operation = exchange.operation = operation_of(scope)
        finally:
            if self._observers.request_started and exchange.operation not in PUBLIC:
                self._observers.notify(self._observers.request_started, exchange, scope)
        if operation in PUBLIC:
            return self._answer_public(operation, request.response, loop)
        if loop.draining:
            raise ShuttingDown
        exchange.hops = next_hops(exchange.headers.get(HOPS), parts.gateway.id)
        if operation == "models.retrieve":
            exchange.model_id = model_of_path(local_path(scope))
        stages: Callable[[ASGIApp], ASGIApp] | None = scope.pop(STAGES_KEY, None)
        stack = parts.stack if stages is None else stages(parts.inner)
        if stack is None:
            return parts.gateway.serve(request, loop, scope, receive)
        scope[GATEWAY_KEY] = parts.gateway
        return _call_stack(stack, request, scope, receive)

    async def _answer_public(self, operation: Operation, response: Response, loop: LoopResources) -> None:
        """Answer a health check; `readyz` also reports a key store that does not answer while known keys still work."""
        response.observers = NO_OBSERVERS
        if operation != "readyz":
            await response.send_whole(200, (), b"")
            return
        readiness = await self.readiness()
        status = "degraded" if readiness.ready else "unavailable"
        shown = any(reason.code == "key_store" for reason in readiness.reasons) and not loop.draining
        body = b'{"authentication":"%b"}' % status.encode() if shown else b""
        await response.send_whole(200 if readiness.ready else 503, _JSON if body else (), body)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(self.lifespan, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "websockets are not supported"})


def _check_settings(client: object, drain_timeout: object, timing: object) -> None:
    check_client("client", client)
    check_seconds("drain_timeout", drain_timeout, maximum=LONGEST, zero=True)
    check_type("timing", timing, Timing, "a Timing")


def _observers(observers: Sequence[Observer], on_settled: OnSettled | None) -> Observers:
    expected = "a list of Observer"
    given = check_items(
        "observers", observers, expected, lambda name, one: check_type(name, one, Observer, "an Observer")
    )
    if on_settled is not None:
        check_function("on_settled", on_settled, "an async function of the Exchange", None)
        given += (SettledCallback(on_settled),)
    return Observers(given)


async def _call_stack(stack: ASGIApp, request: ActiveRequest, scope: Scope, receive: Receive) -> None:
    with request:  # a middleware may read the body, or wait
        request.watch_disconnect(scope, receive, is_read=False)
        await stack(scope, receive, request.response.forward)
