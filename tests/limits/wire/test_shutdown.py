"""Requests that the host or a drain ends: what they have used is booked, and nothing stays reserved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from msgspec.structs import replace
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from support.limited import EVERY_KIND, Booked, Limited, encoded, limited
from support.streams import event, start, text
from support.waiting import wait_until

from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.testing import hang, sse

BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
BEGUN = start(input_tokens=37, output_tokens=1) + BLOCK + text("word " * 20)
STALLED = replace(sse(BEGUN + BEGUN), cut=len(BEGUN), end="hang")
CALLER = "ann"


class Cancelling:
    """A host that can cancel the requests that it is serving, as servers do at shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.running: set[asyncio.Task[object]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        if scope["type"] == "http":
            self.running.add(task)
        try:
            await self.app(scope, receive, send)
        finally:
            self.running.discard(task)

    def cancel(self) -> None:
        for task in tuple(self.running):
            task.get_loop().call_soon_threadsafe(task.cancel)


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def cancelled_in(wrap: Callable[[ASGIApp], ASGIApp], *, streaming: bool) -> None:
    hosts: list[Cancelling] = []

    def cancelling(app: ASGIApp) -> ASGIApp:
        hosts.append(Cancelling(wrap(app)))
        return hosts[0]

    with limited(*EVERY_KIND, wrap=cancelling) as here:
        ended_by(here, hosts[0].cancel, streaming=streaming)
        assert here.account(CALLER).outcome == "cancelled"


def ended_by(here: Limited, end: Callable[[], None], *, streaming: bool) -> httpx.Response | None:
    """Send a request, let something end it once it has reached the upstream, and check what is booked."""
    here.upstream.enqueue(STALLED if streaming else hang())
    body = encoded(stream=streaming, max_tokens=100)
    with ThreadPoolExecutor() as pool:
        posted = pool.submit(here.post, CALLER, body)
        (seen,) = here.upstream.wait_requests()
        if streaming:
            wait_until(lambda: seen.replied > len(BEGUN), "the upstream has begun its stream")
            wait_until(lambda: relaying(here), "the client has got a part of it")
        end()
        try:
            reply = posted.result(30)
        except httpx.TransportError:
            reply = None
    account = here.account(CALLER)
    assert account.usage is not None
    tokens = (37, account.usage.output_tokens or 0) if streaming else (estimated_input(body).input_tokens or 0, 100)
    assert here.booked_now(CALLER) == Booked(1, *tokens, sum(tokens))
    return reply


def relaying(here: Limited) -> bool:
    loops = here.here.messages._loops._by_loop.values()
    return any(active.response.has_content for resources, _ in loops for active in resources.in_flight.values())


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_a_drain_books_what_the_requests_have_used_that_it_ends(streaming: bool) -> None:
    with limited(*EVERY_KIND) as here:
        messages = here.here.messages

        def drain() -> None:
            (loop,) = messages._loops._by_loop
            asyncio.run_coroutine_threadsafe(messages.drain(0.05), loop).result(30)

        reply = ended_by(here, drain, streaming=streaming)
        assert reply is not None
        assert "The gateway is shutting down." in reply.text
        assert here.post("late").status_code == 529
        assert here.booked_now("late") == Booked()


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_a_host_that_cancels_a_request_leaves_its_use_booked(streaming: bool) -> None:
    cancelled_in(lambda app: app, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["json", "stream"])
def test_below_base_http_middleware_a_cancelled_request_is_booked_too(streaming: bool) -> None:
    cancelled_in(lambda app: BaseHTTPMiddleware(app, dispatch=pass_on), streaming=streaming)
