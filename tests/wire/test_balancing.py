"""Targets over real sockets: which one gets a request, by health, by load and by conversation."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import httpx
import msgspec
import pytest
from support.calls import BODY, HEADERS
from support.gateway import Gateway, gateway
from support.uploads import upload
from support.waiting import wait_until

from bud_asgi import Anthropic, Route, Target
from bud_asgi.testing import StandIn, ThreadedStandIn, error, hang, text

NAMES: tuple[str, ...] = ("one", "two", "three")
PROMPT = "Answer in one word. " * 400


@contextmanager
def three(*routes: Route, **options: Any) -> Generator[tuple[Gateway, dict[str, ThreadedStandIn]]]:
    """A gateway before three upstreams."""
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(StandIn(api_key=f"sk-ant-{name}").in_thread()) for name in NAMES}
        for upstream in upstreams.values():
            upstream.always(text("Hello"))
        providers = [
            Anthropic(name=name, api_key=f"sk-ant-{name}", base_url=upstream.base_url)
            for name, upstream in upstreams.items()
        ]
        with gateway("", providers=providers, routes=routes, **options) as here:
            yield here, upstreams


def post(here: Gateway, session: str = "", **fields: Any) -> httpx.Response:
    headers = {**HEADERS, **({"x-claude-code-session-id": session} if session else {})}
    return httpx.post(f"{here.base_url}/v1/messages", headers=headers, json={**BODY, **fields}, timeout=30)


def counts(upstreams: dict[str, ThreadedStandIn]) -> dict[str, int]:
    return {name: len(upstream.requests) for name, upstream in upstreams.items()}


def test_a_session_stays_at_one_target_and_sessions_spread_over_the_group() -> None:
    with three(Route("*", to=[list(NAMES)])) as (here, upstreams):
        homes: Counter[str] = Counter()
        for session in range(24):
            before = counts(upstreams)
            for _ in range(3):
                assert post(here, f"session-{session}").status_code == 200
            (home,) = [name for name, count in counts(upstreams).items() if count != before[name]]
            homes[home] += 1
        assert len(homes) == 3


def test_a_conversation_without_a_session_is_known_by_how_it_begins() -> None:
    with three(Route("*", to=[list(NAMES)])) as (here, upstreams):
        turns = [{"role": "user", "content": "Hello"}]
        for number in range(4):
            assert post(here, system=PROMPT, messages=turns).status_code == 200
            turns += [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": f"And {number}?"}]
        assert sorted(counts(upstreams).values()) == [0, 0, 4]


def test_a_target_whose_conversation_fails_over_gets_it_back_when_it_works_again() -> None:
    with three(Route("*", to=[list(NAMES)])) as (here, upstreams):
        post(here, "s")
        (home,) = [name for name, count in counts(upstreams).items() if count]
        upstreams[home].enqueue(error(500, "api_error", "no"))
        assert post(here, "s").status_code == 200
        assert here.account().attempts[0].target.provider == home
        assert post(here, "s").status_code == 200
        assert [attempt.target.provider for attempt in here.account().attempts] == [home]


def test_weights_share_the_load() -> None:
    group = [Target("one", weight=3), Target("two", weight=1)]
    with three(Route("*", to=[group], balance="weighted")) as (here, upstreams):
        for _ in range(80):
            assert post(here).status_code == 200
        shared = counts(upstreams)
        assert shared["three"] == 0
        assert 40 <= shared["one"] <= 75


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_target_is_left_alone_for_its_retry_after(form: str) -> None:
    until = formatdate(time.time() + 30, usegmt=True)
    wait = {"retry-after": "30" if form == "seconds" else until}
    with three(Route("*", to=["one", "two"])) as (here, upstreams):
        upstreams["one"].enqueue(error(429, "rate_limit_error", "Slow down", headers=wait))
        assert [post(here).status_code for _ in range(4)] == [200] * 4
        assert counts(upstreams) == {"one": 1, "two": 4, "three": 0}
        (one, two) = [state for state in here.messages.state().targets if state.target.provider != "three"]
        assert (one.state, one.reason, two.state) == ("down", "rate limited or overloaded", "up")
        assert one.retry_in is not None
        assert 20 < one.retry_in <= 30


def test_a_breaker_opens_after_five_failures_and_the_last_target_is_never_left_out() -> None:
    with three(Route("*", to=["one", "two"]), Route("only", to=["one"])) as (here, upstreams):
        upstreams["one"].always(error(500, "api_error", "no"))
        here.messages._revisions.current.gateway._upstreams.budget._floor = 100
        assert [post(here).status_code for _ in range(8)] == [200] * 8
        assert counts(upstreams)["one"] == 5
        assert post(here, model="only").status_code == 500
        assert counts(upstreams)["one"] == 6


def test_targets_that_are_all_full_are_a_529_and_one_that_is_not_gets_the_request() -> None:
    to = [Target("one", concurrency=1), Target("two", concurrency=1)]
    with three(Route("*", to=to)) as (here, upstreams):
        for name in ("one", "two"):
            upstreams[name].enqueue(hang())
        body = json.dumps(BODY).encode()
        sized = {"content-length": str(len(body)), "content-type": "application/json"}
        with upload(here, sized, body), upload(here, sized, body):
            wait_until(lambda: counts(upstreams) == {"one": 1, "two": 1, "three": 0}, "both are called")
            refused = post(here)
            assert (refused.status_code, refused.headers["retry-after"]) == (529, "1")
            assert refused.json()["error"]["type"] == "overloaded_error"
        wait_until(lambda: sum(state.in_flight for state in here.messages.state().targets) == 0, "both are over")
        assert post(here).status_code == 200


def test_a_full_target_gets_nothing_when_another_one_fails() -> None:
    with three(Route("*", to=[Target("one", concurrency=1), "two"]), Route("only", to=["two"])) as (here, upstreams):
        upstreams["one"].enqueue(hang())
        body = json.dumps(BODY).encode()
        with upload(here, {"content-length": str(len(body)), "content-type": "application/json"}, body):
            wait_until(lambda: counts(upstreams)["one"] == 1, "it is called")
            upstreams["two"].enqueue(error(529, "overloaded_error", "Overloaded"))
            assert post(here).status_code == 529
            assert counts(upstreams) == {"one": 1, "two": 1, "three": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_is_counted_until_it_is_over(stream: bool) -> None:
    with three(Route("*", to=["one", "two"])) as (here, _):
        assert post(here, stream=stream).status_code == 200
        (state,) = [one for one in here.messages.state().targets if one.target.provider == "one"]
        assert (state.in_flight, state.calls, state.failures) == (0, 1, 0)
        assert (state.first_byte is not None) is stream


@pytest.mark.parametrize("status", [200, 429])
def test_a_target_near_its_upstream_s_rate_limit_is_tried_after_the_others(status: int) -> None:
    family = "anthropic-ratelimit-requests-"
    soon = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {f"{family}limit": "100", f"{family}remaining": "2", f"{family}reset": soon}
    reply = error(429, "rate_limit_error", "Slow down", headers={**headers, "retry-after": "0"})
    if status == 200:
        reply = msgspec.structs.replace(text("Hello"), headers=tuple(headers.items()))
    with three(Route("*", to=["one", "two"])) as (here, upstreams):
        upstreams["one"].enqueue(reply)
        assert [post(here).status_code for _ in range(3)] == [200] * 3
        assert counts(upstreams) == {"one": 1, "two": 2 if status == 200 else 3, "three": 0}
        assert {one.target.provider: one.reason for one in here.messages.state().targets} == {
            "one": "less than 5 % of the upstream's rate limit is left",
            "two": "",
        }


def parameters(item: str) -> dict[str, str]:
    """The parameters of an item of structured fields."""
    return dict(part.split("=", 1) for part in item.split(";")[1:])


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_explains_the_route(stream: bool) -> None:
    with three(Route("claude-*", to=["one", Target("two", "claude-opus-4-8")]), route_header=True) as (here, upstreams):
        upstreams["one"].enqueue(error(529, "overloaded_error", "Overloaded"))
        reply = post(here, stream=stream)
        explained = re.fullmatch(
            r'route="claude-\*", attempts=\(("one".*) ("two".*)\), added=([0-9.]+)', reply.headers["bud-route"]
        )
        assert explained is not None, reply.headers["bud-route"]
        first, second = parameters(explained[1]), parameters(explained[2])
        assert (first["end"], first["status"]) == ("overloaded", "529")
        assert (second["model"], second["status"]) == ('"claude-opus-4-8"', "200")
        assert "end" not in second
        assert 0 < float(first["ms"]) <= float(explained[3]) < 10_000


def test_the_header_of_a_failure_has_all_attempts() -> None:
    with three(Route("*", to=["one", "two"]), route_header=True) as (here, upstreams):
        for name in ("one", "two"):
            upstreams[name].enqueue(error(529, "overloaded_error", "Overloaded"))
        reply = post(here)
        assert reply.status_code == 529
        assert reply.headers["bud-route"].count("end=overloaded;status=529") == 2


def test_the_header_names_whether_the_conversation_is_at_home() -> None:
    with three(Route("*", to=[list(NAMES)]), route_header=True) as (here, upstreams):
        assert "affinity=home" in post(here, "session").headers["bud-route"]
        (home,) = [name for name, count in counts(upstreams).items() if count]
        upstreams[home].enqueue(error(500, "api_error", "no"))
        assert "affinity=moved" in post(here, "session").headers["bud-route"]
        assert "affinity" not in post(here).headers["bud-route"]


def test_there_is_no_such_header_by_default() -> None:
    with three(Route("*", to=["one"])) as (here, _):
        assert "bud-route" not in post(here).headers


def test_no_request_that_was_refused_before_its_route_has_the_header() -> None:
    with three(Route("claude-*", to=["one"]), route_header=True) as (here, _):
        reply = post(here, model="another")
        assert (reply.status_code, "bud-route" in reply.headers) == (404, False)
