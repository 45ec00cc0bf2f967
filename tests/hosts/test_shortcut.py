"""The shortcut past a host's router: each request is driven both ways, and nothing that a host can see differs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from fastapi import FastAPI
from shortcut_hosts import (
    HOSTS,
    ROUTED,
    ROUTER_ONLY,
    Make,
    answer,
    drive,
    installed,
    messages,
    page,
    scope_for,
    socket,
    without_shortcut,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, NoMatchFound, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from support.calls import BODY, HEADERS

from bud_asgi import MessagesApp
from bud_asgi.exchange import SCOPE_KEY, Principal


def shown(scope: Scope, sent: list[Any]) -> Any:
    """A response and the scope after it, comparable between two hosts."""
    exchange = scope.get(SCOPE_KEY)
    id_ = exchange.request_id if exchange is not None else "none"
    kept = {key: _named(value) for key, value in scope.items() if key not in {SCOPE_KEY, ROUTER_ONLY}}
    return repr(sent).replace(id_, "ID"), kept


def _named(value: object) -> object:
    """An object of a host's by its kind and place."""
    if isinstance(value, Router):
        return type(value), [type(route) for route in value.routes]
    if isinstance(value, Mount):
        return type(value), value.path, _named(value.app)
    return value if isinstance(value, str | bytes | dict | list | tuple | Principal | None) else type(value)


async def both_ways(make: Make, path: str, *, took_shortcut: bool | None = None, **more: Any) -> Any:
    """Drive one request with the shortcut and without it. Both must look the same."""
    short, long = make(), make()
    without_shortcut(long)
    seen: list[Any] = []
    for host in (short, long):
        async with host.router.lifespan_context(host):
            for _first_or_second in range(2):  # the first request builds the stack
                scope = scope_for(path, **more)
                seen.append(shown(scope, await drive(host, scope)))
                if took_shortcut is not None:
                    assert (ROUTER_ONLY not in scope) is (took_shortcut and host is short)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    return seen[0]


@pytest.mark.parametrize("below", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("name", HOSTS)
async def test_a_frequent_request_takes_the_shortcut_and_looks_as_if_it_had_not(name: str, below: str) -> None:
    make, before = HOSTS[name]
    limited = name == "a limit on bodies"
    sent, scope = await both_ways(make, before + below, took_shortcut=None if "in a host" in name else True)
    assert "'status': 413" in sent if limited else "'status': 502" in sent
    assert scope["endpoint"] is MessagesApp
    assert scope["root_path"] == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "nonsense"])
@pytest.mark.parametrize("name", HOSTS)
async def test_another_method_is_answered_alike(name: str, method: str) -> None:
    make, before = HOSTS[name]
    sent, _scope = await both_ways(make, f"{before}/v1/messages", method=method)
    assert "'status': 405" in sent


BELOW = (
    *("", "/", "x", "/v1", "/v1/messages/", "/v1/messages\n", "/v1/messages%0a", "//v1/messages", "/v1//messages"),
    *("/v1/models", "/healthz", "/readyz", "/v1/v1/messages", "/V1/messages", "/../v1/messages", "/v1/messages/x"),
)


@pytest.mark.parametrize("name", HOSTS | ROUTED)
async def test_any_other_path_goes_through_the_router(name: str) -> None:
    make, before = (HOSTS | ROUTED)[name]
    for below in BELOW:
        for path in (before + below, below or "/"):
            frequent = {f"{before}/v1/messages", f"{before}/v1/messages/count_tokens"}
            if path not in frequent:
                nested = "in a host" in name or name.startswith("two")
                await both_ways(make, path, took_shortcut=None if nested else False)


@pytest.mark.parametrize("name", ROUTED)
async def test_a_host_whose_routing_could_differ_is_always_asked(name: str) -> None:
    make, before = ROUTED[name]
    for method in ("POST", "GET"):
        await both_ways(make, f"{before}/v1/messages", method=method, took_shortcut=False)
        await both_ways(make, f"{before}/v1/messages/count_tokens", method=method, took_shortcut=False)


@pytest.mark.parametrize(
    ("root_path", "path", "short"),
    [
        ("/api", "/api/llm/v1/messages", True),
        ("/api", "/llm/v1/messages", True),
        ("/api/", "/api//llm/v1/messages", False),
        ("/api/", "/api/llm/v1/messages", False),
        ("/ap", "/api/llm/v1/messages", False),
        ("/llm", "/llm/v1/messages", False),
        ("/llm", "/llm/llm/v1/messages", True),
        ("/l", "/llm/v1/messages", True),
        ("/llm/v1/messages", "/llm/v1/messages", False),
        ("/", "/llm/v1/messages", False),
        ("/", "//llm/v1/messages", False),
    ],
)
async def test_a_root_path_is_read_as_starlette_reads_it(root_path: str, path: str, short: bool) -> None:
    taken = {"took_shortcut": short} if short else {}
    await both_ways(installed, path, root_path=root_path, **taken)
    await both_ways(installed, path, root_path=root_path, app_root_path="/outermost", path_params={"a": "b"})
    await both_ways(installed, path, root_path=root_path, router=Router(), endpoint=page, **taken)


async def test_a_scope_without_a_root_path_is_served() -> None:
    host = installed()
    scope = scope_for("/llm/v1/messages")
    del scope["root_path"]
    sent = await drive(host, scope)
    assert sent[0]["status"] == 502
    assert scope["root_path"] == "/llm"
    assert scope["app_root_path"] == ""
    assert scope["router"] is host.router
    assert scope.get("route", host.routes[-1]) is host.routes[-1]


INSERTED: dict[str, BaseRoute] = {
    "a route": Route("/llm/v1/messages", page, methods=["POST"]),
    "a mount": Mount("/llm", PlainTextResponse("the host's")),
    "a host": Host("host", PlainTextResponse("the host's")),
}


@pytest.mark.parametrize("route", INSERTED.values(), ids=INSERTED.keys())
async def test_routes_may_change_while_the_host_runs(route: BaseRoute) -> None:
    host = installed(routes=[Route("/", page)])

    async def status() -> int:
        return (await drive(host, scope_for("/llm/v1/messages")))[0]["status"]

    assert await status() == 502
    host.router.routes.insert(0, route)
    assert await status() == await status() == 200
    host.router.routes.pop(0)
    assert await status() == 502
    host.router.routes[0] = route  # a list of the same length
    assert await status() == 200
    host.router.routes = [kept for kept in host.router.routes if kept is not route]
    assert await status() == 502
    host.router.routes.append(route)  # behind the mount
    assert await status() == 502
    host.router.routes.reverse()
    assert await status() == 200
    host.router.routes = []
    assert await status() == 404


@pytest.mark.parametrize("names", [(Mount, "handle"), (Mount, "matches"), (Router, "app"), (Router, "__call__")])
async def test_code_of_starlettes_that_a_monitoring_tool_has_replaced_is_not_passed_by(
    names: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name = names
    original, calls = getattr(kind, name), list[str]()

    @functools.wraps(original)
    def replaced(*args: Any) -> Any:
        calls.append(name)
        return original(*args)

    monkeypatch.setattr(kind, name, replaced)
    host = installed()
    sent = await drive(host, scope_for("/llm/v1/messages"))
    assert sent[0]["status"] == 502
    assert calls == [name]


class Refusing:
    """A middleware of the host's whose `send` raises."""

    error: Exception

    def __init__(self, app: ASGIApp, error: Exception) -> None:
        self.app, self.error = app, error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def refuse(_message: Message) -> None:
            raise self.error

        await self.app(scope, receive, refuse)


@pytest.mark.parametrize("error", [ValueError("full"), OSError("gone")])
async def test_what_a_hosts_send_raises_is_handled_alike(error: Exception) -> None:
    def make() -> Starlette:
        return installed(middleware=[Middleware(Refusing, error)], exception_handlers={500: answer})

    sent, _scope = await both_ways(make, "/llm/v1/messages", took_shortcut=True)
    assert ("the host's handler" in sent) is isinstance(error, ValueError)


@pytest.mark.parametrize("error", [ValueError("full"), HTTPException(507)])
async def test_what_a_hosts_send_raises_reaches_the_handler_for_500_even_if_it_has_its_own(error: Exception) -> None:
    for strip in (False, True):
        handlers: dict[Any, Any] = {500: answer, ValueError: page}
        host = installed(middleware=[Middleware(Refusing, error)], exception_handlers=handlers)
        if strip:
            without_shortcut(host)
        sent = await drive(host, scope_for("/llm/v1/messages"))
        assert sent[0]["status"] == 418
        shown_error = RuntimeError("Caught handled exception, but response already started.") if strip else error
        assert sent[1]["body"] == f"the host's handler: {shown_error!r}".encode()


def test_the_hosts_routes_and_names_are_those_without_the_shortcut() -> None:
    short, long = (Starlette(routes=[Route("/own/{x}", page, name="own")]) for _ in range(2))
    app = messages()
    app.install(short, "/llm")
    app.install(long, "/llm")
    without_shortcut(long)
    assert short.routes[1:] != []
    assert [str(route) for route in short.routes] == [str(route) for route in long.routes]
    assert short.url_path_for("own", x="y") == long.url_path_for("own", x="y") == "/own/y"
    with pytest.raises(NoMatchFound):
        short.url_path_for("llm")


def test_openapi_is_that_of_the_host_alone() -> None:
    with_messages, alone = FastAPI(), FastAPI()
    messages().install(with_messages, "/llm")
    assert with_messages.openapi() == alone.openapi()


def test_websockets_lifespan_and_the_redirect_of_a_slash_stay_with_the_host() -> None:
    host = installed(routes=[WebSocketRoute("/llm/v1/messages", socket), Route("/own", page)])
    with TestClient(host) as client:
        with client.websocket_connect("/llm/v1/messages") as websocket:
            assert websocket.receive() == {"type": "websocket.close", "code": 4000, "reason": ""}
        assert client.post("/llm/v1/messages", json=BODY, headers=HEADERS).status_code == 502
        assert client.get("/own/").text == "the host's"
        assert client.get("/own/", follow_redirects=False).status_code == 307
