"""What failover must not do: move a credential or an account's state, cut a body, miss a disconnect, keep memory."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from failover_stage import key_of
from msgspec.structs import replace
from support.calls import BODY
from support.gateway import PATIENT, Gateway, assert_upstream_ends, forget_health, gateway, timed, without_budget
from support.memory import request_body_bytes
from support.sockets import raw_request, receive_until
from support.waiting import wait_until

from bud_asgi import Anonymous, Anthropic, Route
from bud_asgi.clock import Timing
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import (
    Reply,
    StandIn,
    ThreadedStandIn,
    error,
    error_first_event,
    error_mid_stream,
    hang,
    hang_mid_event,
    html,
    late,
    reset_before_head,
    sse,
    text,
)

Pair = tuple[Gateway, ThreadedStandIn, ThreadedStandIn]
BUSY = error(529, "overloaded_error", "no words")
TIMING = Timing(tick=0.01, watch_after=0.02, close_within=0.2)
PINGS = replace(TIMING, ping_after=0.04)
TO_BOTH = [Route("*", to=["mine", "two"]), Route("both-*", to=["one", "two"])]
FAULTS: dict[str, Callable[[], Reply]] = {
    "overloaded": lambda: BUSY,
    "lost": reset_before_head,
    "an error after message_start": lambda: error_mid_stream(after_events=1),
}


@contextmanager
def two_targets(**options: Any) -> Generator[Pair]:
    """A gateway before two upstreams. `both-*` goes to both, any other model first with the client's credential."""
    with (
        StandIn(api_key=key_of("one"), strict=False).in_thread() as one,
        StandIn(api_key=key_of("two"), strict=False).in_thread() as two,
    ):
        providers = [
            Anthropic(api_key=key_of("one"), base_url=one.base_url, name="one", timeouts=PATIENT),
            Anthropic(api_key=key_of("two"), base_url=two.base_url, name="two", timeouts=PATIENT),
            Anthropic(auth="client", base_url=one.base_url, name="mine", timeouts=PATIENT),
        ]
        settings: dict[str, Any] = {"auth": Anonymous(), "routes": TO_BOTH, "timing": TIMING, **options}
        with gateway("", providers=providers, **settings) as here:
            without_budget(here)
            yield here, one, two
            here.assert_nothing_open()


@pytest.fixture(scope="module")
def module_pair() -> Generator[Pair]:
    with two_targets() as pair:
        yield pair


@pytest.fixture
def pair(module_pair: Pair) -> Generator[Pair]:
    here, one, two = module_pair
    here.forget()
    forget_health(here)
    for upstream in (one, two):
        upstream.requests.clear()
        upstream.drop_connections()
        upstream.wait_connections(0)
    yield module_pair
    for upstream in (one, two):
        upstream._stand_in._queue.clear()
    here.assert_nothing_open()


def body(*, stream: bool, **fields: Any) -> bytes:
    return json.dumps({**BODY, "model": "both-x", "stream": stream, **fields}).encode()


OWN = {"authorization": "Bearer sk-ant-oat01-the-clients-own", "anthropic-version": "2023-06-01"}
REJECTIONS: dict[str, Callable[[int], Reply]] = {
    "an error object": lambda status: error(status, "authentication_error", "no"),
    "with a code": lambda status: error(status, "permission_error", "no", details={"error_code": "x"}),
    "with advice to retry": lambda status: error(status, "api_error", "no", headers={"x-should-retry": "true"}),
    "a page": html,
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("rejection", REJECTIONS.values(), ids=REJECTIONS.keys())
def test_a_clients_rejected_credential_never_moves_on_to_the_gateways(
    pair: Pair, rejection: Callable[[int], Reply], status: int, stream: bool
) -> None:
    here, one, two = pair
    one.enqueue(rejection(status))
    assert here.post({"stream": stream}, headers=OWN).status_code == status
    assert [attempt.end for attempt in here.account().attempts] == ["refused"]
    assert two.requests == []


def test_nor_does_one_that_is_rejected_by_the_first_event(pair: Pair) -> None:
    here, one, two = pair
    one.enqueue(error_first_event("authentication_error", "no"))
    assert here.post({"stream": True}, headers=OWN).status_code == 401
    assert two.requests == []


def test_a_clients_credential_stays_at_its_target_when_another_one_is_tried(pair: Pair) -> None:
    here, one, two = pair
    one.enqueue(BUSY)
    assert here.post(headers=OWN).status_code == 200
    assert "the-clients-own" in str(one.requests[0].headers)
    assert "the-clients-own" not in str(two.requests[0].headers)
    assert two.requests[0].header("x-api-key") == key_of("two").encode()


FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
STATES: dict[str, dict[str, Any]] = {
    "a thread": {"thread": {"type": "continue", "previous_message_id": "msg_1"}},
    "a container": {"container": "container_1"},
    "a skill": {"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}},
    "a file": {"messages": [{"role": "user", "content": [FILE]}]},
    "a fallback credit": {"fallback_credit_token": "credit_1"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_state_of_one_account_never_moves(pair: Pair, state: dict[str, Any], stream: bool) -> None:
    here, one, two = pair
    one.enqueue(BUSY)
    assert here.post(body(stream=stream, **state)).status_code == 529
    assert (len(one.requests), two.requests) == (1, [])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_body_is_whole_for_the_second_attempt_and_the_reply_is_the_seconds_bytes(
    pair: Pair, fault: Callable[[], Reply]
) -> None:
    here, one, two = pair
    sent = body(stream=True, system="x" * 400_000)
    events = b'event: message_start\ndata: {}\n\nevent: message_stop\ndata: {"a": "\xc3\xa9"}\n\n'
    one.enqueue(fault())
    two.enqueue(sse(events))
    assert here.post(sent).content == events
    assert one.requests[0].body == two.requests[0].body == sent


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_pings_go_on_over_two_slow_attempts(pair: Pair, fault: Callable[[], Reply]) -> None:
    here, one, two = pair
    events = b"event: message_start\ndata: {}\n\nevent: message_stop\ndata: {}\n\n"
    one.enqueue(late(0.2, fault()))
    two.enqueue(late(0.2, sse(events)))
    with timed(here.messages, PINGS):
        reply = here.post(body(stream=True))
    assert reply.content.startswith(PING * 4)
    assert reply.content.replace(PING, b"") == events


def test_a_message_start_that_has_been_held_back_for_long_enough_is_the_commit() -> None:
    start = b"event: message_start\ndata: {}\n\n"
    with two_targets(timing=replace(TIMING, commit_after=0.05)) as (here, one, two):
        one.enqueue(replace(sse(start * 2), stall=(len(start), 0.3), cut=len(start) + 9, end="reset"))
        reply = here.post(body(stream=True))
        assert reply.content.replace(PING, b"").startswith(start + b"event: error\n")
        assert [attempt.end for attempt in here.account().attempts] == ["broken"]
        assert two.requests == []


def test_after_pings_all_failures_end_the_stream_with_the_most_useful_error(pair: Pair) -> None:
    here, one, two = pair
    one.enqueue(late(0.1, error(429, "rate_limit_error", "slow down")))
    two.enqueue(late(0.1, BUSY))
    with timed(here.messages, PINGS):
        reply = here.post(body(stream=True))
    assert reply.status_code == 200
    rest = reply.content.replace(PING, b"")
    assert rest.startswith(b"event: error\ndata: ")
    assert (rest.count(b"event: "), b"slow down" in rest) == (1, True)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("first", [BUSY, reset_before_head()], ids=["overloaded", "lost"])
def test_a_client_that_leaves_during_the_second_attempt_ends_it(pair: Pair, first: Reply, stream: bool) -> None:
    here, one, two = pair
    one.enqueue(first)
    two.enqueue(hang())
    with raw_request(here.base_url, body(stream=stream)):
        two.wait_requests()
        time.sleep(0.05)
    assert_upstream_ends(two, time.monotonic())
    account = here.account()
    assert (account.outcome, [attempt.end for attempt in account.attempts][1:]) == ("client_gone", ["client_gone"])
    assert account.usage is not None
    assert account.usage.estimated
    assert (account.attempts[0].usage is None) is (first is BUSY)
    assert account.attempts[1].usage is None


def test_a_client_that_leaves_during_the_stream_of_the_second_attempt_ends_it(pair: Pair) -> None:
    here, one, two = pair
    one.enqueue(error_mid_stream(after_events=1))
    two.enqueue(hang_mid_event())
    with raw_request(here.base_url, body(stream=True)) as client:
        got = receive_until(client, b"content_block_delta")
    assert_upstream_ends(two, time.monotonic())
    assert got.count(b"event: message_start") == 1
    assert here.account().outcome == "client_gone"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_drain_ends_the_second_attempt(stream: bool) -> None:
    with two_targets() as (here, one, two), ThreadPoolExecutor(1) as pool:
        one.enqueue(BUSY)
        two.enqueue(hang_mid_event() if stream else hang())
        waiting = pool.submit(here.post, body(stream=stream))
        two.wait_requests()
        (loop,) = here.messages._loops._by_loop
        time.sleep(0.05)
        asyncio.run_coroutine_threadsafe(here.messages.drain(0.05), loop).result(30)
        reply = waiting.result()
        assert reply.status_code == (200 if stream else 529)
        assert "The gateway is shutting down." in reply.text
        assert reply.text.count("message_start") == (2 if stream else 0)  # name and type of one event
        two.wait_aborted(30.0)
        assert [attempt.end for attempt in here.account().attempts] == ["overloaded", "cancelled"]


@pytest.fixture
def traced() -> Generator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_body_is_released_when_the_reply_of_the_second_begins(pair: Pair, fault: Callable[[], Reply]) -> None:
    here, one, two = pair
    sent = body(stream=True, system="x" * (2 << 20))
    one.enqueue(fault())
    two.enqueue(late(0.2, hang_mid_event(reply=text("Hello there"))))
    with raw_request(here.base_url, sent, timeout=30) as client:
        two.wait_requests(timeout=30)
        assert request_body_bytes() >= 2 << 20
        receive_until(client, b"content_block_delta")
        wait_until(lambda: request_body_bytes() < 100_000, "the body is gone")
    here.account()
