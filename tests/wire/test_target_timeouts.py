"""The timeouts of a target, apart: connect, first byte, silence, and in total for JSON."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import pytest
from failover_stage import key_of
from support.gateway import Gateway, gateway

from bud_asgi import Anonymous, Anthropic, Route, Target
from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, hang, late, one_byte_a_second, stall, text

Stage = tuple[Gateway, ThreadedStandIn, ThreadedStandIn]
TIMING = Timing(tick=0.01, commit_after=0.05, watch_after=0.02, close_within=0.2)


@contextmanager
def stage(timeouts: Timeouts | None, *, others: Timeouts | None = None) -> Generator[Stage]:
    """Two targets, of which the first has timeouts of its own. `others` are the first provider's."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(StandIn(api_key=key_of(name)).in_thread()) for name in ("one", "two"))
        providers = [
            Anthropic(name="one", api_key=key_of("one"), base_url=one.base_url, timeouts=others),
            Anthropic(name="two", api_key=key_of("two"), base_url=two.base_url),
        ]
        routes = [
            Route("alone", to=[Target("one", "claude-opus-4-8", timeouts=timeouts)]),
            Route("*", to=[Target("one", timeouts=timeouts), "two"]),
        ]
        with gateway("", auth=Anonymous(), providers=providers, routes=routes, timing=TIMING) as here:
            yield here, one, two
            here.assert_nothing_open()


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_target_that_does_not_begin_in_time_is_followed_by_the_next(stream: bool) -> None:
    with stage(Timeouts(first_byte=0.1)) as (here, one, two):
        one.enqueue(hang())
        two.enqueue(text("from two"))
        began = time.monotonic()
        assert here.post({"stream": stream}).status_code == 200
        assert 0.1 <= time.monotonic() - began < 15
        assert [attempt.end for attempt in here.account().attempts] == ["unknown", "answered"]


def test_the_timeouts_of_a_target_replace_those_of_its_provider() -> None:
    with stage(Timeouts(first_byte=5.0), others=Timeouts(first_byte=0.05)) as (here, one, two):
        one.enqueue(late(0.5, text("from one")))
        assert "from one" in here.post().text
        assert two.requests == []


def test_those_of_the_provider_hold_for_a_target_without_any() -> None:
    with stage(None, others=Timeouts(first_byte=0.05)) as (here, one, two):
        one.enqueue(late(5.0, text("from one")))
        two.enqueue(text("from two"))
        assert "from two" in here.post().text


@pytest.mark.parametrize("reply", [hang(), one_byte_a_second(0.02)], ids=["silent", "slow"])
def test_a_json_reply_has_to_be_whole_in_time(reply: Reply) -> None:
    with stage(Timeouts(total=0.4)) as (here, one, two):
        one.enqueue(reply)
        two.enqueue(text("from two"))
        began = time.monotonic()
        assert "from two" in here.post().text
        assert 0.4 <= time.monotonic() - began < 15
        assert [attempt.end for attempt in here.account().attempts] == ["unknown", "answered"]


def test_alone_it_is_a_504() -> None:
    with stage(Timeouts(total=0.2)) as (here, one, _):
        one.enqueue(hang())
        reply = here.post({"model": "alone"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (504, "timeout_error")
        assert here.account().usage is not None


def test_a_stream_may_take_longer_than_that() -> None:
    with stage(Timeouts(total=0.2)) as (here, one, two):
        one.enqueue(text("one two three four five six", delay=0.1))
        reply = here.post({"stream": True})
        assert "event: message_stop" in reply.text
        assert "event: error" not in reply.text
        assert two.requests == []
        assert (here.account().ended or 0.0) - here.account().started > 0.3


def test_a_stream_that_falls_silent_ends_by_an_error() -> None:
    with stage(Timeouts(silence=0.2)) as (here, one, _):
        one.enqueue(stall(3.0, after_bytes=600, reply=text("one two three four five six seven eight nine ten")))
        reply = here.post({"model": "alone", "stream": True})
        assert "event: error" in reply.text
        assert here.account().attempts[0].end == "broken"
