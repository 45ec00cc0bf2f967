"""Hedging over real sockets: a target that takes long to begin is joined by the next, and one of them is delivered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from failover_stage import key_of
from msgspec.structs import replace
from support.calls import BODY
from support.gateway import PATIENT, Gateway, assert_upstream_ends, gateway
from support.sockets import raw_request
from support.waiting import wait_until

from bud_asgi import Anonymous, Anthropic, Route, Target
from bud_asgi.clock import Timing
from bud_asgi.testing import (
    Reply,
    StandIn,
    ThreadedStandIn,
    error,
    error_mid_stream,
    hang,
    late,
    reset_before_head,
    text,
)

NAMES = ("one", "two", "three")
TIMING = Timing(tick=0.01, watch_after=0.02, close_within=0.2)
BUSY = error(529, "overloaded_error", "no words")
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])

Stage = tuple[Gateway, dict[str, ThreadedStandIn]]


@contextmanager
def stage(*to: Any, hedge: float | None = 0.1, **options: Any) -> Generator[Stage]:
    """A gateway with one route, whose requests are hedged after a tenth of a second, and three upstreams."""
    with ExitStack() as stack:
        upstreams = {
            name: stack.enter_context(StandIn(api_key=key_of(name), strict=False).in_thread()) for name in NAMES
        }
        providers = [
            Anthropic(name=name, api_key=key_of(name), base_url=upstream.base_url, timeouts=PATIENT)
            for name, upstream in upstreams.items()
        ]
        routes = [Route("*", to=to or NAMES, hedge=hedge)]
        settings: dict[str, Any] = {"auth": Anonymous(), "timing": TIMING, "route_header": True, **options}
        with gateway("", providers=providers, routes=routes, **settings) as here:
            yield here, upstreams
            here.assert_nothing_open()
            assert [state.in_flight for state in here.messages.state().targets if state.in_flight] == []


def ends(here: Gateway) -> list[tuple[str, str | None]]:
    return [(attempt.target.provider, attempt.end) for attempt in here.account().attempts]


def said(reply: Any, *, stream: bool) -> str:
    assert reply.status_code == 200, reply.text
    if not stream:
        return "".join(block["text"] for block in reply.json()["content"])
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events].count("message_start") == 1
    assert events[-1]["type"] == "message_stop"
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


@BOTH
def test_a_target_that_begins_in_time_is_alone(stream: bool) -> None:
    with stage(hedge=5.0) as (here, upstreams):
        assert said(here.post({"stream": stream}), stream=stream)
        assert [len(upstream.requests) for upstream in upstreams.values()] == [1, 0, 0]
        assert ends(here) == [("one", "answered")]


@BOTH
def test_the_next_target_answers_for_one_that_is_silent_and_the_operator_pays_for_that(stream: bool) -> None:
    with stage() as (here, upstreams):
        upstreams["one"].enqueue(hang())
        upstreams["two"].enqueue(text("from two"))
        began = time.monotonic()
        reply = here.post({"stream": stream})
        assert said(reply, stream=stream) == "from two"
        assert 0.1 <= time.monotonic() - began < 15
        assert_upstream_ends(upstreams["one"], time.monotonic())
        assert ends(here) == [("one", "cancelled"), ("two", "answered")]
        exchange = here.account()
        assert exchange.usage is not None
        assert not exchange.usage.estimated
        lost = exchange.attempts[0].usage
        assert lost is not None
        assert lost.estimated
        assert exchange.attempts[1].usage is None
        assert upstreams["three"].requests == []
        assert 'attempts=("one";end=cancelled' in reply.headers["bud-route"]


@BOTH
def test_the_first_target_wins_if_it_begins_before_the_second(stream: bool) -> None:
    with stage() as (here, upstreams):
        upstreams["one"].enqueue(late(0.4, text("from one")))
        upstreams["two"].enqueue(hang())
        assert said(here.post({"stream": stream}), stream=stream) == "from one"
        assert_upstream_ends(upstreams["two"], time.monotonic())
        assert ends(here) == [("two", "cancelled"), ("one", "answered")]
        exchange = here.account()
        assert exchange.usage is not None
        assert not exchange.usage.estimated
        assert exchange.attempts[0].usage is not None


FAULTS: dict[str, Callable[[], Reply]] = {
    "busy": lambda: BUSY,
    "lost": reset_before_head,
    "an error after message_start": lambda: error_mid_stream(after_events=1),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("later", ["one", "two"])
def test_one_that_fails_leaves_the_other(fault: Callable[[], Reply], later: str) -> None:
    """The one that answers begins later than the other one fails."""
    failing = "two" if later == "one" else "one"
    with stage() as (here, upstreams):
        upstreams[later].enqueue(late(0.6, text("the answer")))
        upstreams[failing].enqueue(late(0.2 if failing == "one" else 0.0, fault()))
        assert said(here.post({"stream": True}), stream=True) == "the answer"
        assert dict(ends(here))[later] == "answered"
        assert len(here.account().attempts) == 2


@BOTH
def test_where_both_fail_the_third_target_is_tried(stream: bool) -> None:
    with stage() as (here, upstreams):
        upstreams["one"].enqueue(late(0.3, BUSY))
        upstreams["two"].enqueue(BUSY)
        upstreams["three"].enqueue(text("from three"))
        assert said(here.post({"stream": stream}), stream=stream) == "from three"
        assert ends(here) == [("one", "overloaded"), ("two", "overloaded"), ("three", "answered")]


def test_a_failure_before_the_hedge_is_followed_by_the_next_target_at_once() -> None:
    with stage(hedge=5.0) as (here, upstreams):
        upstreams["one"].enqueue(BUSY)
        began = time.monotonic()
        assert said(here.post(), stream=False)
        assert time.monotonic() - began < 15
        assert ends(here) == [("one", "overloaded"), ("two", "answered")]


def test_the_most_useful_of_all_failures_is_shown() -> None:
    limited = error(429, "rate_limit_error", "slow down", headers={"retry-after": "7"})
    with stage() as (here, upstreams):
        upstreams["one"].enqueue(late(0.3, limited))
        upstreams["two"].enqueue(BUSY)
        upstreams["three"].enqueue(BUSY)
        reply = here.post()
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize("refusing", ["one", "two"])
def test_a_refusal_of_the_request_is_final_also_if_the_other_call_fails_later(refusing: str) -> None:
    failing = "two" if refusing == "one" else "one"
    with stage() as (here, upstreams):
        upstreams[refusing].enqueue(late(0.2 if refusing == "one" else 0.0, error(400, "invalid_request_error", "no")))
        upstreams[failing].enqueue(late(0.4, BUSY))
        assert here.post().status_code == 400
        assert ends(here) == [(name, "refused" if name == refusing else "overloaded") for name in ("one", "two")]


@BOTH
def test_a_client_that_leaves_ends_both_calls(stream: bool) -> None:
    with stage() as (here, upstreams):
        upstreams["one"].enqueue(hang())
        upstreams["two"].enqueue(hang())
        with raw_request(here.base_url, json.dumps({**BODY, "stream": stream}).encode()):
            for name in ("one", "two"):
                upstreams[name].wait_requests()
            time.sleep(0.05)
        left = time.monotonic()
        for name in ("one", "two"):
            assert_upstream_ends(upstreams[name], left)
        assert ends(here) == [("one", "client_gone"), ("two", "client_gone")]
        exchange = here.account()
        assert exchange.outcome == "client_gone"
        charged = [exchange.usage, *(attempt.usage for attempt in exchange.attempts)]
        assert [usage is not None for usage in charged] == [True, True, False]


def test_a_drain_ends_both_calls() -> None:
    with stage() as (here, upstreams), ThreadPoolExecutor(1) as pool:
        upstreams["one"].enqueue(hang())
        upstreams["two"].enqueue(hang())
        waiting = pool.submit(here.post, {"stream": True})
        for name in ("one", "two"):
            upstreams[name].wait_requests()
        (loop,) = here.messages._loops._by_loop
        asyncio.run_coroutine_threadsafe(here.messages.drain(0.05), loop).result(30)
        assert waiting.result().status_code == 529
        for name in ("one", "two"):
            upstreams[name].wait_aborted(30.0)
        assert ends(here) == [("one", "cancelled"), ("two", "cancelled")]


def test_the_retry_budget_bounds_hedges_too() -> None:
    with stage() as (here, upstreams):
        for _ in range(3):
            upstreams["one"].enqueue(hang())
            upstreams["two"].enqueue(late(0.05, BUSY))
            upstreams["three"].enqueue(BUSY)
        bodies = [{"stream": False} for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            pool.map(here.post, bodies)
            wait_until(lambda: len(upstreams["two"].requests) == 3, "three hedges")
            upstreams["one"].enqueue(late(0.5, text("slow")))
            assert said(here.post(), stream=False) == "slow"
            assert len(upstreams["two"].requests) == 3
            for upstream in upstreams.values():
                upstream.drop_connections()


def test_full_targets_are_not_used_for_a_hedge() -> None:
    with stage("one", Target("two", concurrency=1), "three") as (here, upstreams), ThreadPoolExecutor(1) as pool:
        upstreams["one"].enqueue(hang())
        upstreams["two"].enqueue(hang())
        busy = pool.submit(here.post)
        upstreams["two"].wait_requests()
        upstreams["one"].enqueue(hang())
        upstreams["three"].enqueue(text("from three"))
        assert said(here.post(), stream=False) == "from three"
        assert len(upstreams["two"].requests) == 1
        upstreams["one"].drop_connections()
        upstreams["two"].drop_connections()
        busy.result()


def test_no_call_is_added_after_the_deadline_of_all_attempts() -> None:
    with stage(timing=replace(TIMING, failover_within=0.05)) as (here, upstreams):
        upstreams["one"].enqueue(late(0.4, text("from one")))
        assert said(here.post(), stream=False) == "from one"
        assert upstreams["two"].requests == []
