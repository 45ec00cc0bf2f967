"""Calls in the host's own process: as the SDK makes them, streamed, cancelled, limited and settled like any other."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send
from support.calls import BODY, UPSTREAM_KEY
from support.gateway import PATIENT, messages_app, provider, tasks_in_flight
from support.streams import WHOLE
from support.waiting import until

from bud_asgi import AuthMiddleware, Exchange, HostUser, Limit, Middleware, Principal, RateLimitMiddleware
from bud_asgi.http import Engine
from bud_asgi.options import OptionError
from bud_asgi.testing import (
    Lazy,
    Reply,
    StandIn,
    ThreadedStandIn,
    big_stream,
    hang,
    hang_mid_event,
    reset_mid_event,
)
from bud_asgi.transport import InProcessTransport

VERSION = {"anthropic-version": "2023-06-01"}
STREAM = {**BODY, "stream": True}
HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]
LIBRARIES: list[Any] = [httpx, httpx2]
both = pytest.mark.parametrize("library", LIBRARIES, ids=["httpx", "httpx2"])


@pytest.fixture(scope="module")
def stand_in() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as one:
        yield one


@pytest.fixture
def upstream(stand_in: ThreadedStandIn) -> ThreadedStandIn:
    stand_in.requests.clear()
    return stand_in


class Here:
    """An app without a server, and the records of its settled requests."""

    def __init__(self, upstream_url: str, **options: Any) -> None:
        self.settled: list[Exchange] = []
        self.engines: list[Engine] = []
        patient = provider(upstream_url, timeouts=PATIENT)
        settings: dict[str, Any] = {"client": self.new_engine, "on_settled": self._on_settled, **options}
        self.messages = messages_app("", providers=[patient], **settings)

    def new_engine(self) -> Engine:
        self.engines.append(Engine())
        return self.engines[-1]

    async def _on_settled(self, exchange: Exchange) -> None:
        self.settled.append(exchange)

    def client(self, library: Any = httpx, principal: Any = "ann", **options: Any) -> httpx.AsyncClient:
        """A client that calls the app as `principal`."""
        transport = self.messages.transport(principal)
        settings = {"base_url": "http://gateway", "headers": VERSION, "timeout": 30, **options}
        return library.AsyncClient(transport=transport, **settings)

    async def account(self, count: int = 1) -> Exchange:
        await until(lambda: len(self.settled) >= count)
        return self.settled[-1]

    async def nothing_open(self) -> None:
        """Wait until no connection is in use and no task of a request is running."""
        await until(lambda: all(engine.open == engine.idle for engine in self.engines) and not tasks_in_flight())


@pytest.fixture
async def here(upstream: ThreadedStandIn) -> AsyncGenerator[Here]:
    one = Here(upstream.base_url)
    async with one.messages.lifespan():
        yield one
        await one.nothing_open()


@both
async def test_a_message_and_the_other_operations(here: Here, library: Any) -> None:
    async with here.client(library) as client:
        reply = await client.post("/v1/messages", json=BODY)
        assert (reply.status_code, reply.json()["type"]) == (200, "message")
        assert reply.headers["request-id"].startswith("req_")
        assert (await client.get("/v1/models?limit=1")).json()["data"]
        assert (await client.get("/v1/models/claude-haiku-4-5")).json()["id"].startswith("claude-haiku")
        assert (await client.head("/api/hello")).status_code == 200
        assert (await client.get("/nothing")).status_code == 404
        await here.account(4)
    assert [account.outcome for account in here.settled] == ["answered"] * 3 + ["refused"]
    assert {account.principal and account.principal.id for account in here.settled} == {"ann"}


async def test_the_official_sdk_calls_it_and_streams(here: Here) -> None:
    http_client = anthropic.DefaultAsyncHttpxClient(transport=here.messages.transport("ann"))
    async with anthropic.AsyncAnthropic(base_url="http://gateway", api_key="-", http_client=http_client) as sdk:
        message = await sdk.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
        assert message.content
        async with sdk.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=HELLO) as stream:
            assert [word async for word in stream.text_stream]
        assert (await sdk.models.list()).data
        with pytest.raises(anthropic.NotFoundError):
            await sdk.models.retrieve("no-such-model")


@both
async def test_a_stream_arrives_event_by_event(here: Here, upstream: ThreadedStandIn, library: Any) -> None:
    received = 0
    undelivered: list[int] = []

    def events(_: object) -> Generator[bytes]:
        sent = 0
        for event in text_events():
            yield event
            sent += len(event)
            deadline = time.monotonic() + 5
            while received < sent and time.monotonic() < deadline:
                time.sleep(0.002)
            if received < sent:
                undelivered.append(sent)

    upstream.enqueue(Reply(body=Lazy(events)))
    async with here.client(library) as client, client.stream("POST", "/v1/messages", json=STREAM) as reply:
        async for chunk in reply.aiter_raw():
            received += len(chunk)
    assert (reply.status_code, undelivered) == (200, [])


def text_events() -> Sequence[bytes]:
    """The events of a small stream."""
    return [event + b"\n\n" for event in WHOLE.split(b"\n\n") if event]


@both
async def test_a_response_that_is_closed_early_ends_the_upstream_call(
    here: Here, upstream: ThreadedStandIn, library: Any
) -> None:
    upstream.enqueue(hang_mid_event())
    async with here.client(library) as client:
        async with client.stream("POST", "/v1/messages", json=STREAM) as reply:
            async for chunk in reply.aiter_raw():
                if b"content_block_delta" in chunk:
                    break
        assert (await here.account()).outcome == "client_gone"
        await until(lambda: upstream.requests[0].aborted is not None)


@both
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["json", "stream"])
async def test_a_call_that_is_cancelled_ends_the_upstream_call(
    here: Here, upstream: ThreadedStandIn, library: Any, body: dict[str, Any]
) -> None:
    upstream.enqueue(hang())
    async with here.client(library) as client:
        call = asyncio.ensure_future(client.post("/v1/messages", json=body))
        await until(lambda: len(upstream.requests) == 1)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
        assert (await here.account()).outcome == "client_gone"
        await until(lambda: upstream.requests[0].aborted is not None)


async def test_a_call_that_is_cancelled_at_once_reaches_no_upstream(here: Here, upstream: ThreadedStandIn) -> None:
    async with here.client() as client:
        call = asyncio.ensure_future(client.post("/v1/messages", json=BODY))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
    await here.nothing_open()
    assert upstream.requests == []


@both
async def test_a_read_timeout_of_the_client_ends_the_call(here: Here, upstream: ThreadedStandIn, library: Any) -> None:
    upstream.enqueue(hang())
    async with here.client(library, timeout=0.2) as client:
        with pytest.raises(library.ReadTimeout):
            await client.post("/v1/messages", json=BODY)
    assert (await here.account()).outcome == "client_gone"


async def test_a_reader_that_is_behind_holds_the_upstream_back(here: Here, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(big_stream(200_000_000))
    async with here.client() as client, client.stream("POST", "/v1/messages", json=STREAM) as reply:
        await anext(aiter(reply.aiter_raw()))
        await asyncio.sleep(0.3)
        sent = upstream.requests[0].replied
        await asyncio.sleep(0.3)
        assert upstream.requests[0].replied == sent < 40_000_000
    assert (await here.account()).outcome == "client_gone"


@both
async def test_an_error_in_mid_stream_is_an_event_and_the_response_is_whole(
    here: Here, upstream: ThreadedStandIn, library: Any
) -> None:
    upstream.enqueue(reset_mid_event())
    async with here.client(library) as client:
        reply = await client.post("/v1/messages", json=STREAM)
    assert reply.text.count("event: error\n") == 1
    assert (await here.account()).outcome == "upstream_failed"


async def test_limits_count_it_for_its_principal(upstream: ThreadedStandIn) -> None:
    here = Here(upstream.base_url, limits=[Limit("requests", 1)])
    async with here.messages.lifespan(), here.client() as ann, here.client(principal="bob") as bob:
        assert (await ann.post("/v1/messages", json=BODY)).status_code == 200
        refused = await ann.post("/v1/messages", json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
        assert (await bob.post("/v1/messages", json=BODY)).status_code == 200


async def test_the_models_of_the_principal_apply(here: Here) -> None:
    async with here.client(principal=Principal(id="ann", models=("claude-haiku-*",))) as client:
        assert (await client.post("/v1/messages", json={**BODY, "model": "claude-opus-5-5"})).status_code == 403


async def test_a_function_chooses_the_principal_of_each_request_in_its_context(here: Here) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    async def call(name: str) -> None:
        user.set(name)
        assert (await client.post("/v1/messages", json=BODY)).status_code == 200

    async with here.client(principal=user.get) as client:
        await asyncio.gather(call("ann"), call("bob"))
        await here.account(2)
    names = [account.principal.id for account in here.settled if account.principal]
    assert sorted(names) == ["ann", "bob"]


async def test_a_stack_of_the_host_s_own_authenticates_nothing_again(upstream: ThreadedStandIn) -> None:
    def never(_: Scope) -> str:
        raise AssertionError

    stack = [Middleware(AuthMiddleware, backend=HostUser(never)), Middleware(RateLimitMiddleware, limits=[])]
    here = Here(upstream.base_url, middleware=stack)
    async with here.messages.lifespan(), here.client() as client:
        assert (await client.post("/v1/messages", json=BODY)).status_code == 200
        assert (await client.post("/v1/messages", json=STREAM)).text.count("event: message_stop") == 1


async def test_its_credential_reaches_no_upstream(here: Here, upstream: ThreadedStandIn) -> None:
    async with here.client(headers={**VERSION, "x-api-key": "canary", "cookie": "canary"}) as client:
        assert (await client.post("/v1/messages", json=BODY)).status_code == 200
    assert "canary" not in str(upstream.requests[0].headers)


async def test_a_body_in_chunks_and_one_that_fails(here: Here, upstream: ThreadedStandIn) -> None:
    data = json.dumps(BODY).encode()

    async def chunks(*, fail: bool) -> AsyncGenerator[bytes]:
        yield data[:10]
        if fail:
            raise ZeroDivisionError
        yield data[10:]

    async with here.client() as client:
        assert (await client.post("/v1/messages", content=chunks(fail=False))).status_code == 200
        with pytest.raises(ZeroDivisionError):
            await client.post("/v1/messages", content=chunks(fail=True))
    assert len(upstream.requests) == 1


async def test_a_drain_refuses_it_like_any_other_and_ends_a_stream_by_an_event(upstream: ThreadedStandIn) -> None:
    here = Here(upstream.base_url)
    upstream.enqueue(hang_mid_event())
    async with here.messages.lifespan(), here.client() as client:
        stream = asyncio.ensure_future(client.post("/v1/messages", json=STREAM))
        await until(lambda: len(upstream.requests) == 1)
        await asyncio.sleep(0.1)
        await here.messages.drain(0)
        assert (await stream).text.count("event: error\n") == 1
        assert (await client.post("/v1/messages", json=BODY)).status_code == 529


async def test_closing_the_client_ends_its_running_calls_and_leaves_the_transport_usable(
    here: Here, upstream: ThreadedStandIn
) -> None:
    transport = here.messages.transport("ann")
    upstream.enqueue(hang())
    client = httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=VERSION)
    call = asyncio.ensure_future(client.post("/v1/messages", json=BODY))
    await until(lambda: len(upstream.requests) == 1)
    await client.aclose()
    with pytest.raises(httpx.RemoteProtocolError):
        await call
    assert (await here.account()).outcome == "client_gone"
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=VERSION) as another:
        assert (await another.post("/v1/messages", json=BODY)).status_code == 200


def test_each_event_loop_may_use_the_same_transport(upstream: ThreadedStandIn) -> None:
    here = Here(upstream.base_url)
    transport = here.messages.transport("ann")

    async def call() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=VERSION) as client:
            return (await client.post("/v1/messages", json=BODY)).status_code

    assert [asyncio.run(call()) for _ in range(2)] == [200, 200]
    assert len(here.engines) == 2
    assert all(engine.open == 0 for engine in here.engines)


async def test_an_app_that_fails_is_a_protocol_error_with_its_cause() -> None:
    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async with httpx.AsyncClient(transport=InProcessTransport(broken, "ann")) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="before its response was complete") as failure:
            await client.get("http://gateway/")
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


async def test_an_app_sees_the_disconnect_and_cannot_send_after_it() -> None:
    seen: list[Message | type[OSError]] = []

    async def endless(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(await receive())
        seen.append(await receive())
        try:
            await send({"type": "http.response.body", "body": b"late"})
        except OSError:
            seen.append(OSError)

    client = httpx.AsyncClient(transport=InProcessTransport(endless, "ann"))
    async with client, client.stream("POST", "http://gateway/", content=b"body"):
        pass
    assert seen == [
        {"type": "http.request", "body": b"body", "more_body": False},
        {"type": "http.disconnect"},
        OSError,
    ]


def test_a_synchronous_client_is_refused_in_words(upstream: ThreadedStandIn) -> None:
    transport: Any = Here(upstream.base_url).messages.transport("ann")
    with pytest.raises(TypeError, match=r"not for synchronous clients"):
        httpx.Client(transport=transport).get("http://gateway/healthz")
    with pytest.raises(TypeError, match=r"not for synchronous clients"):
        httpx.Client(transport=transport).__enter__()


@pytest.mark.parametrize("principal", [None, 1, Principal, json.dumps])
def test_what_is_no_principal_is_named(upstream: ThreadedStandIn, principal: Any) -> None:
    with pytest.raises(OptionError, match=r"^principal: "):
        Here(upstream.base_url).messages.transport(principal)
