"""The Messages API as routes of a FastAPI app, behind its dependencies. Imported on first use: FastAPI is optional."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bud_asgi.auth import CREDENTIAL_HEADERS, AuthenticationFailed, HostUser, as_chain, authenticate
from bud_asgi.auth.host import Found
from bud_asgi.exchange import STAGES_KEY, Exchange
from bud_asgi.host_code import host_code_error
from bud_asgi.options import check_items, check_type, mismatch
from bud_asgi.protocol.errors import GatewayError, HostRefused

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_PATH = "messages_path"
_BODY = "bud_asgi.body"
_GATEWAY = "bud_asgi.gateway_app"
_CALLER = "bud_asgi.caller"
_NO_HANDLERS: tuple[Mapping[object, object], Mapping[object, object]] = ({}, {})


def make_router(
    app: ASGIApp,
    lifespan: Callable[[object], AbstractAsyncContextManager[None]],
    *,
    dependencies: Sequence[Dependency],
    principal: Callable[..., object] | None,
    credential_headers: Collection[str],
) -> APIRouter:
    """Make the router: `app` has the route for its stages, whose dependencies come before its gateway.

    Raises `OptionError`.
    """
    checked = check_items("dependencies", dependencies, "a list of Depends(...)", _check_dependency)
    if principal is not None and not callable(principal):
        raise mismatch("principal", "a dependency: a function that returns the caller", principal)
    caller = as_chain("principal", HostUser(_caller, credential_headers=credential_headers))

    class MessagesRoute(APIRoute):
        """A route that is served within the gateway's error boundary, as the first stage."""

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            """Serve all that is not public behind the dependencies."""
            below = "/" + scope["path_params"][_PATH]
            root_path: str = scope.get("root_path", "")
            scope.setdefault("app_root_path", root_path)
            scope["root_path"] = root_path + scope["path"].removesuffix(below)
            scope[STAGES_KEY] = partial(_behind, super().handle)
            await app(scope, receive, send)

    async def endpoint(request: Request, found: object = Depends(principal or _nothing)) -> Response:
        if principal is not None:
            request.scope[_CALLER] = found
            await authenticate(caller, Exchange.of(request.scope), request.scope)
        return _Forwarded(request.scope[_GATEWAY])

    router = APIRouter(route_class=MessagesRoute, lifespan=lifespan)
    router.add_api_route(
        f"/{{{_PATH}:path}}",
        endpoint,
        methods=list(_METHODS),
        dependencies=checked,
        response_model=None,
        include_in_schema=False,
    )
    return router


class _Body:
    """The `receive` of a request, closed to the dependencies."""

    def __init__(self, receive: Receive, request_id: str) -> None:
        self._receive = receive
        self._request_id = request_id
        self.is_open = False

    async def __call__(self) -> Message:
        """Receive the next message. Raises `GatewayError` (500) while it is closed."""
        if not self.is_open:
            fault = "a dependency of messages.router() read the body of the request; only the gateway may"
            raise host_code_error(self._request_id, fault, "The authentication of this gateway is misconfigured.")
        return await self._receive()


class _Forwarded(Response):
    """Has the gateway answer."""

    def __init__(self, gateway: ASGIApp) -> None:
        super().__init__()
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_BODY].is_open = True
        await self._gateway(scope, receive, send)
        if self.background is not None:
            await self.background()


def _behind(route: ASGIApp, gateway: ASGIApp) -> ASGIApp:
    """The route before the gateway, as an app: no dependency reads the body, and refusals are a `GatewayError`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive, Exchange.of(scope).request_id)
        # Without handlers, what a dependency raises comes out here, and not as a response in the host's own format.
        inner = {**scope, "starlette.exception_handlers": _NO_HANDLERS, _BODY: body, _GATEWAY: gateway}
        try:
            await route(inner, body, send)
        except HTTPException as error:
            if isinstance(error.__cause__, GatewayError):  # FastAPI makes a 400 of all that fails while it reads a body
                raise error.__cause__ from None
            raise HostRefused(error.status_code, error.detail, error.headers) from error
        except RequestValidationError as error:
            raise _invalid(error) from error

    return app


def _invalid(error: RequestValidationError) -> GatewayError:
    """The refusal for a parameter of a dependency: a 401 where a credential header or a cookie is missing."""
    problem = cast("Sequence[Mapping[str, object]]", error.errors())[0]
    place = [str(part) for part in cast("Sequence[object]", problem["loc"])]
    if problem["type"] == "missing" and (place[0] == "cookie" or place[-1] in CREDENTIAL_HEADERS):
        return AuthenticationFailed(f"{place[-1]} {place[0]} is required")
    return HostRefused(422, f"{'.'.join(place)}: {problem['msg']}", None)


async def _nothing() -> None:
    """Stand in for `principal` where `auth=` authenticates."""


def _caller(scope: Scope) -> Found:
    return scope[_CALLER]


def _check_dependency(option: str, dependency: object) -> None:
    check_type(option, dependency, Dependency, "Depends(...)")
