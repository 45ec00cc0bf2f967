"""A stream that is kept alive before an upstream's head, and ended from this side: by its client, or by a shutdown."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from silence import IMPATIENT, SENT, STREAM, after_pings, impatient_gateway
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute
from support.calls import HEADERS, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, assert_upstream_ends, messages_app, provider
from support.serving import serving
from support.sockets import raw_request, receive_until
from support.waiting import wait_until

from bud_asgi import Exchange, response
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import StandIn, ThreadedStandIn, hang, late, sse

FLOOD = b": " + b"x" * (8 << 20) + b"\n\n"
"""A ping that no socket's buffers can hold."""


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    with impatient_gateway() as both:
        yield both


@pytest.mark.parametrize("pings", [0, 1, 3])
def test_a_client_that_disconnects_ends_it(here: Gateway, upstream: ThreadedStandIn, pings: int) -> None:
    upstream.enqueue(hang())
    with raw_request(here.base_url, SENT) as client:
        upstream.wait_requests()
        received = b""
        while received.count(PING) < pings:
            received += receive_until(client, PING)
    assert_upstream_ends(upstream, time.monotonic())
    account = here.account()
    assert account.outcome == "client_gone"
    assert len(here.settled) == 1


def test_a_client_that_does_not_read_delays_the_response_and_gets_all_of_it(
    here: Gateway, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "PING", FLOOD)
    upstream.enqueue(late(0.2, sse(STREAM)))
    with raw_request(here.base_url, SENT) as client:
        time.sleep(0.4)
        assert here.settled == []
        received = receive_until(client, b"0\r\n\r\n")
    assert received.count(FLOOD) == 2  # the one that the server has taken, and the one that it holds back
    assert received.count(STREAM) == 1
    assert received.index(FLOOD) < received.index(STREAM)
    assert here.account().outcome == "answered"


def test_a_client_that_does_not_read_ends_it_by_disconnecting(
    here: Gateway, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "PING", FLOOD)
    upstream.enqueue(hang())
    with raw_request(here.base_url, SENT):
        time.sleep(0.2)
    assert_upstream_ends(upstream, time.monotonic())
    assert here.account().outcome == "client_gone"


class Host:
    """A host with a route that drains the gateway in it within a twentieth of a second."""

    def __init__(self, upstream_url: str) -> None:
        self.settled: list[Exchange] = []
        slow = provider(upstream_url, timeouts=PATIENT)

        async def keep(exchange: Exchange) -> None:
            self.settled.append(exchange)

        async def drain(_request: Request) -> PlainTextResponse:
            await messages.drain(0.05)
            return PlainTextResponse(str(len(self.settled)))

        messages = messages_app("", providers=[slow], on_settled=keep, timing=IMPATIENT)
        self.app = Starlette(routes=[HostRoute("/drain", drain)])
        messages.install(self.app, "/llm")


@contextmanager
def reading(url: str) -> Generator[list[bytes]]:
    """A client in a thread that reads a stream to its end."""
    got: list[bytes] = []

    def read() -> None:
        with httpx.stream("POST", f"{url}/llm/v1/messages", headers=HEADERS, content=SENT, timeout=30) as reply:
            got.extend(reply.iter_raw())

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: PING in b"".join(got), "a ping has come")
    yield got
    thread.join(30)
    assert not thread.is_alive()


def assert_shutdown_event(body: bytes) -> None:
    """After the pings comes one event, the last: the gateway is shutting down."""
    event = after_pings(body)
    assert event.startswith(b"event: error\ndata: ")
    assert event.endswith(b"}\n\n")
    assert json.loads(event[19:])["error"] == {"type": "overloaded_error", "message": "The gateway is shutting down."}


@pytest.fixture
def upstream_alone() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        stand_in.always(hang())
        yield stand_in


def test_a_drain_ends_it_by_an_event(upstream_alone: ThreadedStandIn) -> None:
    host = Host(upstream_alone.base_url)
    with serving(host.app) as url:
        with reading(url) as got:
            assert httpx.get(f"{url}/drain", timeout=30).text == "1"
        assert_shutdown_event(b"".join(got))
        upstream_alone.wait_aborted(30.0)
    (account,) = host.settled
    assert (account.outcome, account.status) == ("cancelled", 200)


def test_a_server_that_cancels_it_still_sends_the_event(upstream_alone: ThreadedStandIn) -> None:
    host = Host(upstream_alone.base_url)
    with ExitStack() as client, serving(host.app, timeout_graceful_shutdown=0.05) as url:
        got = client.enter_context(reading(url))
    assert_shutdown_event(b"".join(got))
    upstream_alone.wait_aborted(30.0)
    assert [account.outcome for account in host.settled] == ["cancelled"]


def test_a_client_that_does_not_read_cannot_delay_a_drain(
    upstream_alone: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "PING", FLOOD)
    host = Host(upstream_alone.base_url)
    with serving(host.app) as url, raw_request(f"{url}/llm", SENT):
        upstream_alone.wait_requests()
        time.sleep(0.2)
        began = time.monotonic()
        assert httpx.get(f"{url}/drain", timeout=30).text == "1"
        assert time.monotonic() - began < 15
    assert [account.outcome for account in host.settled] == ["cancelled"]
