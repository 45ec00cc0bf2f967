"""The routing middleware in front of another app: the route is in the record, the body reaches the next app."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as PathRoute
from starlette.types import Message, Receive, Scope, Send
from support.asgi import BODY, DISCONNECT, VERSION, Receiving, Sent, call, chunks, http_scope

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware

TABLE = RouteTable([Route("m", ["here"]), Route("secret-*", ["there"])])


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


FOREIGN = Starlette(routes=[PathRoute("/v1/messages", echo, methods=["POST"])])


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app behind must not be called")


def body_of(model: str) -> bytes:
    return BODY.replace(b'"m"', b'"%b"' % model.encode())


@pytest.mark.parametrize("parts", [(BODY,), (BODY[:7], BODY[7:]), (b"", BODY[:1], b"", BODY[1:], b"")])
async def test_a_foreign_app_behind_gets_the_whole_body(parts: tuple[bytes, ...]) -> None:
    scope = http_scope([VERSION])
    sent = await call(RoutingMiddleware(FOREIGN, router=TABLE), scope, Receiving(*chunks(*parts)))
    assert (sent.status, sent.body) == (200, BODY)
    route = Exchange.of(scope).route
    assert route is not None
    assert route.model == "m"
    assert list(route.choose(Exchange.of(scope))) == [Target("here")]


async def test_the_next_app_gets_the_body_at_once_and_then_the_servers_messages() -> None:
    received: list[Message] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert not waiting.done()
        server.put_nowait(DISCONNECT)
        received.append(await waiting)

    server: asyncio.Queue[Message] = asyncio.Queue()
    for message in chunks(BODY[:20], BODY[20:]):
        server.put_nowait(message)
    await RoutingMiddleware(behind, router=TABLE)(http_scope([VERSION]), server.get, Sent())
    assert received == [{"type": "http.request", "body": BODY, "more_body": False}, DISCONNECT]


REFUSED: dict[str, tuple[list[tuple[bytes, bytes]], bytes, int, str, str]] = {
    "a model that nothing serves": ([VERSION], body_of("x"), 404, "not_found_error", "model: x"),
    "a model that is not the caller's": (
        [VERSION],
        body_of("secret-1"),
        403,
        "permission_error",
        "model: secret-1 is not among the models that you may use",
    ),
    "no version": ([], BODY, 400, "invalid_request_error", "anthropic-version: header is required"),
    "no JSON": (
        [VERSION],
        b"{]",
        400,
        "invalid_request_error",
        "The request body is not valid JSON: object keys must be strings (byte 1)",
    ),
    "no model": ([VERSION], b"{}", 400, "invalid_request_error", "model: Field required"),
    "too large": (
        [VERSION, (b"content-length", b"99999999")],
        b"",
        413,
        "request_too_large",
        "Request exceeds the maximum size of 33554432 bytes",
    ),
}


@pytest.mark.parametrize(("headers", "body", "status", "type_", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_can_t_be_routed_is_refused(
    headers: list[tuple[bytes, bytes]], body: bytes, status: int, type_: str, words: str
) -> None:
    scope = http_scope(headers)
    Exchange.of(scope).principal = Principal(id="p", models=("m", "x"))
    sent = await call(RoutingMiddleware(nobody, router=TABLE), scope, Receiving(*chunks(body)))
    assert sent.status == status
    assert sent.error == {"type": type_, "message": words}
    assert sent.headers[b"x-should-retry"] == b"false"
    assert Exchange.of(scope).outcome == "refused"
    assert Exchange.of(scope).route is None


async def test_a_client_that_leaves_while_it_sends_is_answered_with_nothing() -> None:
    scope = http_scope([VERSION])
    receive = Receiving({"type": "http.request", "body": BODY, "more_body": True}, DISCONNECT)
    sent = await call(RoutingMiddleware(nobody, router=TABLE), scope, receive)
    assert (sent.status, sent.body) == (499, b"")
    assert Exchange.of(scope).outcome == "client_gone"


async def test_without_a_principal_every_route_is_open() -> None:
    scope = http_scope([VERSION])
    sent = await call(RoutingMiddleware(FOREIGN, router=TABLE), scope, Receiving(*chunks(body_of("secret-1"))))
    assert sent.status == 200


async def test_a_function_routes_for_a_foreign_app() -> None:
    async def tenant_route(model: str, principal: Principal) -> Route | None:
        await asyncio.sleep(0)
        return Route(model, [principal.id]) if model == "m" else None

    for body, status in ((body_of("m"), 200), (body_of("x"), 404)):
        scope = http_scope([VERSION])
        exchange = Exchange.of(scope)
        exchange.principal = Principal(id="p")
        sent = await call(RoutingMiddleware(FOREIGN, router=tenant_route), scope, Receiving(*chunks(body)))
        assert sent.status == status
        assert (exchange.route is None) is (status == 404)


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes_are_passed_on_untouched(kind: str) -> None:
    scopes: list[Scope] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    await RoutingMiddleware(behind, router=TABLE)({"type": kind}, Receiving(), Sent())
    assert scopes == [{"type": kind}]
