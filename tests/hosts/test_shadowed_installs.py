"""`install` refuses a place that an earlier route of the host would keep requests from, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from support.calls import BODY, HEADERS

from bud_asgi import Anonymous, Anthropic, MessagesApp


async def page(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("the host's")


def app() -> MessagesApp:
    return MessagesApp(auth=Anonymous(), providers=[Anthropic(base_url="http://127.0.0.1:1")])


SHADOWS: dict[str, tuple[BaseRoute, str, str]] = {
    "a mount at the root": (Mount("/", Router()), "/llm", "the host's Mount '/' comes earlier"),
    "static files": (Mount("/", StaticFiles(directory=Path(__file__).parent)), "/llm", "the host's Mount"),
    "a mount of a parent": (Mount("/api", Router()), "/api/llm", "the host's Mount '/api' comes earlier"),
    "the same prefix": (Mount("/llm", Router()), "/llm", "an app is mounted at '/llm' already"),
    "a route for every path and method": (
        Route("/{path:path}", page, methods=["GET", "POST"]),
        "/llm",
        "the host's Route '/{path:path}' comes earlier",
    ),
    "the path itself": (Route("/llm/v1/messages", page, methods=["POST"]), "/llm", "comes earlier"),
    "every host": (Host("{host}", Router()), "/llm", "the host's Host '{host}' comes earlier"),
    "a parent with a parameter": (Mount("/{tenant}", Router()), "/{tenant}/llm", "comes earlier"),
}


@pytest.mark.parametrize(("route", "path", "words"), SHADOWS.values(), ids=SHADOWS.keys())
@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_a_place_behind_a_route_that_gets_the_requests_is_refused(
    make: Any, route: BaseRoute, path: str, words: str
) -> None:
    host = make()
    host.router.routes.append(route)
    with pytest.raises(ValueError, match="path: ") as refused:
        app().install(host, path)
    assert words in str(refused.value)
    assert host.router.routes[-1] is route


FREE: dict[str, tuple[BaseRoute, str]] = {
    "another prefix": (Mount("/other", Router()), "/llm"),
    "a prefix that begins alike": (Mount("/llmx", Router()), "/llm"),
    "a deeper prefix": (Mount("/llm/inner", Router()), "/llm"),
    "a route for another method": (Route("/{path:path}", page), "/llm"),
    "another host": (Host("www.example.com", Router()), "/llm"),
    "websockets": (WebSocketRoute("/{path:path}", page), "/llm"),
    "one of the paths": (Route("/llm/healthz", page), "/llm"),
}


@pytest.mark.parametrize(("route", "path"), FREE.values(), ids=FREE.keys())
def test_a_route_that_lets_messages_through_is_no_obstacle(route: BaseRoute, path: str) -> None:
    host = Starlette(routes=[route])
    app().install(host, path)
    assert TestClient(host).post(f"{path}/v1/messages", headers=HEADERS, json=BODY).status_code == 502


def test_a_route_for_get_is_named_in_the_log_because_it_hides_the_models(caplog: pytest.LogCaptureFixture) -> None:
    host = Starlette(routes=[Route("/{path:path}", page)])
    app().install(host, "/llm")
    assert "the host's Route '/{path:path}' comes earlier and answers GET /llm/v1/models" in caplog.text


@pytest.mark.parametrize("path", ["", "llm", "/a//b", "/a?b", "/a#b", "/../a", "/a/./b", "/{x:nope}", "/\n", 5, None])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    host = Starlette()
    with pytest.raises(ValueError, match="path"):
        app().install(host, path)
    assert host.router.routes == []


@pytest.mark.parametrize("host", [Router, Starlette, None, "app"])
def test_a_host_that_is_no_app_is_refused(host: Any) -> None:
    with pytest.raises(ValueError, match=r"host: .*a Starlette or FastAPI app"):
        app().install(host, "/llm")


async def test_a_doubled_path_is_answered_with_the_right_one() -> None:
    host = Starlette()
    app().install(host, "/llm")
    reply = TestClient(host).post("/llm/v1/v1/messages", headers=HEADERS, json=BODY)
    assert reply.status_code == 404
    assert "/v1/messages: the client's base URL" in reply.json()["error"]["message"]
