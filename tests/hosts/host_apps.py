"""The host apps of the tests: each has a route `/own`, and may have the Messages API mounted at a prefix."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi import MessagesApp

Host = Callable[[MessagesApp | None, str], ASGIApp]


async def _own(_request: Request) -> JSONResponse:
    return JSONResponse({"of": "the host"}, headers={"x-host": "yes"})


def starlette(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    host = Starlette(routes=[Route("/own", _own)])
    if messages:
        messages.install(host, prefix)
    return host


def starlette_nested(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    """Two nested mounts made with Starlette's `Mount`; the host enters the lifespan."""
    mounts = [Mount("/outer", routes=[Mount(prefix, messages)])] if messages else []
    return Starlette(routes=[Route("/own", _own), *mounts], lifespan=messages.lifespan if messages else None)


def fastapi(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    from fastapi import FastAPI

    host = FastAPI()
    host.add_api_route("/own", lambda: {"of": "the host"})
    if messages:
        messages.install(host, prefix)
    return host


def fastapi_root_path(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    """Behind a proxy that strips `/api`, with `root_path` set."""
    from fastapi import FastAPI

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but still common
        host = FastAPI(root_path="/api")
    host.add_api_route("/own", lambda: {"of": "the host"})
    if messages:
        messages.install(host, prefix)
    return host


def litestar(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    from litestar import Litestar, asgi, get

    @get("/own")
    async def own() -> dict[str, str]:
        return {"of": "the host"}

    if messages is None:
        return cast("ASGIApp", Litestar([own], logging_config=None))
    mount = asgi(prefix, is_mount=True, copy_scope=True)(cast("Any", messages))
    return cast("ASGIApp", Litestar([own, mount], lifespan=[messages.lifespan], logging_config=None))


def dispatcher(host: Any, prefix: str, mounted: ASGIApp) -> Any:
    """Send requests below a prefix to the mounted app, for hosts that cannot mount one."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "lifespan" and (path == prefix or path.startswith(f"{prefix}/")):
            await mounted({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)
        else:
            await host(scope, receive, send)

    return dispatch


def quart(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    from quart import Quart

    host = Quart("host")

    @host.get("/own")
    async def own() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"of": "the host"}

    if messages:
        host.asgi_app = dispatcher(host.asgi_app, prefix, messages)

        @host.while_serving
        async def gateway() -> AsyncGenerator[None]:  # pyright: ignore[reportUnusedFunction]
            async with messages.lifespan():
                yield

    return cast("ASGIApp", host)


def blacksheep(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    from blacksheep import Application, Router

    router = Router()

    @router.get("/own")
    async def own() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"of": "the host"}

    host = Application(router=router)
    if messages:
        host.mount(prefix, messages)

        @host.lifespan
        async def gateway() -> AsyncGenerator[None]:  # pyright: ignore[reportUnusedFunction]
            async with messages.lifespan():
                yield

    return cast("ASGIApp", host)


async def _bare_host(scope: Scope, receive: Receive, send: Send) -> None:
    found = scope["path"] == "/own"
    body = b"the host" if found else b"not found"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bare(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    """A bare ASGI host without its own lifespan: the mounted app gets the lifespan scope."""
    if messages is None:
        return _bare_host
    dispatch = dispatcher(_bare_host, prefix, messages)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (messages if scope["type"] == "lifespan" else dispatch)(scope, receive, send)

    return app


def bare_stripping(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    """A bare ASGI host that strips the prefix from the path, against the specification. It runs no lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("this host has no lifespan")
        path: str = scope["path"]
        if messages and path.startswith(f"{prefix}/"):
            await messages({**scope, "path": path.removeprefix(prefix)}, receive, send)
        else:
            await _bare_host(scope, receive, send)

    return app


def hypercorn_dispatcher(messages: MessagesApp | None, prefix: str) -> ASGIApp:
    """Hypercorn's dispatcher: it runs the lifespans of all its apps, and dispatches with `startswith`."""
    from hypercorn.middleware import DispatcherMiddleware

    host = Starlette(routes=[Route("/own", _own)])
    mounts: dict[str, Any] = {prefix: messages, "": host} if messages else {"": host}
    return cast("ASGIApp", DispatcherMiddleware(mounts))


@asynccontextmanager
async def broken(_app: object) -> AsyncGenerator[None]:
    """A lifespan that fails at startup."""
    raise RuntimeError("the host's database is down")
    yield


HOSTS: dict[str, tuple[Host, str, str]] = {
    "Starlette": (starlette, "/llm", ""),
    "Starlette, nested mounts": (starlette_nested, "/llm", "/outer"),
    "FastAPI": (fastapi, "/v1/ai", ""),
    "FastAPI with root_path, its proxy strips": (fastapi_root_path, "/llm", ""),
    "FastAPI with root_path, called with the full path": (fastapi_root_path, "/llm", "/api"),
    "Litestar": (litestar, "/llm", ""),
    "Quart": (quart, "/llm", ""),
    "BlackSheep": (blacksheep, "/llm", ""),
    "bare ASGI": (bare, "/llm", ""),
    "bare ASGI, prefix stripped, no lifespan": (bare_stripping, "/llm", ""),
    "Hypercorn's dispatcher": (hypercorn_dispatcher, "/llm", ""),
}
"""By name: the host, the prefix to mount at, and the path that clients put in front of it."""

PREFIXES: dict[str, tuple[Host, str]] = {
    f"{make.__name__} {prefix}": (make, prefix)
    for make in (starlette, fastapi, litestar, quart, blacksheep, bare, hypercorn_dispatcher)
    for prefix in ("/a", "/v1", "/team/ai", "/v1/messages")
} | {"starlette /llm/": (starlette, "/llm/"), "fastapi /team/ai/": (fastapi, "/team/ai/")}
"""Hosts with other prefixes: deeper ones, and some that look like a path of the Messages API."""
