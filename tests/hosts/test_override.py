"""`override` replaces options for a `with` block, wherever the app is mounted, and restores them after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from support.calls import BODY, HEADERS, KEY

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKeys,
    AuthMiddleware,
    HostUser,
    Limit,
    MessagesApp,
    RateLimitMiddleware,
    Route,
    hash_api_key,
)
from bud_asgi.options import OptionError
from bud_asgi.testing import StandIn, ThreadedStandIn, text

UNREACHABLE = Anthropic(api_key="sk-ant-the-real-one", base_url="http://127.0.0.1:1")
PATH = "/llm/v1/messages"
ANYONE = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn().in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(upstream: ThreadedStandIn) -> Anthropic:
    return Anthropic(api_key=upstream.api_key, base_url=upstream.base_url)


def app(**options: Any) -> MessagesApp:
    settings: dict[str, Any] = {"providers": [UNREACHABLE], "auth": ApiKeys({"me": hash_api_key(KEY)}), **options}
    return MessagesApp(**settings)


def post(client: TestClient, headers: Mapping[str, str] = HEADERS, path: str = "/v1/messages") -> int:
    return client.post(path, json=BODY, headers=headers).status_code


def installed(messages: MessagesApp) -> Starlette:
    host = Starlette()
    messages.install(host, "/llm")
    return host


def mounted(messages: MessagesApp) -> Starlette:
    host = Starlette()
    host.mount("/llm", messages)
    return host


def included(messages: MessagesApp) -> FastAPI:
    host = FastAPI()
    host.include_router(messages.router(dependencies=[Depends(lambda: "session")]), prefix="/llm")
    return host


HOSTS = [installed, mounted, included]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("stack", [False, True], ids=["stages", "middleware"])
def test_requests_during_the_block_go_to_the_other_provider(
    host: Callable[[MessagesApp], Starlette], stack: bool, stand_in: Anthropic
) -> None:
    layers = [Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(KEY)}))]
    messages = app(**({"auth": None, "middleware": layers} if stack else {}))
    with TestClient(host(messages)) as client:
        assert post(client, path=PATH) == 502
        with messages.override(providers=[stand_in]):
            assert post(client, path=PATH) == 200
        assert post(client, path=PATH) == 502


def test_the_other_options_stay_and_limits_are_counted_from_zero(stand_in: Anthropic) -> None:
    messages = app(providers=[stand_in], limits=[Limit("requests", 1)])
    with TestClient(messages) as client:
        assert (post(client, ANYONE), post(client), post(client)) == (401, 200, 429)
        with messages.override(providers=[stand_in]):
            assert (post(client, ANYONE), post(client), post(client)) == (401, 200, 429)
        with messages.override(limits=[]), messages.override(auth=Anonymous()):
            assert (post(client, ANYONE), post(client, ANYONE)) == (200, 200)
        with messages.override(routes=[Route("claude-opus-*", to=["anthropic"])]):
            assert post(client) == 404
        assert (post(client, ANYONE), post(client)) == (401, 429)


def test_the_limits_of_a_stack_are_counted_from_zero_too(stand_in: Anthropic) -> None:
    layers = [
        Middleware(AuthMiddleware, backend=HostUser(lambda scope: "me")),
        Middleware(RateLimitMiddleware, limits=[Limit("requests", 1)]),
    ]
    messages = MessagesApp(providers=[stand_in], middleware=layers)
    with TestClient(messages) as client:
        assert (post(client), post(client)) == (200, 429)
        with messages.override(providers=[stand_in]):
            assert (post(client), post(client)) == (200, 429)
        with pytest.raises(ValueError, match="middleware= replaces auth="), messages.override(auth=Anonymous()):
            pass


def test_a_wrong_option_changes_nothing(stand_in: Anthropic) -> None:
    messages = app(providers=[stand_in])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"providers": stand_in}, "providers: expected a list"),
        ({"providers": []}, "providers: "),
        ({"providers": [stand_in], "routes": [Route("*", to=["bedrock"])]}, "routes: unknown provider 'bedrock'"),
        ({"auth": ApiKeys}, "auth: expected an object"),
        ({"limits": Limit("requests", 1)}, "limits: expected a list of Limit"),
        ({"store": 5}, "store: "),
    ]
    for options, words in wrong:
        with pytest.raises(OptionError, match=words), messages.override(**options):
            pass
    with TestClient(messages) as client:
        assert post(client) == 200


def test_an_exception_in_the_block_restores_the_options(stand_in: Anthropic) -> None:
    messages = app(providers=[stand_in])
    with pytest.raises(LookupError), messages.override(auth=Anonymous()):
        raise LookupError
    with TestClient(messages) as client:
        assert post(client, ANYONE) == 401


async def test_a_request_ends_with_the_options_that_it_began_with(
    stand_in: Anthropic, upstream: ThreadedStandIn
) -> None:
    messages = app(auth=Anonymous())
    upstream.enqueue(text("One two three four five six", delay=0.02))
    async with httpx.AsyncClient(transport=messages.transport("me"), base_url="http://gateway") as client:
        with messages.override(providers=[stand_in]):
            stream = client.stream("POST", "/v1/messages", json={**BODY, "stream": True}, headers=ANYONE)
            reply = await stream.__aenter__()
        await asyncio.sleep(0)
        assert b"message_stop" in await reply.aread()
        await stream.__aexit__(None, None, None)
        assert (await client.post("/v1/messages", json=BODY, headers=ANYONE)).status_code == 502
