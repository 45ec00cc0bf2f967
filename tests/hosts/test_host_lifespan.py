"""The lifespan: entered by `install`, by the host, alone, never, in two loops; and host lifespans that fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from host_apps import broken
from hosting_kit import messages_app, post
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message
from support.calls import BODY, HEADERS, UPSTREAM_KEY

from bud_asgi import MessagesApp
from bud_asgi.http import Engine
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.server.serving import serving


@pytest.fixture
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


class Engines:
    """Makes engines and remembers them; an app makes one for each event loop."""

    def __init__(self) -> None:
        self.made: list[Engine] = []

    def __call__(self) -> Engine:
        self.made.append(Engine())
        return self.made[-1]


def installed(messages: MessagesApp) -> tuple[ASGIApp, str]:
    host = FastAPI()
    messages.install(host, "/llm")
    return host, "/llm"


def passed_to_the_host(messages: MessagesApp) -> tuple[ASGIApp, str]:
    host = Starlette(lifespan=messages.lifespan)
    host.mount("/llm", messages)
    return host, "/llm"


def entered_by_the_host(messages: MessagesApp) -> tuple[ASGIApp, str]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with messages.lifespan():
            yield

    host = FastAPI(lifespan=lifespan)
    host.mount("/llm", messages)
    return host, "/llm"


def never_run(messages: MessagesApp) -> tuple[ASGIApp, str]:
    host = FastAPI()
    host.mount("/llm", messages)
    return host, "/llm"


def alone(messages: MessagesApp) -> tuple[ASGIApp, str]:
    return messages, ""


@pytest.mark.parametrize("make_host", [installed, passed_to_the_host, entered_by_the_host, never_run, alone])
def test_one_engine_is_made_and_closed(upstream: ThreadedStandIn, make_host: Any) -> None:
    engines = Engines()
    host, prefix = make_host(messages_app(upstream.base_url, client=engines))
    with serving(host, loop="asyncio") as url:
        assert [post(url + prefix).status_code for _ in range(3)] == [200] * 3
    assert len(engines.made) == 1
    assert engines.made[0].open == 0
    upstream.wait_connections(0)


def test_a_host_whose_startup_fails_does_not_start_and_no_engine_is_made(upstream: ThreadedStandIn) -> None:
    engines = Engines()
    host = Starlette(lifespan=broken)
    messages_app(upstream.base_url, client=engines).install(host, "/llm")
    with pytest.raises(BaseException), serving(host):  # noqa: B017, PT011 - uvicorn raises SystemExit
        pass
    assert engines.made == []


def test_connections_are_closed_even_if_the_hosts_shutdown_fails(upstream: ThreadedStandIn) -> None:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        raise RuntimeError("the host's database went away")

    host = Starlette(lifespan=lifespan)
    messages_app(upstream.base_url).install(host, "/llm")
    with serving(host) as url:
        assert post(f"{url}/llm").status_code == 200
    upstream.wait_connections(0)


async def test_a_failed_startup_is_reported_to_the_server(upstream: ThreadedStandIn) -> None:
    def fail() -> Engine:
        raise RuntimeError("no engine")

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    messages = messages_app(upstream.base_url, client=fail)
    await messages({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no engine"}]
    with pytest.raises(BaseException), serving(messages):  # noqa: B017, PT011 - uvicorn raises SystemExit
        pass


async def _call(app: ASGIApp) -> int:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        return (await client.post("/llm/v1/messages", headers=HEADERS, json=BODY)).status_code


async def _start_call_stop(host: Starlette) -> list[int]:
    async with host.router.lifespan_context(host):
        return [await _call(host) for _ in range(3)]


def test_it_starts_again_in_a_second_loop_of_the_same_process(upstream: ThreadedStandIn) -> None:
    engines = Engines()
    host = Starlette()
    messages_app(upstream.base_url, client=engines).install(host, "/llm")
    for _ in range(2):
        assert asyncio.run(_start_call_stop(host)) == [200] * 3
    assert len(engines.made) == 2
    upstream.wait_connections(0)


async def test_it_starts_again_in_the_same_loop(upstream: ThreadedStandIn) -> None:
    engines = Engines()
    host = Starlette()
    messages_app(upstream.base_url, client=engines).install(host, "/llm")
    for _ in range(2):
        assert await _start_call_stop(host) == [200] * 3
    assert len(engines.made) == 2
    upstream.wait_connections(0)


def test_two_servers_in_two_threads_share_the_app_and_one_can_stop_without_the_other(upstream: ThreadedStandIn) -> None:
    engines = Engines()
    host = Starlette()
    messages_app(upstream.base_url, client=engines).install(host, "/llm")
    with serving(host) as staying:
        with serving(host) as stopping:
            assert post(f"{staying}/llm").status_code == post(f"{stopping}/llm").status_code == 200
        assert post(f"{staying}/llm").status_code == 200
    assert len(engines.made) == 2
    upstream.wait_connections(0)


def test_a_loop_for_each_request_without_a_lifespan_leaves_nothing_behind(upstream: ThreadedStandIn) -> None:
    messages = messages_app(upstream.base_url)
    host = Starlette()
    host.mount("/llm", messages)
    for _ in range(5):
        assert asyncio.run(_call(host)) == 200
    upstream.wait_connections(0)
    assert len(messages._loops._by_loop) <= 1


def test_a_host_that_is_cancelled_within_its_lifespan_leaves_no_connection_open(upstream: ThreadedStandIn) -> None:
    host = Starlette()
    messages_app(upstream.base_url).install(host, "/llm")

    async def main() -> None:
        called = asyncio.Event()

        async def run() -> None:
            async with host.router.lifespan_context(host):
                assert await _call(host) == 200
                called.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await called.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    upstream.wait_connections(0)
