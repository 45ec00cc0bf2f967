"""The host app of servers in their own process (`uvicorn served_host:app`), configured by environment variables."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from hosting_kit import messages_app
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from bud_asgi import MessagesApp
from bud_asgi.exchange import Exchange

OUTCOMES: list[str | None] = []


async def _settled(exchange: Exchange) -> None:
    OUTCOMES.append(exchange.outcome)


async def _own(_request: Request) -> JSONResponse:
    return JSONResponse(OUTCOMES)


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def _messages() -> MessagesApp:
    drain_timeout = float(os.environ.get("HOST_DRAIN", "30"))
    return messages_app(os.environ["HOST_UPSTREAM"], on_settled=_settled, drain_timeout=drain_timeout)


def _below_base_http_middleware(*, final_error_event: bool) -> tuple[Starlette, MessagesApp]:
    messages = _messages()
    host = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=_pass_on)])
    messages.install(host, "/llm", final_error_event=final_error_event)
    return host, messages


def _host() -> Starlette:
    """The app at `/llm`; below a `BaseHTTPMiddleware` at `/base/llm`, and at `/final/llm` with `final_error_event`."""
    messages = _messages()
    base, base_messages = _below_base_http_middleware(final_error_event=False)
    final, final_messages = _below_base_http_middleware(final_error_event=True)

    async def drain(_request: Request) -> JSONResponse:
        """Drain, as an operator would before stopping the server."""
        await messages.drain(0.3)
        return JSONResponse(OUTCOMES)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with base_messages.lifespan(), final_messages.lifespan():
            yield

    routes = [
        Route("/own", _own),
        Route("/drain", drain, methods=["POST"]),
        Mount("/base", base),
        Mount("/final", final),
    ]
    host = Starlette(routes=routes, lifespan=lifespan)
    messages.install(host, "/llm")
    return host


app = _host()
