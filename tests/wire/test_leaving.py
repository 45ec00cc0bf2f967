"""A client that disconnects: the upstream request ends within a second, is settled once, and nothing stays open."""

from __future__ import annotations

import json
import random
import time

import pytest
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from support.calls import BODY, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, assert_upstream_ends, gateway, provider
from support.ports import nowhere
from support.sockets import connect, raw_request, receive_until, request_head
from support.waiting import wait_still, wait_until

from bud_asgi import Route
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, big_stream, hang, hang_mid_event, text

STREAMING = json.dumps({**BODY, "stream": True}).encode()
PLAIN = json.dumps(BODY).encode()


@pytest.fixture
def patient(upstream: ThreadedStandIn):
    """A gateway whose timeouts are longer than the tests."""
    slow = provider(upstream.base_url, timeouts=PATIENT)
    with gateway("", providers=[slow]) as here:
        yield here
        here.assert_nothing_open()


def test_while_the_body_arrives(patient: Gateway, upstream: ThreadedStandIn) -> None:
    with connect(patient.base_url) as client:
        client.sendall(request_head(len(PLAIN)) + PLAIN[:20])
        time.sleep(0.1)
    assert patient.account().outcome == "client_gone"
    assert upstream.requests == []


@pytest.mark.parametrize("body", [PLAIN, STREAMING], ids=["json", "stream"])
@pytest.mark.parametrize("after", [0.0, 0.1, 0.5], ids=["at once", "soon", "later"])
def test_while_upstream_is_silent(patient: Gateway, upstream: ThreadedStandIn, body: bytes, after: float) -> None:
    upstream.enqueue(hang())
    with raw_request(patient.base_url, body):
        upstream.wait_requests()
        time.sleep(after)
    assert_upstream_ends(upstream, time.monotonic())
    assert patient.account().outcome == "client_gone"
    assert len(patient.settled) == 1


@pytest.mark.parametrize("reply", [hang_mid_event(), text("slow " * 200, delay=0.05)], ids=["stalled", "flowing"])
def test_in_mid_stream(patient: Gateway, upstream: ThreadedStandIn, reply: Reply) -> None:
    upstream.enqueue(reply)
    with raw_request(patient.base_url, STREAMING) as client:
        receive_until(client, b"content_block_delta")
    assert_upstream_ends(upstream, time.monotonic())
    account = patient.account()
    assert account.outcome == "client_gone"
    assert account.usage is not None


def test_a_reader_that_stops_reading_holds_upstream_back_and_ends_it_by_leaving(
    patient: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(big_stream(200_000_000))
    with raw_request(patient.base_url, STREAMING) as client:
        client.recv(1000)
        (seen,) = upstream.wait_requests()
        assert wait_still(lambda: seen.replied) < 40_000_000  # it waits, for the kernel's buffers and ours are full
    assert upstream.wait_aborted(30.0).aborted is not None


def test_a_disconnect_after_the_last_event_counts_as_answered(patient: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(Reply(body=text("Hello").body, end="hang"))
    with raw_request(patient.base_url, STREAMING) as client:
        receive_until(client, b"event: message_stop")
        time.sleep(0.4)
    assert patient.account().outcome == "answered"
    upstream.wait_aborted(30.0)


def test_after_the_answer_the_account_is_that_of_an_answer(patient: Gateway, upstream: ThreadedStandIn) -> None:
    with raw_request(patient.base_url, PLAIN) as client:
        assert b"200 OK" in client.recv(65536)
    assert patient.account().outcome == "answered"
    assert upstream.requests[0].aborted is None


def test_under_a_host_with_base_http_middleware() -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        slow = provider(upstream.base_url, timeouts=PATIENT)
        with gateway("", wrap=lambda app: BaseHTTPMiddleware(app, dispatch=pass_on), providers=[slow]) as here:
            for reply, body in ((hang(), PLAIN), (hang_mid_event(), STREAMING)):
                upstream.enqueue(reply)
                with raw_request(here.base_url, body):
                    upstream.wait_requests(len(upstream.requests) or 1)
                    time.sleep(0.4)
                assert_upstream_ends(upstream, time.monotonic())
            wait_until(lambda: len(here.settled) == 2, "two accounts")
            assert {account.outcome for account in here.settled} == {"client_gone"}


def test_at_random_moments_everything_is_settled_once(patient: Gateway, upstream: ThreadedStandIn) -> None:
    seed = 20261124
    moments = random.Random(seed)
    upstream.always(text("word " * 40, delay=0.005))
    for _ in range(40):
        body = moments.choice([PLAIN, STREAMING])
        wire = request_head(len(body)) + body
        with connect(patient.base_url) as client:
            client.sendall(wire[: moments.randrange(len(request_head(len(body))), len(wire) + 40)])
            time.sleep(moments.random() * 0.3)
    wait_until(lambda: len(patient.settled) == 40, "40 accounts")
    assert {account.outcome for account in patient.settled} <= {"client_gone", "answered"}
    wait_until(lambda: all(one.done or one.aborted for one in upstream.requests), "every upstream request to end")


@pytest.mark.parametrize("body", [PLAIN, STREAMING], ids=["json", "stream"])
def test_during_the_attempt_at_the_second_target(upstream: ThreadedStandIn, body: bytes) -> None:
    dead = nowhere()
    providers = [provider(dead, name="first"), provider(upstream.base_url, name="second", timeouts=PATIENT)]
    with gateway("", providers=providers, routes=[Route("*", to=["first", "second"])]) as here:
        upstream.enqueue(hang_mid_event())
        with raw_request(here.base_url, body):
            upstream.wait_requests()
            time.sleep(0.5)
        upstream.wait_aborted(30.0)
        account = here.account()
        assert account.outcome == "client_gone"
        assert [attempt.failure is None for attempt in account.attempts] == [False, True]
        here.assert_nothing_open()
