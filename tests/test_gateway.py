"""The path: what a stack of middleware may leave out or get wrong, and which credential goes upstream."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from support.asgi import VERSION, Receiving, Sent, http_scope

from bud_asgi import Anonymous, Anthropic, ApiKeys, AuthMiddleware, MessagesApp, RoutingMiddleware, Target, hash_api_key
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.testing import StandIn

SENT = b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'
KEY = "sk-bud-the-callers"


async def post(app: ASGIApp, *headers: tuple[bytes, bytes]) -> Sent:
    sent = Sent()
    body = {"type": "http.request", "body": SENT, "more_body": False}
    await app(http_scope([VERSION, *headers]), Receiving(body), sent)
    return sent


class Chosen:
    """A router of the host's that always chooses the same targets."""

    model = "claude-haiku-4-5"

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets

    def resolve(self, model: str, principal: Principal | None) -> Chosen:
        return self

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        return ()

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        return self.targets


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([], "no target"),
        ([Target("nowhere")], "the unknown provider 'nowhere'"),
        ([Target("anthropic"), Target("x")], "the unknown provider 'x'"),
    ],
    ids=["no target", "an unknown provider", "an unknown second provider"],
)
async def test_a_router_that_chooses_what_does_not_exist_is_reported(
    targets: Sequence[Target], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = MessagesApp(
        providers=[Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")],
        middleware=[
            Middleware(AuthMiddleware, backend=Anonymous()),
            Middleware(RoutingMiddleware, router=Chosen(targets)),
        ],
    )
    sent = await post(messages)
    error = json.loads(sent.body)["error"]
    assert (sent.status, error["type"]) == (500, "api_error")
    assert error["message"] == "The route of this model is misconfigured: claude-haiku-4-5"
    (record,) = caplog.records
    assert record.getMessage().endswith(f": the router chose {reason} for model 'claude-haiku-4-5'")


async def test_without_any_middleware_every_request_is_a_401() -> None:
    messages = MessagesApp(providers=[Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")], middleware=[])
    assert (await post(messages)).status == 401


class NewScope:
    """A middleware that passes a new scope on, with nothing of ours in it but the user."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {name: value for name, value in scope.items() if not name.startswith("bud_asgi")}
        await self.app({**inner, "user": Principal(id="host")}, receive, send)


async def test_a_middleware_that_makes_a_new_scope_is_served() -> None:
    async with StandIn() as upstream:
        provider = Anthropic(api_key=upstream.api_key, base_url=upstream.base_url)
        messages = MessagesApp(providers=[provider], middleware=[Middleware(NewScope)])
        async with messages.lifespan():
            assert (await post(messages)).status == 200
        assert upstream.requests[0].header("bud-hops")  # a gateway that calls itself is still recognised


class Wrapped(AuthenticationBackend):
    """A backend of the host's around ours."""

    def __init__(self, inner: AuthenticationBackend) -> None:
        self.inner = inner

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        return await self.inner.authenticate(conn)


@pytest.mark.parametrize("own", ["x-api-key", "authorization"])
async def test_the_credential_that_proved_the_caller_to_us_is_never_forwarded(own: str) -> None:
    """Not even where the client's credential is passed through, and whatever stands around our backend."""
    ours = {"x-api-key": KEY, "authorization": f"Bearer {KEY}"}[own]
    theirs = ("authorization", "Bearer sk-ant-theirs") if own == "x-api-key" else ("x-api-key", "sk-ant-theirs")
    async with StandIn(strict=False) as upstream:
        passing = Anthropic(auth="client", base_url=upstream.base_url)
        backend = Wrapped(ApiKeys({"ci": hash_api_key(KEY)}))
        messages = MessagesApp(auth=backend, providers=[passing])
        async with messages.lifespan():
            lines = [(own.encode(), ours.encode()), (theirs[0].encode(), theirs[1].encode())]
            await post(messages, *lines)
            await post(messages, lines[0])
        seen = [dict(request.headers) for request in upstream.requests]
        assert [{name.lower() for name in headers} & {b"x-api-key", b"authorization"} for headers in seen] == [
            {theirs[0].encode()},
            set(),
        ]
        assert all(KEY.encode() not in b"".join(headers.values()) for headers in seen)


async def test_what_a_middleware_answers_by_itself_is_in_the_record() -> None:
    class Closed:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("closed", 403)(scope, receive, send)

    settled: list[Exchange] = []

    async def settle(exchange: Exchange) -> None:
        settled.append(exchange)

    provider = Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")
    messages = MessagesApp(providers=[provider], middleware=[Middleware(Closed)], on_settled=settle)
    async with messages.lifespan():
        assert (await post(messages)).status == 403
    (exchange,) = settled
    assert (exchange.outcome, exchange.status) == ("refused", 403)
