"""Hosts with a mounted app that frequent requests may reach by the shortcut, and hosts whose router is always used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from support.calls import BODY, HEADERS

from bud_asgi import Anonymous, Anthropic, MessagesApp
from bud_asgi import Middleware as Stage
from bud_asgi.hosting import Shortcut

ROUTER_ONLY = "starlette.exception_handlers"
"""A key that Starlette's `ExceptionMiddleware` sets: a scope without it has taken the shortcut."""

Make = Callable[[], Starlette]


def messages(**options: Any) -> MessagesApp:
    """An app whose upstream cannot be reached: a valid request is answered with a 502, after all stages."""
    options = options or {"auth": Anonymous()}
    return MessagesApp(providers=[Anthropic(base_url="http://127.0.0.1:1")], **options)


async def page(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("the host's")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4000)


async def answer(_request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(f"the host's handler: {error!r}", 418)


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


class Outer:
    """A middleware of the host's that adds to the scope before, and a header after."""

    def __init__(self, app: ASGIApp, name: str = "outer") -> None:
        self.app, self.name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("order", []).append(self.name)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-by", self.name.encode())]
            await send(message)

        await self.app(scope, receive, marked)


def installed(path: str = "/llm", **options: Any) -> Starlette:
    host = Starlette(**options)
    messages().install(host, path)
    return host


def _added_around() -> Starlette:
    host = Starlette(middleware=[Middleware(Outer, "first")])
    host.add_middleware(Outer, "before")
    messages().install(host, "/llm")
    host.add_middleware(Outer, "after")
    return host


def _two(first: str, second: str) -> Make:
    def make() -> Starlette:
        host = Starlette(routes=[Route("/", page)])
        messages().install(host, first)
        messages().install(host, second)
        return host

    return make


def _nested(prefix: str) -> Starlette:
    inner = installed(middleware=[Middleware(Outer)])
    host = Starlette(routes=[Mount(prefix, inner)])
    host.router.lifespan_context = inner.router.lifespan_context
    return host


def _final_error_event() -> Starlette:
    host = Starlette()
    messages().install(host, "/llm", final_error_event=True)
    return host


class Other(Starlette):
    """A host of a class of its own."""


def _subclass() -> Starlette:
    host = Other()
    messages().install(host, "/llm")
    return host


EARLIER = [
    Route("/", page),
    Route("/llm/healthz", page),
    Route("/{name}", page),
    Route("/llm/v1/messages/{id}/parts", page, methods=["POST"]),
    Mount("/llmx", Router()),
    Mount("/static", Router()),
    WebSocketRoute("/{path:path}", socket),
]

HOSTS: dict[str, tuple[Make, str]] = {
    "plain": (installed, "/llm"),
    "a subclass": (_subclass, "/llm"),
    "earlier routes": (lambda: installed(routes=EARLIER), "/llm"),
    "at the root": (lambda: installed("/", routes=[Route("/", page)]), ""),
    "a trailing slash": (lambda: installed("/llm/"), "/llm"),
    "a prefix like a path of the API": (lambda: installed("/v1/messages"), "/v1/messages"),
    "middleware before and after": (_added_around, "/llm"),
    "BaseHTTPMiddleware": (lambda: installed(middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)]), "/llm"),
    "gzip": (lambda: installed(middleware=[Middleware(GZipMiddleware)]), "/llm"),
    "a limit on bodies": (lambda: installed(max_body_size=10), "/llm"),
    "debug": (lambda: installed(debug=True), "/llm"),
    "handlers": (
        lambda: installed(exception_handlers={404: answer, 405: answer, 502: answer, 500: answer, OSError: answer}),
        "/llm",
    ),
    "the final event": (_final_error_event, "/llm"),
    "two, the first": (_two("/a", "/b"), "/a"),
    "two, the second": (_two("/a", "/b"), "/b"),
    "two nested, the inner": (_two("/a/b", "/a"), "/a/b"),
    "two nested, the outer": (_two("/a/b", "/a"), "/a"),
    "a host in a host": (lambda: _nested("/outer"), "/outer/llm"),
    "a host in a host, with a parameter": (lambda: _nested("/{tenant}"), "/acme/llm"),
}
"""Hosts that get a shortcut, with the path before that of the Messages API."""


class NoHeader(BaseRoute):
    """A route of the host's own, which looks at the headers."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.NONE if scope["headers"] else Match.FULL), {}


class OwnRoute(Route):
    """A class of the host's own."""


class OwnRouter(Router):
    """A class of the host's own."""


def _own_router() -> Starlette:
    host = Starlette()
    host.router = OwnRouter()
    messages().install(host, "/llm")
    return host


def _router_with_middleware() -> Starlette:
    host = Starlette()
    host.router = Router(middleware=[Middleware(Outer)])
    messages().install(host, "/llm")
    return host


def _further_in() -> Starlette:
    host = installed()
    host.user_middleware.append(Middleware(Outer))
    return host


def _started_already() -> Starlette:
    host = Starlette()
    host.middleware_stack = host.build_middleware_stack()  # as the first request does
    messages().install(host, "/llm")
    return host


def _fastapi() -> Starlette:
    host = FastAPI()
    messages().install(host, "/llm")
    return host


def _own_stages() -> Starlette:
    host = Starlette()
    messages(middleware=[Stage(Outer)]).install(host, "/llm")
    return host


ROUTED: dict[str, tuple[Make, str]] = {
    "a route for other methods": (lambda: installed(routes=[Route("/{path:path}", page)]), "/llm"),
    "a route for a path of the API": (lambda: installed(routes=[Route("/llm/v1/messages", page)]), "/llm"),
    "another host name": (lambda: installed(routes=[Host("www.example.com", Router())]), "/llm"),
    "a custom route": (lambda: installed(routes=[NoHeader()]), "/llm"),
    "a class of routes of its own": (lambda: installed(routes=[OwnRoute("/own", page)]), "/llm"),
    "a parameter in the prefix": (lambda: installed("/t/{tenant}"), "/t/acme"),
    "its own router": (_own_router, "/llm"),
    "a router with middleware": (_router_with_middleware, "/llm"),
    "a middleware further in": (_further_in, "/llm"),
    "a stack that was built before": (_started_already, "/llm"),
    "FastAPI": (_fastapi, "/llm"),
    "an app with its own stages": (_own_stages, "/llm"),
}
"""Hosts whose router is always used, with the path before that of the Messages API."""


def without_shortcut(app: ASGIApp) -> None:
    """Take the shortcut out of a host, and out of the hosts that are mounted in it."""
    if isinstance(app, Starlette):
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls is not Shortcut]
        for route in app.routes:
            if isinstance(route, Mount):
                without_shortcut(route.app)


def scope_for(path: str, method: str = "POST", **more: Any) -> Scope:
    headers = [(name.encode(), value.encode()) for name, value in {**HEADERS, "host": "host"}.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "server": ("host", 80),
        "client": ("127.0.0.1", 5000),
        "state": {},
        **more,
    }


async def drive(app: ASGIApp, scope: Scope, body: bytes | None = None) -> list[Any]:
    """What the app sends for a scope, and what it raises."""
    chunks = [json.dumps(BODY).encode() if body is None else body]
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(), "more_body": False} if chunks else await never()

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - shown
        sent.append(repr(error))
    return sent


async def never() -> Message:
    await asyncio.Event().wait()
    return {}
