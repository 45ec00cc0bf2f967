"""A host for servers in processes of their own: `uvicorn served_host:app`, told by its environment what to be."""

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
    """The guest at `/llm`, and twice below a `BaseHTTPMiddleware`: with a last word, and at `/mute` without."""
    messages = _messages()
    (heard, of_heard), (mute, of_mute) = (_below_base_http_middleware(final_error_event=last) for last in (True, False))

    async def drain(_request: Request) -> JSONResponse:
        """As an operator would call it before the server is told to stop."""
        await messages.drain(0.3)
        return JSONResponse(OUTCOMES)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with of_heard.lifespan(), of_mute.lifespan():
            yield

    routes = [
        Route("/own", _own),
        Route("/drain", drain, methods=["POST"]),
        Mount("/heard", heard),
        Mount("/mute", mute),
    ]
    host = Starlette(routes=routes, lifespan=lifespan)
    messages.install(host, "/llm")
    return host


app = _host()
