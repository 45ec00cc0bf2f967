"""Running inside a host app: the path below the prefix, the lifespan, mounting, the final event of a stream."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from starlette import __version__ as starlette_version
from starlette.applications import Starlette
from starlette.convertors import FloatConvertor, IntegerConvertor, PathConvertor, StringConvertor, UUIDConvertor
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import SCOPE_KEY, Exchange
from bud_asgi.options import OptionError, check_type, mismatch, shown
from bud_asgi.protocol.operations import Operation, find_operation

if TYPE_CHECKING:
    from fastapi import APIRouter

EnterLifespan = Callable[[], AbstractAsyncContextManager[None]]

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/?#\\\x00-\x1f\x7f]+)*")
_SAMPLES: Mapping[type, str] = {
    StringConvertor: "sample",
    PathConvertor: "sample",
    IntegerConvertor: "1",
    FloatConvertor: "1.5",
    UUIDConvertor: "00000000-0000-4000-8000-000000000000",
}
"""For each convertor of Starlette's a text that it matches."""

_FREQUENT = ("/v1/messages", "/v1/messages/count_tokens")
"""The paths below the prefix that `Shortcut` serves."""
_ROUTER_SETS_ROUTE = tuple(map(int, starlette_version.split(".")[:2])) >= (1, 7)
"""Whether Starlette's router puts the matching route into the scope."""

_MAX_KNOWN = 64
_MAX_KNOWN_SIZE = 256

known_operations: dict[tuple[str, str, str], Operation] = {}
"""The operations by path, prefix and method, as they came in scopes. It is emptied when it is full."""

_log = logging.getLogger("bud_asgi")


def operation_of(scope: Scope) -> Operation:
    """The operation that a request addresses, below the prefix. Raises `NotFound`, `MethodNotAllowed`."""
    path, prefix = scope["path"], scope.get("root_path", "")
    key = path, prefix, scope["method"]
    operation = known_operations.get(key)
    if operation is None:
        operation = find_operation(local_path(scope), scope["method"])
        # Names of models are too many; whether the client sent a slash at the end depends on `raw_path`.
        if operation != "models.retrieve" and path[-1:] != "/" and len(path) + len(prefix) <= _MAX_KNOWN_SIZE:
            if len(known_operations) >= _MAX_KNOWN:
                known_operations.clear()
            known_operations[key] = operation
    return operation


def local_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted at.

    ASGI puts the prefix into `root_path` and keeps it in `path`. A proxy in front may have stripped the first part of
    it, so the longest tail of `root_path` that the path starts with is removed.
    """
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if path.endswith("/"):
        raw_path: bytes = scope.get("raw_path") or b"/"
        if not raw_path.partition(b"?")[0].endswith(b"/"):
            path = path.removesuffix("/")  # Litestar appends one
    if not prefix:  # served alone
        return path
    prefix = prefix.rstrip("/")
    while prefix:
        if path.startswith(prefix):
            below = path[len(prefix) :]
            if not below or below[0] == "/":
                return below
        _, slash, tail = prefix[1:].partition("/")
        prefix = slash + tail
    return path


async def run_lifespan(lifespan: EnterLifespan, receive: Receive, send: Send) -> None:
    """Run the ASGI lifespan of an app that is served alone, or by a host that runs the lifespans of its mounts."""
    await receive()
    failed = "lifespan.startup.failed"
    try:
        async with lifespan():
            await send({"type": "lifespan.startup.complete"})
            failed = "lifespan.shutdown.failed"
            await receive()
    except Exception as error:  # noqa: BLE001 - the boundary to the server: it reports
        _log.exception("the lifespan failed")
        await send({"type": failed, "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})


class FinalErrorEvent:
    """The outermost middleware of a host: ends a running stream with an `error` event when the request is cancelled.

    A server cancels running requests at the end of its grace period. A `BaseHTTPMiddleware` in the host then drops what
    the mounted app sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through. The closing event is sent in the same step as the cancellation."""
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            exchange: Exchange | None = scope.get(SCOPE_KEY)
            if exchange is not None and exchange.unsent_event:
                await send({"type": "http.response.body", "body": exchange.unsent_event})
            raise


class _ExactPrefix:
    """Serves the bare prefix: the whole path is prefix, even if it looks like a path of the Messages API."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = scope["path"]
        await self.app(scope, receive, send)


class Shortcut:
    """The innermost middleware of a host: hands frequent requests to a mount past the host's router.

    Starlette's `ExceptionMiddleware`, router and mount cost more than the rest of the host for a small request. The
    scope becomes what they would make of it, except for the key that `ExceptionMiddleware` sets for endpoints.

    The router is used wherever it could decide otherwise: an earlier route could match, the prefix has parameters, the
    router is of another class (FastAPI's also serves its telemetry), another middleware is further in, or a monitoring
    tool has replaced methods of Starlette's.

    If `send` of a host's middleware raises, the exception reaches the host's handler for 500 as it is;
    `ExceptionMiddleware` would replace it with a `RuntimeError` if its class has a handler.
    """

    def __init__(self, app: ASGIApp, mount: Mount) -> None:
        self.app = app
        self._mount = mount
        self._router = _plain_router(app) if mount.param_convertors.keys() == {"path"} else None
        self._paths = {mount.path + path for path in _FREQUENT}
        self._routes: list[BaseRoute] = []
        """The host's routes when it was last checked whether the mount is the first that could match."""
        self._is_first = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a frequent request to the mount, and pass on everything else."""
        router = self._router
        if router is None or scope["type"] != "http":
            return self.app(scope, receive, send)
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        if root_path and path.startswith(root_path) and path[len(root_path) :][:1] in {"", "/"}:
            path = path[len(root_path) :]
        if path not in self._paths:
            return self.app(scope, receive, send)
        if router.routes != self._routes:
            self._check(router.routes)
        if not self._is_first:
            return self.app(scope, receive, send)
        mount = self._mount
        scope.setdefault("router", router)
        if _ROUTER_SETS_ROUTE:
            scope["route"] = mount
        scope["path_params"] = dict(scope.get("path_params", ()))
        scope.setdefault("app_root_path", root_path)
        scope["root_path"] = root_path + mount.path
        scope["endpoint"] = mount.app
        return mount.app(scope, receive, send)

    def _check(self, routes: list[BaseRoute]) -> None:
        mount = self._mount
        earlier = list(itertools.takewhile(lambda route: route is not mount, routes))
        self._is_first = len(earlier) < len(routes) and all(_never_matches(route, self._paths) for route in earlier)
        self._routes = list(routes)


def _plain_router(app: ASGIApp) -> Router | None:
    """The router behind a host's `ExceptionMiddleware`, if nothing but Starlette's own code is in between."""
    while isinstance(app, Shortcut):
        app = app.app
    router: object = app.app if isinstance(app, ExceptionMiddleware) else None
    if not isinstance(router, Router) or type(app) is not ExceptionMiddleware or type(router) is not Router:
        return None
    replaceable = (ExceptionMiddleware.__call__, Router.__call__, Router.app, Mount.matches, Mount.handle)
    is_plain = router.middleware_stack == router.app and all(
        type(function) is FunctionType and function.__globals__["__name__"].startswith("starlette.")
        for function in replaceable
    )
    return router if is_plain else None


def _never_matches(route: BaseRoute, paths: set[str]) -> bool:
    if type(route) is Route or type(route) is Mount:
        return not any(map(route.path_regex.match, paths))
    return type(route) is WebSocketRoute


def install(
    host: Starlette | Router,
    path: str,
    app: ASGIApp,
    lifespan: Callable[[], AbstractAsyncContextManager[None]],
    *,
    shortcut: bool = False,
) -> None:
    """Mount an app in a Starlette or FastAPI host, or in a router of Starlette's, and enter its lifespan in the host's.

    With `shortcut`, frequent requests do not go through the router of a host (`Shortcut`). Raises `OptionError`: for an
    invalid path, and where an earlier route of the host would get all messages.
    """
    prefix = _checked_prefix(path)
    router = host if isinstance(host, Router) else host.router
    _check_earlier_routes(router.routes, prefix)
    if prefix:
        router.routes.append(Route(prefix, _ExactPrefix(app)))  # without it, Starlette redirects there
    mount = Mount(prefix, app)
    router.routes.append(mount)
    if shortcut and isinstance(host, Starlette):
        host.user_middleware.append(Middleware(Shortcut, mount))
    inner = router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state, lifespan():
            yield state

    router.lifespan_context = both


def include(host: APIRouter, path: str, router: APIRouter) -> None:
    """Include the router of an app in one of the host's. Raises `OptionError`, as `install` does."""
    prefix = _checked_prefix(path)
    _check_earlier_routes(host.routes, host.prefix + prefix)
    host.include_router(router, prefix=prefix)


def check_host(host: object, *, final_error_event: bool) -> None:
    """Check that an app can be installed in a host. Raises `OptionError`."""
    if not isinstance(host, Starlette | Router):
        error = mismatch("host", "a Starlette or FastAPI app, or a router of either", host)
        raise OptionError("host", f"{error.problem}; in other frameworks, mount the app as an ASGI app (docs/hosts)")
    if final_error_event and not isinstance(host, Starlette):
        raise OptionError("final_error_event", "a router has no middleware; install in the app itself to set it")


def _checked_prefix(path: object) -> str:
    """The path to install at, without a slash at its end. Raises `OptionError`."""
    check_type("path", path, str, 'a path such as "/llm"')
    text = cast("str", path)
    if not text.startswith("/"):
        raise OptionError("path", f"the path to install at must begin with a slash, not {text!r}")
    prefix = text.rstrip("/")
    if "//" in prefix or not _PREFIX.fullmatch(prefix):
        raise OptionError("path", f"expected a path without //, ?, #, . and .. segments, got {shown(text)}")
    return prefix


def _check_earlier_routes(routes: Iterable[BaseRoute], prefix: str) -> None:
    """Check that a request for a message would reach a mount at a prefix. Raises `OptionError`."""
    messages = _sample_path(f"{prefix}/v1/messages")
    if messages is None:
        return
    for route in routes:
        if _takes(route, "POST", messages):
            here = isinstance(route, Mount) and route.path == prefix
            taken = (
                f"an app is mounted at {prefix or '/'!r} already" if here else f"{_shown_route(route)} comes earlier"
            )
            raise OptionError(
                "path",
                f"{taken} and would get the requests first; install before it, or at a path that it does not match",
            )
        if _takes(route, "GET", _sample_path(f"{prefix}/v1/models") or "") and _takes(route, "GET", messages):
            _log.warning(
                "%s comes earlier and answers GET %s/v1/models: install before it", _shown_route(route), prefix
            )


def _sample_path(path: str) -> str | None:
    """A path that matches a pattern of Starlette's; `None` if one of its convertors is the host's own.

    Raises `OptionError` for an invalid pattern.
    """
    try:
        _, form, convertors = compile_path(path)
        if not set(map(type, convertors.values())) <= _SAMPLES.keys():
            return None
        return form.format(**{name: _SAMPLES[type(convertor)] for name, convertor in convertors.items()})
    except (AssertionError, ValueError, LookupError) as error:  # one brace, or braces around what is not a name
        raise OptionError("path", f"not a valid pattern: {error}") from None


def _takes(route: BaseRoute, method: str, path: str) -> bool:
    """Whether a route answers a request. One that matches the path but not the method lets later routes answer."""
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"host.invalid")],
        "path_params": {},
    }
    return route.matches(scope)[0] is Match.FULL


def _shown_route(route: BaseRoute) -> str:
    where: object = getattr(route, "path", None) or getattr(route, "host", None) or "/"
    return f"the host's {type(route).__name__} {where!r}"
