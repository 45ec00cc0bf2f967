"""The logins that hosts have: each is one line of `auth=`, on Starlette and on FastAPI, over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hosting_kit import STREAM, messages_app
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from support.calls import BODY, UPSTREAM_KEY
from support.waiting import wait_until

from bud_asgi import Exchange, HostToken, HostUser
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.server.serving import serving

VERSION = {"anthropic-version": "2023-06-01"}
TICKET = {"x-ticket": "ann"}
Headers = Mapping[str, str]


class Ticket(AuthenticationBackend):
    """The host's own Starlette backend: a ticket in a header."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.headers.get("x-ticket")
        if name == "forged":
            raise AuthenticationError("The ticket is forged")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


class SetsUser:
    """A middleware of the host's that puts its own user into the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["user"] = dict(scope["headers"]).get(b"x-ticket", b"").decode()
        await self.app(scope, receive, send)


class SetsState(BaseHTTPMiddleware):
    """One that uses `request.state`."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.user = request.headers.get("x-ticket")
        return await call_next(request)


async def log_in(request: Request) -> PlainTextResponse:
    request.session["user"] = "ann"
    return PlainTextResponse("welcome")


LOGINS: dict[str, tuple[Any, Sequence[Middleware], Headers]] = {
    "an AuthenticationBackend": (Ticket(), [], TICKET),
    "Starlette's AuthenticationMiddleware": (
        HostUser(),
        [Middleware(AuthenticationMiddleware, backend=Ticket())],
        TICKET,
    ),
    "a user in the scope": (HostUser(), [Middleware(SetsUser)], TICKET),
    "request.state": (HostUser(lambda scope: scope["state"].get("user")), [Middleware(SetsState)], TICKET),
    "a session cookie": (
        HostUser(lambda scope: scope["session"].get("user"), credential_headers=()),
        [Middleware(SessionMiddleware, secret_key="secret")],
        {},
    ),
    "a bearer token": (HostToken({"t-1": "ann"}.get), [], {"authorization": "Bearer t-1"}),
    "a token as the key": (HostToken({"t-1": "ann"}.get), [], {"x-api-key": "t-1"}),
}
HOSTS: dict[str, Callable[[Sequence[Middleware]], Starlette]] = {
    "Starlette": lambda layers: Starlette(middleware=list(layers)),
    "FastAPI": lambda layers: FastAPI(middleware=list(layers)),
}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
@pytest.mark.parametrize(("auth", "layers", "credentials"), LOGINS.values(), ids=LOGINS.keys())
def test_the_login_of_the_host_is_that_of_the_gateway(
    upstream: ThreadedStandIn,
    host: Callable[[Sequence[Middleware]], Starlette],
    auth: AuthenticationBackend,
    layers: Sequence[Middleware],
    credentials: Headers,
) -> None:
    settled: list[Exchange] = []

    async def on_settled(exchange: Exchange) -> None:
        settled.append(exchange)

    app = host(layers)
    app.router.routes.append(Route("/login", log_in))
    messages_app(upstream.base_url, auth=auth, on_settled=on_settled).install(app, "/llm")
    with serving(app) as url, httpx.Client(base_url=url, headers=VERSION, trust_env=False) as client:
        refused = client.post("/llm/v1/messages", json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        if not credentials:
            client.get("/login")
        assert client.post("/llm/v1/messages", json=BODY, headers=credentials).status_code == 200
        counted = {name: value for name, value in BODY.items() if name != "max_tokens"}
        assert client.post("/llm/v1/messages/count_tokens", json=counted, headers=credentials).status_code == 200
        stream = client.post("/llm/v1/messages", json=STREAM, headers=credentials)
        assert stream.text.count("event: message_stop") == 1
        assert client.get("/llm/v1/models", headers=credentials).json()["data"]
        wait_until(lambda: len(settled) == 5, "all are settled")
    assert [account.principal and account.principal.id for account in settled] == [None, "ann", "ann", "ann", "ann"]


@pytest.mark.parametrize(
    "name", ["an AuthenticationBackend", "a session cookie", "a bearer token", "a token as the key"]
)
def test_the_words_of_a_401_fit_the_credential_that_is_expected(upstream: ThreadedStandIn, name: str) -> None:
    auth, layers, _ = LOGINS[name]
    app = Starlette(middleware=list(layers))
    messages_app(upstream.base_url, auth=auth).install(app, "/llm")
    expected = "x-api-key header is required" if "token" in name else "authentication is required"
    with serving(app) as url, httpx.Client(base_url=url, headers=VERSION, trust_env=False) as client:
        assert client.post("/llm/v1/messages", json=BODY).json()["error"]["message"] == expected
        forged = client.post("/llm/v1/messages", json=BODY, headers={"x-ticket": "forged"}).json()["error"]["message"]
        assert forged == ("The ticket is forged" if isinstance(auth, Ticket) else expected)
