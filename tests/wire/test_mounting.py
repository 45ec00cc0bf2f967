"""Mounted anywhere and alone: the endpoint answers below its prefix, and the host is as it was."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount
from starlette.routing import Route as HostRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from support.calls import BODY, HEADERS, KEY
from support.gateway import provider
from support.serving import serving

from bud_asgi import ApiKeys, MessagesApp, hash_api_key
from bud_asgi.testing import ThreadedStandIn


def messages_app(upstream: ThreadedStandIn, **more: Any) -> MessagesApp:
    return MessagesApp(auth=ApiKeys({"me": hash_api_key(KEY)}), providers=[provider(upstream.base_url)], **more)


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


def installed(upstream: ThreadedStandIn) -> ASGIApp:
    host = Starlette(routes=[HostRoute("/", _home)])
    messages_app(upstream).install(host, "/llm")
    return host


def mounted(upstream: ThreadedStandIn) -> ASGIApp:
    host = Starlette(routes=[HostRoute("/", _home)])
    host.mount("/llm", messages_app(upstream))
    return host


def nested(upstream: ThreadedStandIn) -> ASGIApp:
    return Starlette(routes=[HostRoute("/", _home), Mount("/a", routes=[Mount("/b", messages_app(upstream))])])


def fastapi(upstream: ThreadedStandIn) -> ASGIApp:
    host = FastAPI()
    host.add_api_route("/", lambda: "home")
    messages_app(upstream).install(host, "/llm")
    return host


def fastapi_root_path(upstream: ThreadedStandIn) -> ASGIApp:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still what many hosts do
        host = FastAPI(root_path="/behind/a/proxy")
    host.mount("/llm", messages_app(upstream))
    return host


def bare(upstream: ThreadedStandIn) -> ASGIApp:
    return messages_app(upstream)


def stripped_by_the_host(upstream: ThreadedStandIn) -> ASGIApp:
    """Some hosts hand on a path without the prefix and an empty `root_path`."""
    messages = messages_app(upstream)

    async def host(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix("/llm")}
        await messages(scope, receive, send)

    return host


def uvicorns_root_path(upstream: ThreadedStandIn) -> ASGIApp:
    """As behind `uvicorn --root-path /behind/a/proxy`: the path is whole, and `root_path` is its prefix."""
    host = mounted(upstream)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": "/behind/a/proxy", "path": f"/behind/a/proxy{scope['path']}"}
        await host(scope, receive, send)

    return server


WAYS = {
    "installed in Starlette": (installed, "/llm"),
    "mounted in Starlette": (mounted, "/llm"),
    "nested": (nested, "/a/b"),
    "installed in FastAPI": (fastapi, "/llm"),
    "FastAPI with a root_path, behind a stripping proxy": (fastapi_root_path, "/llm"),
    "FastAPI with a root_path, called by its whole path": (fastapi_root_path, "/behind/a/proxy/llm"),
    "Starlette with the server's root_path": (uvicorns_root_path, "/llm"),
    "alone": (bare, ""),
    "below a host that strips": (stripped_by_the_host, "/llm"),
}


@pytest.mark.parametrize(("way", "prefix"), WAYS.values(), ids=WAYS.keys())
def test_it_answers_below_its_prefix(upstream: ThreadedStandIn, way: Any, prefix: str) -> None:
    with serving(way(upstream)) as url:
        assert httpx.post(f"{url}{prefix}/v1/messages", headers=HEADERS, json=BODY).status_code == 200
        with httpx.stream(
            "POST", f"{url}{prefix}/v1/messages", headers=HEADERS, json={**BODY, "stream": True}
        ) as reply:
            assert reply.read().endswith(b'{"type":"message_stop"}\n\n') or b"message_stop" in reply.content
        lost = httpx.get(f"{url}{prefix}/nothing")
        assert lost.status_code == 404
        assert lost.json()["error"]["type"] == "not_found_error"
        assert httpx.head(f"{url}{prefix}/api/hello").status_code == 200


@pytest.mark.parametrize("server", [{"loop": "uvloop", "http": "httptools"}, {"loop": "asyncio", "http": "h11"}])
def test_both_loops_and_parsers_of_uvicorn(upstream: ThreadedStandIn, server: dict[str, Any]) -> None:
    with serving(installed(upstream), **server) as url:
        assert httpx.post(f"{url}/llm/v1/messages", headers=HEADERS, json=BODY).status_code == 200
        reply = httpx.post(f"{url}/llm/v1/messages", headers=HEADERS, content=b"x" * (33 << 20))
        assert reply.status_code == 413


def test_twice_in_one_host_with_different_settings(upstream: ThreadedStandIn) -> None:
    host = Starlette()
    messages_app(upstream).install(host, "/one")
    messages_app(upstream, max_body=10).install(host, "/two")
    with serving(host) as url:
        assert httpx.post(f"{url}/one/v1/messages", headers=HEADERS, json=BODY).status_code == 200
        assert httpx.post(f"{url}/two/v1/messages", headers=HEADERS, json=BODY).status_code == 413


def test_the_hosts_own_routes_and_handlers_are_as_they_were(upstream: ThreadedStandIn) -> None:
    async def teapot(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the host's own"}, 404)

    host = Starlette(routes=[HostRoute("/", _home)], exception_handlers={404: teapot, Exception: teapot})
    messages_app(upstream).install(host, "/llm")
    with serving(host) as url:
        assert httpx.get(f"{url}/").text == "home"
        assert httpx.get(f"{url}/nothing").json() == {"detail": "the host's own"}
        assert httpx.get(f"{url}/llm/nothing").json()["error"]["type"] == "not_found_error"
        assert httpx.get(f"{url}/llm").json()["error"]["type"] == "not_found_error"


def test_the_lifespan_runs_inside_the_hosts_and_its_state_stays(upstream: ThreadedStandIn) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[dict[str, str]]:
        steps.append("host up")
        yield {"of": "the host"}
        steps.append("host down")

    async def state(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.of)

    host = Starlette(routes=[HostRoute("/", state)], lifespan=lifespan)
    messages_app(upstream).install(host, "/llm")
    with serving(host) as url:
        assert httpx.get(f"{url}/").text == "the host"
        assert httpx.post(f"{url}/llm/v1/messages", headers=HEADERS, json=BODY).status_code == 200
    assert steps == ["host up", "host down"]
    upstream.wait_connections(0)


def test_connections_are_closed_without_any_lifespan(upstream: ThreadedStandIn) -> None:
    with serving(mounted(upstream), lifespan="off") as url:
        assert httpx.post(f"{url}/llm/v1/messages", headers=HEADERS, json=BODY).status_code == 200
    upstream.wait_connections(0)


def test_a_test_client_with_a_loop_for_each_request_works_and_warns_of_nothing(upstream: ThreadedStandIn) -> None:
    client = TestClient(mounted(upstream))
    for _ in range(3):
        assert client.post("/llm/v1/messages", headers=HEADERS, json=BODY).status_code == 200
    with TestClient(installed(upstream)) as client:
        for _ in range(3):
            assert client.post("/llm/v1/messages", headers=HEADERS, json=BODY).status_code == 200
    upstream.wait_connections(0)


def test_a_websocket_is_refused(upstream: ThreadedStandIn) -> None:
    from starlette.websockets import WebSocketDisconnect

    client = TestClient(mounted(upstream))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/llm/v1/messages"):
        pass


def test_an_exception_inside_is_a_500_of_the_gateway_not_of_the_host(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise RuntimeError("a secret of ours")

    from bud_asgi import Middleware

    messages = MessagesApp(providers=[provider(upstream.base_url)], middleware=[Middleware(Broken)])
    with caplog.at_level(logging.ERROR):
        reply = TestClient(messages).post("/v1/messages", headers=HEADERS, json=BODY)
    assert reply.status_code == 500
    assert reply.json()["error"] == {"type": "api_error", "message": "Internal server error"}
    assert reply.json()["request_id"] in caplog.text
    assert "a secret of ours" not in reply.text


def test_a_client_that_cannot_be_made_is_a_500_of_the_gateway_too(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("no engine today")

    reply = TestClient(messages_app(upstream, client=broken)).post("/v1/messages", headers=HEADERS, json=BODY)
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "api_error"
    assert "no engine today" in caplog.text
    assert "no engine today" not in reply.text


def test_what_on_settled_raises_is_logged_and_costs_the_client_nothing(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_exchange: object) -> None:
        raise RuntimeError("no ledger")

    with TestClient(messages_app(upstream, on_settled=fail)) as client:
        assert client.post("/v1/messages", headers=HEADERS, json=BODY).status_code == 200
    assert "no ledger" in caplog.text


@pytest.mark.parametrize("raw_path", [None, b"/v1/messages/", b"/v1/messages/?beta=true"])
async def test_a_trailing_slash_is_a_404_whatever_raw_path_the_server_gives(raw_path: bytes | None) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/messages/", "headers": []}
    app = MessagesApp(auth=ApiKeys({}), providers=[provider("http://127.0.0.1:1")])
    await app({**scope, "raw_path": raw_path}, receive, send)
    assert sent[0]["status"] == 404


BUILT_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "without auth": ({"providers": [provider("http://x")]}, "auth: missing"),
    "auth and middleware": (
        {"providers": [provider("http://x")], "middleware": [], "auth": ApiKeys({})},
        "middleware= replaces auth=",
    ),
    "no providers": ({"providers": [], "auth": ApiKeys({})}, "providers: at least one is needed"),
    "two of a name": (
        {"providers": [provider("http://x"), provider("http://y")], "auth": ApiKeys({})},
        "providers: two have the name 'anthropic'",
    ),
    "several providers without routes": (
        {"providers": [provider("http://x"), provider("http://y", name="y")], "auth": ApiKeys({})},
        "routes: needed with more than one provider",
    ),
}


@pytest.mark.parametrize(("settings", "words"), BUILT_WRONG.values(), ids=BUILT_WRONG.keys())
def test_wrong_options_raise(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MessagesApp(**settings)


def test_a_route_to_nowhere_is_refused() -> None:
    from bud_asgi import Route

    with pytest.raises(ValueError, match="routes: unknown provider 'nowhere' in the route '\\*'"):
        MessagesApp(auth=ApiKeys({}), providers=[provider("http://127.0.0.1:1")], routes=[Route("*", to=["nowhere"])])


def test_importing_and_mounting_leave_no_trace(upstream: ThreadedStandIn) -> None:
    handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
    threads = threading.active_count()
    installed(upstream)
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("bud_asgi").handlers == []
    assert list(warnings.filters) == filters
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert threading.active_count() == threads
