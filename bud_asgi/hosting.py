"""Running inside a host app: the path below the prefix, the lifespan, mounting, the final event of a stream."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from starlette.applications import Starlette
from starlette.convertors import FloatConvertor, IntegerConvertor, PathConvertor, StringConvertor, UUIDConvertor
from starlette.routing import BaseRoute, Match, Mount, Route, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.exchange import SCOPE_KEY, Exchange
from bud_asgi.options import OptionError, check_type, shown

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

_log = logging.getLogger("bud_asgi")


def local_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted at.

    ASGI puts the prefix into `root_path` and keeps it in `path`. A proxy in front may have stripped the first part of
    it, so the longest tail of `root_path` that the path starts with is removed.
    """
    path: str = scope["path"]
    if path.endswith("/"):
        raw_path: bytes = scope.get("raw_path") or b"/"
        if not raw_path.partition(b"?")[0].endswith(b"/"):
            path = path.removesuffix("/")  # Litestar appends one
    prefix: str = scope.get("root_path", "").rstrip("/")
    while prefix:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return path[len(prefix) :]
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


def install(
    host: Starlette, path: str, app: ASGIApp, lifespan: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    """Mount an app in a Starlette or FastAPI host at a prefix, and enter its lifespan within the host's.

    Raises `OptionError`: for an invalid path, and where an earlier route of the host would get all messages.
    """
    check_type("host", host, Starlette, "a Starlette or FastAPI app")
    prefix = _checked_prefix(path)
    _check_earlier_routes(host, prefix)
    if prefix:
        host.router.routes.append(Route(prefix, _ExactPrefix(app)))  # without it, Starlette redirects there
    host.router.routes.append(Mount(prefix, app))
    inner = host.router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncGenerator[Any]:
        async with inner(app) as state, lifespan():
            yield state

    host.router.lifespan_context = both


def _checked_prefix(path: object) -> str:
    check_type("path", path, str, 'a path such as "/llm"')
    text = cast("str", path)
    if not text.startswith("/"):
        raise OptionError("path", f"the path to install at must begin with a slash, not {text!r}")
    prefix = text.rstrip("/")
    if "//" in prefix or not _PREFIX.fullmatch(prefix):
        raise OptionError("path", f"expected a path without //, ?, #, . and .. segments, got {shown(text)}")
    return prefix


def _check_earlier_routes(host: Starlette, prefix: str) -> None:
    """Check that a request for a message would reach a mount at a prefix. Raises `OptionError`."""
    messages = _sample_path(f"{prefix}/v1/messages")
    if messages is None:
        return
    for route in host.router.routes:
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
    except (AssertionError, ValueError) as error:
        raise OptionError("path", str(error)) from None
    if not set(map(type, convertors.values())) <= _SAMPLES.keys():
        return None
    return form.format(**{name: _SAMPLES[type(convertor)] for name, convertor in convertors.items()})


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
