"""The router for FastAPI: the host's dependencies run before the gateway, and end after its response."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Cookie, Depends, FastAPI, Header, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from hosting_kit import (
    STREAM,
    assert_disconnect_ends_upstream_request,
    assert_streams_event_by_event,
    messages_app,
    post,
    web,
)
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response
from support.access import access_records
from support.calls import BODY, KEY, UPSTREAM_KEY
from support.waiting import wait_until

from bud_asgi import Anthropic, Exchange, HostUser, MessagesApp, Principal
from bud_asgi.options import OptionError
from bud_asgi.testing import StandIn, ThreadedStandIn, hang, hang_mid_event, text
from bud_asgi.testing.server.serving import serving

VERSION = {"anthropic-version": "2023-06-01"}
ANN = {**VERSION, "authorization": "Bearer ann"}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


class Host:
    """A FastAPI app that includes the router at `/llm`, and what its dependencies and the gateway recorded."""

    def __init__(self, upstream_url: str) -> None:
        self.events: list[str] = []
        self.settled: list[Exchange] = []
        self.messages = messages_app(upstream_url, auth=HostUser(), on_settled=self._on_settled)
        self.app = FastAPI()
        self.url = ""

    async def session(self) -> AsyncGenerator[str]:
        """A dependency that ends after the response."""
        self.events.append("begin")
        try:
            yield "session"
        except HTTPException as error:
            self.events.append(f"saw {error.status_code}")
            raise
        finally:
            self.events.append("end")

    async def _on_settled(self, exchange: Exchange) -> None:
        self.settled.append(exchange)

    @contextmanager
    def serving(self, prefix: str = "/llm") -> Generator[str]:
        with serving(self.app) as url:
            self.url = url + prefix
            yield self.url


@pytest.fixture
def host(upstream: ThreadedStandIn) -> Host:
    upstream.requests.clear()
    return Host(upstream.base_url)


async def user_of(authorization: Annotated[str, Header()]) -> str | None:
    """The caller, by a bearer token that is its name."""
    name = authorization.removeprefix("Bearer ")
    if name.isdigit():
        raise HTTPException(int(name), f"No: {name}", {"Retry-After": "7"})
    return None if name == "nobody" else name


Operations = [
    ("POST", "/v1/messages", 401),
    ("POST", "/v1/messages/count_tokens", 401),
    ("GET", "/v1/models", 401),
    ("HEAD", "/v1/models", 401),
    ("GET", "/v1/models/claude-haiku-4-5", 401),
    ("HEAD", "/api/hello", 200),
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("PUT", "/v1/messages", 405),
    ("GET", "/nothing", 404),
    ("OPTIONS", "/", 404),
]


def test_every_operation_needs_the_hosts_credential_but_the_public_ones(host: Host) -> None:
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm")
    with host.serving() as url:
        for method, path, status in Operations:
            reply = web.request(method, url + path, headers=VERSION)
            assert reply.status_code == status, (method, path)
            if status == 401 and method != "HEAD":
                assert reply.json()["error"] == {
                    "type": "authentication_error",
                    "message": "authorization header is required",
                }
        assert web.get(f"{url}/v1/models", headers=ANN).json()["data"]
        counted = web.post(f"{url}/v1/messages/count_tokens", json={**BODY}, headers=ANN)
        assert counted.status_code == 400, "max_tokens does not belong there: the request has reached the gateway"


def test_the_caller_is_what_the_dependency_returns(host: Host) -> None:
    async def caller(name: Annotated[str, Depends(user_of)]) -> Principal:
        return Principal(id=name, team="t", models=("claude-haiku-*",))

    host.app.include_router(host.messages.router(principal=caller), prefix="/llm")
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=ANN).status_code == 200
        refused = web.post(f"{url}/v1/messages", json={**BODY, "model": "claude-opus-5-5"}, headers=ANN)
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
        wait_until(lambda: len(host.settled) == 2, "both are settled")
    assert host.settled[0].principal == Principal(id="ann", team="t", models=("claude-haiku-*",))


def sync_user_of(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


async def yielded_user_of(name: Annotated[str, Depends(user_of)]) -> AsyncGenerator[str]:
    yield name


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "async": user_of,
    "sync": sync_user_of,
    "with yield": yielded_user_of,
    "a lambda over another dependency": lambda name=Depends(user_of): name,  # noqa: B008 # pyright: ignore[reportUnknownLambdaType]
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_any_dependency_of_fastapi_can_be_the_principal(host: Host, function: Callable[..., Any]) -> None:
    host.app.include_router(host.messages.router(principal=function), prefix="/llm")
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=ANN).status_code == 200
        wait_until(lambda: len(host.settled) == 1, "it is settled")
    assert host.settled[0].principal == Principal(id="ann")


def test_a_dependency_with_yield_ends_after_the_stream(host: Host, upstream: ThreadedStandIn) -> None:
    router = host.messages.router(dependencies=[Depends(host.session)], principal=user_of)
    host.app.include_router(router, prefix="/llm")
    with host.serving() as url:
        assert_streams_event_by_event(url, upstream, ANN)
        wait_until(lambda: "end" in host.events, "the dependency has ended")
        host.events.clear()
        upstream.enqueue(text("slow " * 20, delay=0.02))
        with web.stream("POST", f"{url}/v1/messages", json=STREAM, headers=ANN) as reply:
            during = [list(host.events) for _ in reply.iter_bytes()]
        wait_until(lambda: "end" in host.events, "the dependency has ended")
    assert during[0] == during[-2] == ["begin"]


@pytest.mark.parametrize("status", [401, 402, 403, 404, 409, 429, 500, 503])
def test_an_http_exception_is_answered_in_our_format_with_its_status_and_headers(host: Host, status: int) -> None:
    @host.app.exception_handler(HTTPException)
    async def _never(_request: Request, _error: Exception) -> Response:
        return Response("the host's own format")

    host.app.include_router(
        host.messages.router(dependencies=[Depends(host.session)], principal=user_of), prefix="/llm"
    )
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers={**VERSION, "authorization": f"Bearer {status}"})
        wait_until(lambda: len(host.settled) == 1, "it is settled")
    envelope = reply.json()
    assert (reply.status_code, envelope["error"]["message"]) == (status, f"No: {status}")
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["request-id"] == envelope["request_id"]
    assert (host.settled[0].outcome, host.settled[0].status) == ("refused", status)
    assert host.events[:3] == ["begin", f"saw {status}", "end"], "an earlier dependency sees it, and rolls back"


def test_a_caller_that_is_none_is_refused(host: Host) -> None:
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers={**VERSION, "authorization": "Bearer nobody"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (401, "authentication is required")


def test_a_caller_of_another_type_is_a_500_that_is_named_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.app.include_router(host.messages.router(principal=lambda: {"id": "ann"}), prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers=ANN)
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "api_error")
    assert "expected a Principal, a Starlette user, an id or None, got a dict" in caplog.text


def test_the_security_schemes_of_fastapi_refuse_in_our_format(host: Host) -> None:
    async def caller(token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
        return token.credentials

    host.app.include_router(host.messages.router(principal=caller), prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers=VERSION)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert web.post(f"{url}/v1/messages", json=BODY, headers=ANN).status_code == 200


def test_a_parameter_that_is_missing_or_invalid_is_refused_in_our_format(host: Host) -> None:
    async def caller(session: Annotated[str, Cookie()], x_plan: Annotated[int, Header()]) -> str:
        return f"{session}{x_plan}"

    host.app.include_router(host.messages.router(principal=caller), prefix="/llm")
    with host.serving() as url:
        cookie = {**VERSION, "cookie": "session=ann"}
        expected = {
            (401, "session cookie is required"): VERSION | {"x-plan": "1"},
            (422, "header.x-plan: Field required"): cookie,
            (422, "header.x-plan: Input should be a valid integer, unable to parse string as an integer"): cookie
            | {"x-plan": "x"},
        }
        for (status, message), headers in expected.items():
            reply = web.post(f"{url}/v1/messages", json=BODY, headers=headers)
            assert (reply.status_code, reply.json()["error"]["message"]) == (status, message)
        assert web.post(f"{url}/v1/messages", json=BODY, headers=cookie | {"x-plan": "1"}).status_code == 200


class Note(BaseModel):
    model: str


def reads_a_body(note: Note) -> str:
    return note.model


async def reads_the_request(request: Request) -> str:
    return (await request.body()).decode()


@pytest.mark.parametrize("reader", [reads_a_body, reads_the_request])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_dependency_that_reads_the_body_is_reported_at_once(
    host: Host, caplog: pytest.LogCaptureFixture, reader: Callable[..., Any]
) -> None:
    host.app.include_router(host.messages.router(principal=reader), prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers=ANN)
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "api_error")
    assert "a dependency of messages.router() read the body" in caplog.text


def test_any_other_exception_is_a_500_in_our_format_and_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    host.app.include_router(host.messages.router(dependencies=[Depends(broken)]), prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=BODY, headers=ANN)
    assert (reply.status_code, reply.json()["error"]["message"]) == (500, "Internal Server Error".capitalize())
    assert "ZeroDivisionError" in caplog.text


def test_what_fails_after_the_response_is_logged_and_the_response_is_whole(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_at_its_end() -> AsyncGenerator[None]:
        yield
        raise ZeroDivisionError

    router = host.messages.router(dependencies=[Depends(fails_at_its_end)], principal=user_of)
    host.app.include_router(router, prefix="/llm")
    with host.serving() as url:
        reply = web.post(f"{url}/v1/messages", json=STREAM, headers=ANN)
        assert reply.text.count("event: message_stop") == 1
        wait_until(lambda: "ZeroDivisionError" in caplog.text, "it is logged")
        wait_until(lambda: len(host.settled) == 1, "it is settled")
    assert host.settled[0].outcome == "answered"


def test_background_tasks_of_a_dependency_run_after_the_response(host: Host) -> None:
    done = threading.Event()

    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(done.set)

    host.app.include_router(host.messages.router(dependencies=[Depends(later)], principal=user_of), prefix="/llm")
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=ANN).status_code == 200
        assert done.wait(30)


def test_nested_routers_and_prefixes_with_parameters_run_all_dependencies(host: Host) -> None:
    ran: list[str] = []

    def note(name: str) -> Any:
        async def dependency() -> None:
            ran.append(name)

        return Depends(dependency)

    async def tenant(tenant: str) -> str:
        return tenant

    outer = APIRouter(prefix="/api", dependencies=[note("outer")])
    router = host.messages.router(dependencies=[note("own")], principal=tenant)
    outer.include_router(router, prefix="/{tenant}/llm", dependencies=[note("included")])
    host.app.include_router(outer, dependencies=[note("app")])
    with host.serving("/api/acme/llm") as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=VERSION).status_code == 200
        assert web.get(f"{url}/nothing").json()["error"]["type"] == "not_found_error"
        assert web.get(f"{url}/healthz").status_code == 200
        wait_until(lambda: len(host.settled) == 2, "both are settled")
    assert ran == ["app", "outer", "included", "own"], "once: not for what needs no credential"
    assert host.settled[0].principal == Principal(id="acme")


def test_without_a_principal_of_its_own_the_app_authenticates(upstream: ThreadedStandIn) -> None:
    async def closed(x_closed: Annotated[str | None, Header()] = None) -> None:
        if x_closed:
            raise HTTPException(503, "Closed for the night")

    app = FastAPI()
    app.include_router(messages_app(upstream.base_url).router(dependencies=[Depends(closed)]), prefix="/llm")
    with serving(app) as url:
        assert post(f"{url}/llm").status_code == 200
        assert post(f"{url}/llm", headers={"x-closed": "yes"}).status_code == 503
        refused = web.post(f"{url}/llm/v1/messages", json=BODY, headers={**VERSION, "x-api-key": KEY + "x"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (401, "invalid x-api-key")


def test_it_works_behind_a_base_http_middleware_and_a_root_path(host: Host, upstream: ThreadedStandIn) -> None:
    class PassOn(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    host.app.root_path = "/behind"
    host.app.add_middleware(PassOn)
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm")
    with host.serving() as url:
        assert_streams_event_by_event(url, upstream, ANN)
        assert web.post(url.replace("/llm", "/behind/llm") + "/v1/messages", json=BODY, headers=ANN).status_code == 200


@pytest.mark.parametrize(("reply", "after"), [(hang(), b""), (hang_mid_event(), b"content_block_delta")])
def test_a_client_that_disconnects_ends_the_upstream_request_and_the_dependencies(
    host: Host, upstream: ThreadedStandIn, reply: Any, after: bytes
) -> None:
    router = host.messages.router(dependencies=[Depends(host.session)], principal=lambda: "ann")
    host.app.include_router(router, prefix="/llm")
    with host.serving() as url:
        assert_disconnect_ends_upstream_request(url, upstream, reply, STREAM, after)
        wait_until(lambda: "end" in host.events, "the dependency has ended")
        wait_until(lambda: len(host.settled) == 1, "it is settled")
    assert host.settled[0].outcome == "client_gone"


def test_overrides_of_dependencies_apply_as_in_any_test_of_the_host(host: Host) -> None:
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm")
    host.app.dependency_overrides[user_of] = lambda: "the tester"
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=VERSION).status_code == 200
        wait_until(lambda: len(host.settled) == 1, "it is settled")
    assert host.settled[0].principal == Principal(id="the tester")


def test_the_hosts_limit_on_bodies_applies(host: Host, upstream: ThreadedStandIn) -> None:
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm", max_body_size=100)
    body = json.dumps({**BODY, "system": "x" * 100}).encode()
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", content=body, headers=ANN).status_code == 413
        chunked = web.post(f"{url}/v1/messages", content=iter([body]), headers=ANN)
    assert (chunked.status_code, chunked.json()["error"]["type"]) == (413, "request_too_large")
    assert upstream.requests == []


def test_the_router_brings_the_lifespan_and_is_not_in_the_schema(host: Host) -> None:
    host.app.include_router(host.messages.router(principal=user_of), prefix="/llm")
    with host.serving() as url:
        assert web.post(f"{url}/v1/messages", json=BODY, headers=ANN).status_code == 200
        assert len(host.messages._loops._by_loop) == 1
        assert web.get(f"{url.removesuffix('/llm')}/openapi.json").json()["paths"] == {}
    assert host.messages._loops._by_loop == {}, "closed at shutdown"


@pytest.mark.parametrize(
    ("names", "forwarded"),
    [
        (("authorization", "x-api-key"), set[str]()),
        (("authorization",), {"x-api-key"}),
        ((), {"authorization", "x-api-key"}),
    ],
)
def test_a_header_that_the_dependencies_read_is_never_passed_through(
    upstream: ThreadedStandIn, names: tuple[str, ...], forwarded: set[str]
) -> None:
    with StandIn(strict=False).in_thread() as own:
        messages = MessagesApp(auth=HostUser(), providers=[Anthropic(auth="client", base_url=own.base_url)])
        app = FastAPI()
        app.include_router(messages.router(principal=user_of, credential_headers=names), prefix="/llm")
        with serving(app) as url:
            headers = {**ANN, "x-api-key": "sk-ant-of-the-client"}
            assert web.post(f"{url}/llm/v1/messages", json=BODY, headers=headers).status_code == 200
        sent = {name.decode().lower() for name, _ in own.requests[0].headers}
    assert sent & {"authorization", "x-api-key"} == forwarded


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"dependencies": [user_of]}, r"dependencies\[0\]"),
        ({"dependencies": Depends(user_of)}, "dependencies"),
        ({"principal": "ann"}, "principal"),
        ({"credential_headers": ["cookie"]}, "credential_headers"),
    ],
)
def test_wrong_options_are_named(host: Host, options: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError, match=f"^{option}: "):
        host.messages.router(**options)


def test_a_request_that_was_refused_has_an_access_log_line(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi.access")
    app = FastAPI()
    messages = messages_app(upstream.base_url, auth=HostUser(), access_log=True)
    app.include_router(messages.router(principal=user_of), prefix="/llm")
    with serving(app) as url:
        web.post(f"{url}/llm/v1/messages", json=BODY, headers={**VERSION, "authorization": "Bearer 402"})
    assert [one["status"] for one in access_records(caplog)] == [402]
