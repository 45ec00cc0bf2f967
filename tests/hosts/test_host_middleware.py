"""The middlewares of a host in front of the mounted app: streams stay streams, and errors keep our format."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from host_apps import HOSTS
from hosting_kit import STREAM, assert_streams_event_by_event, messages_app, post, read_stream, web
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from support.calls import BODY, HEADERS, UPSTREAM_KEY

from bud_asgi import Middleware as Stage
from bud_asgi.testing import StandIn, ThreadedStandIn, reset_mid_event
from bud_asgi.testing.server.serving import serving

CORS = Middleware(CORSMiddleware, allow_origins=["https://app.example"], allow_methods=["POST"], allow_headers=["*"])
GZIP = Middleware(GZipMiddleware)


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


BASE = Middleware(BaseHTTPMiddleware, dispatch=_pass_on)


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


def host(upstream: ThreadedStandIn, *layers: Middleware, **more: Any) -> Starlette:
    app = Starlette(middleware=list(layers), **more)
    messages_app(upstream.base_url).install(app, "/llm")
    return app


LAYERS: dict[str, Sequence[Middleware]] = {
    "CORS": [CORS],
    "gzip": [GZIP],
    "BaseHTTPMiddleware": [BASE],
    "all of them, BaseHTTPMiddleware twice": [
        BASE,
        CORS,
        GZIP,
        Middleware(RequestBodyLimitMiddleware, max_body_size=100_000),
        BASE,
    ],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_a_stream_arrives_event_by_event_and_errors_keep_our_format(
    upstream: ThreadedStandIn, layers: Sequence[Middleware]
) -> None:
    with serving(host(upstream, *layers)) as url:
        headers = {"accept-encoding": "gzip", "origin": "https://app.example"}
        stream = assert_streams_event_by_event(f"{url}/llm", upstream, headers)
        assert "content-encoding" not in stream.headers
        assert post(f"{url}/llm").json()["type"] == "message"
        assert web.get(f"{url}/llm/nothing").json()["error"]["type"] == "not_found_error"
        refused = web.post(f"{url}/llm/v1/messages", json=BODY)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        upstream.enqueue(reset_mid_event())
        broken = read_stream(f"{url}/llm")
        assert broken.body.count(b"event: error\n") == 1


def test_gzip_compresses_a_message_but_not_a_stream(upstream: ThreadedStandIn) -> None:
    long = {**BODY, "messages": [{"role": "user", "content": "hello " * 200}]}
    with serving(host(upstream, GZIP)) as url:
        reply = post(f"{url}/llm", long, {"accept-encoding": "gzip"})
        assert reply.headers["content-encoding"] == "gzip"
        assert reply.json()["type"] == "message"


def test_cors_middleware_answers_the_preflight_and_adds_its_headers(upstream: ThreadedStandIn) -> None:
    origin = {"origin": "https://app.example"}
    with serving(host(upstream, CORS)) as url:
        preflight_headers = {
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key",
        }
        preflight = web.options(f"{url}/llm/v1/messages", headers=preflight_headers)
        assert preflight.status_code == 200
        assert "x-api-key" in preflight.headers["access-control-allow-headers"]
        for reply in (post(f"{url}/llm", headers=origin), post(f"{url}/llm", {}, origin)):
            assert reply.headers["access-control-allow-origin"] == "https://app.example"


def test_the_hosts_exception_handlers_are_not_called_for_errors_in_the_mounted_app(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    async def handler(_request: Request, error: Exception) -> PlainTextResponse:
        seen.append(error)
        return PlainTextResponse("the host's own", 418)

    class Broken:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise ValueError("a bug")

    app = Starlette(exception_handlers={404: handler, 405: handler, 500: handler, ValueError: handler})
    messages_app(upstream.base_url).install(app, "/llm")
    messages_app(upstream.base_url, middleware=[Stage(Broken)]).install(app, "/broken")
    with serving(app) as url, caplog.at_level(logging.CRITICAL, "bud_asgi"):
        assert web.get(f"{url}/unknown").status_code == 418
        assert web.get(f"{url}/llm/nothing").status_code == 404
        assert web.get(f"{url}/llm/v1/messages").status_code == 405
        broken = post(f"{url}/broken")
        assert broken.status_code == 500
        assert broken.json()["error"] == {"type": "api_error", "message": "Internal server error"}
    assert len(seen) == 1


def _chunked(size: int) -> Generator[bytes]:
    body = json.dumps({**BODY, "messages": [{"role": "user", "content": "x" * size}]}).encode()
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


def test_a_hosts_limit_on_bodies_answers_in_plain_text(upstream: ThreadedStandIn) -> None:
    before = len(upstream.requests)
    with serving(host(upstream, max_body_size=50_000)) as url:
        reply = web.post(f"{url}/llm/v1/messages", headers=HEADERS, content=b"".join(_chunked(60_000)))
        assert (reply.status_code, reply.text) == (413, "Content Too Large")
    assert len(upstream.requests) == before


def test_a_hosts_limit_on_bodies_of_unknown_length_is_a_413_in_our_format(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(host(upstream, max_body_size=50_000)) as url:
        reply = web.post(f"{url}/llm/v1/messages", headers=HEADERS, content=_chunked(60_000))
        assert reply.status_code == 413
        assert reply.json()["error"]["type"] == "request_too_large"
        assert reply.headers["x-should-retry"] == "false"
        assert "the request failed" not in caplog.text


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_a_host_can_raise_its_limit_on_bodies_only_for_the_mounted_app(
    upstream: ThreadedStandIn, kind: type[Starlette]
) -> None:
    messages = messages_app(upstream.base_url)
    app = kind(max_body_size=50_000, lifespan=messages.lifespan)
    app.router.routes.append(Mount("/llm", messages, max_body_size=64 << 20))
    with serving(app) as url:
        long = {**BODY, "messages": [{"role": "user", "content": "x" * 60_000}]}
        assert post(f"{url}/llm", long).status_code == 200
        assert web.post(f"{url}/llm/v1/messages", headers=HEADERS, content=_chunked(60_000)).status_code == 200
        ours = web.post(f"{url}/llm/v1/messages", headers=HEADERS, content=b"x" * (33 << 20))
        assert ours.status_code == 413
        assert ours.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("name", ["Litestar", "Quart", "BlackSheep"])
def test_a_host_with_default_settings_accepts_a_conversation_of_17_mb(upstream: ThreadedStandIn, name: str) -> None:
    make, prefix, _before = HOSTS[name]
    long = {**STREAM, "messages": [{"role": "user", "content": "x" * 17_000_000}]}
    with serving(make(messages_app(upstream.base_url), prefix)) as url:
        assert post(f"{url}{prefix}", long).status_code == 200
