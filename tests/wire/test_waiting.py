"""An upstream that is silent for long: the stream starts, pings keep it alive, and an event reports a failure."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from silence import IMPATIENT, LATE, SENT, STREAM, after_pings, impatient_gateway
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from support.calls import UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, gateway, provider, timed

from bud_asgi import Exchange, Route
from bud_asgi.clock import DEFAULT_TIMING
from bud_asgi.http import Timeouts
from bud_asgi.protocol.sse import STREAM_HEADERS
from bud_asgi.testing import (
    Reply,
    ThreadedStandIn,
    empty,
    eof_before_head,
    error,
    error_first_event,
    hang,
    html,
    json_body,
    late,
    raw,
    redirect,
    reset_after_head,
    reset_before_head,
    sse,
)


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    with impatient_gateway() as both:
        yield both


def test_pings_fill_the_silence_and_then_the_answer_comes_byte_for_byte(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(late(LATE, sse(STREAM)))
    reply = here.post(SENT)
    assert after_pings(reply.content) == STREAM
    assert reply.status_code == 200
    assert [(name, reply.headers[name.decode()].encode()) for name, _ in STREAM_HEADERS] == list(STREAM_HEADERS)
    assert set(reply.headers) == {
        *("date", "server", "content-type", "cache-control", "x-accel-buffering", "request-id", "transfer-encoding")
    }
    (seen,) = upstream.requests
    assert seen.body == SENT
    account = here.account()
    assert (account.outcome, account.status, account.request_id) == ("answered", 200, reply.headers["request-id"])
    assert account.usage is not None
    assert (account.usage.input_tokens, account.usage.output_tokens) == (3, 9)


def test_the_record_has_the_times_of_each_step(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(late(LATE, sse(STREAM, chunk_sizes=[9], delay=0.05)))
    here.post(SENT)
    account = here.account()
    (attempt,) = account.attempts
    assert account.committed is not None
    assert attempt.head is not None
    assert attempt.first_event is not None
    assert attempt.ended is not None
    assert account.started + LATE / 4 <= account.committed < attempt.head < attempt.first_event < attempt.ended


def test_an_answer_in_time_has_no_ping_and_all_its_headers(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(sse(STREAM))
    with timed(here.messages, DEFAULT_TIMING):
        reply = here.post(SENT)
    assert reply.content == STREAM
    assert "upstream-request-id" in reply.headers


@pytest.mark.parametrize("status", [200, 429])
def test_a_request_without_stream_gets_a_status_and_no_pings(
    here: Gateway, upstream: ThreadedStandIn, status: int
) -> None:
    upstream.enqueue(late(LATE, json_body({"type": "message", "error": {"type": "x", "message": "m"}}, status=status)))
    reply = here.post()
    assert (reply.status_code, reply.content) == (status, b'{"type":"message","error":{"type":"x","message":"m"}}')


TOLD = b'{"type":"error",\r\n "error":{"type":"rate_limit_error","message":"a \\n b"},\n"request_id":"req_9"}\n'
ONE_LINE = b'{"type":"error",   "error":{"type":"rate_limit_error","message":"a \\n b"}, "request_id":"req_9"} '


def test_an_upstream_error_becomes_an_event_with_its_own_message(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(late(LATE, json_body(TOLD, status=429, headers={"retry-after": "7"})))
    assert after_pings(here.post(SENT).content) == b"event: error\ndata: " + ONE_LINE + b"\n\n"
    account = here.account()
    assert (account.outcome, account.status, account.attempts[0].status) == ("answered", 200, 429)


def test_a_refusal_within_a_stream_is_one_too(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(late(LATE, error_first_event("overloaded_error", "Overloaded")))
    told = after_pings(here.post(SENT).content)
    assert json.loads(told.removeprefix(b"event: error\ndata: "))["error"]["message"] == "Overloaded"
    assert here.account().outcome == "answered"


def told_by(rest: bytes) -> tuple[str, str, str]:
    """The one `error` event that is all that there is: its type, its message, its request id."""
    assert rest.startswith(b"event: error\ndata: ")
    assert rest.endswith(b"\n\n")
    assert rest.count(b"\n") == 3
    body = json.loads(rest.removeprefix(b"event: error\ndata: "))
    assert set(body) == {"type", "error", "request_id"}
    return body["error"]["type"], body["error"]["message"], body["request_id"]


OURS = "upstream authentication failed"
CLOSED = "The upstream closed the connection before its answer was whole."
FAILED: dict[str, tuple[Callable[[], Reply], str]] = {
    "refuses our key": (lambda: error(401, "authentication_error", "invalid x-api-key"), OURS),
    "forbids us something": (lambda: error(403, "permission_error", "not yours"), OURS),
    "shows our key": (lambda: error(400, "invalid_request_error", f"what is {UPSTREAM_KEY}?"), OURS),
    "refuses our key in a stream": (lambda: error_first_event("authentication_error", f"no {UPSTREAM_KEY}"), OURS),
    "answers JSON": (lambda: json_body({"type": "message"}), "The upstream's answer was not an event stream."),
    "answers a page": (html, "The upstream's answer was not an event stream."),
    "answers a page, 503": (lambda: html(503), "The upstream answered 503 without an error object."),
    "answers nothing": (empty, "The upstream's answer was not an event stream."),
    "says nothing in a stream": (lambda: Reply(body=(b"",)), "The upstream's stream ended before its first event."),
    "redirects": (lambda: redirect("http://127.0.0.1:9/"), "The upstream answered 302 where a Message was expected."),
    "resets": (reset_before_head, CLOSED),
    "closes": (eof_before_head, CLOSED),
    "resets after its head": (reset_after_head, CLOSED),
    "is no HTTP": (lambda: raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "The upstream's answer was malformed."),
}


Ended = Mapping[str, tuple[httpx.Response, Exchange]]


@pytest.fixture(scope="module")
def failed() -> Ended:
    """The reply to each failure, all at once: the system prompt selects the failure."""

    def ask(name: str) -> httpx.Response:
        return here.post({"stream": True, "system": name})

    with impatient_gateway() as (here, upstream), ThreadPoolExecutor(len(FAILED)) as pool:
        upstream.always(lambda received: late(LATE, FAILED[received.json()["system"]][0]()))
        replies = list(pool.map(ask, FAILED))
        here.accounts(len(FAILED))
        accounts = {account.request_id: account for account in here.settled}
        return {
            name: (reply, accounts[reply.headers["request-id"]]) for name, reply in zip(FAILED, replies, strict=True)
        }


@pytest.mark.parametrize("name", FAILED)
def test_a_failure_is_an_error_event(failed: Ended, name: str) -> None:
    reply, account = failed[name]
    assert told_by(after_pings(reply.content)) == ("api_error", FAILED[name][1], account.request_id)
    assert (account.outcome, account.status, len(account.attempts)) == ("upstream_failed", 200, 1)
    assert account.attempts[0].failure


def test_a_silence_that_does_not_end_is_a_timeout() -> None:
    with impatient_gateway(Timeouts(30.0, LATE, 30.0)) as (here, upstream):
        upstream.enqueue(hang())
        reply = here.post(SENT)
        told = told_by(after_pings(reply.content))
        assert told == ("timeout_error", "The upstream did not answer in time.", reply.headers["request-id"])
        assert here.account().outcome == "upstream_failed"
        assert upstream.wait_aborted(30.0).aborted is not None


@contextmanager
def black_hole() -> Generator[str]:
    """The URL of a server that takes no connection, and refuses none."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("connect", [0.02, LATE], ids=["before the first ping", "after a ping"])
def test_another_target_is_tried_where_nothing_was_sent(upstream: ThreadedStandIn, connect: float) -> None:
    with black_hole() as url:
        hole = provider(url, name="hole", timeouts=Timeouts(connect, 60.0, 60.0))
        routes = [Route("*", to=["hole", "anthropic"])]
        upstream.always(sse(STREAM))
        with gateway("", timing=IMPATIENT, providers=[hole, provider(upstream.base_url)], routes=routes) as here:
            with timed(here.messages, IMPATIENT if connect == LATE else DEFAULT_TIMING):
                body = here.post(SENT).content
            attempts = here.account().attempts
        assert [(attempt.target.provider, attempt.end) for attempt in attempts] == [
            ("hole", "not_sent"),
            ("anthropic", "answered"),
        ]
        assert (body if connect < LATE else after_pings(body)) == STREAM


def test_below_base_http_middleware_it_is_the_same(upstream: ThreadedStandIn) -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    slow = provider(upstream.base_url, timeouts=PATIENT)
    with gateway(
        "", timing=IMPATIENT, wrap=lambda app: BaseHTTPMiddleware(app, dispatch=pass_on), providers=[slow]
    ) as here:
        upstream.enqueue(late(LATE, sse(STREAM)), late(LATE, error(429, "rate_limit_error", "Slow down")))
        assert after_pings(here.post(SENT).content) == STREAM
        assert told_by(after_pings(here.post(SENT).content))[:2] == ("rate_limit_error", "Slow down")
