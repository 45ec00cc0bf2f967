"""The headers of a caller's own limits: on replies, on the upstream's errors, and on refusals."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping
from datetime import datetime

import pytest
from starlette.middleware import Middleware
from support.limited import AwaitingStore, Limited, encoded, limited, stopped, user

from bud_asgi import AuthMiddleware, Limit, MemoryStore, RateLimitMiddleware
from bud_asgi.protocol.estimate import estimated_input
from bud_asgi.testing import Reply, error, error_first_event, hang, text

FAMILIES = ("requests", "input-tokens", "output-tokens", "tokens")
AMOUNTS = {"requests": 60, "input-tokens": 6000, "output-tokens": 600, "tokens": 12000}
UPSTREAMS = {f"anthropic-ratelimit-{family}-remaining": "1" for family in FAMILIES}
"""What an upstream reports of the operator's account."""


@pytest.fixture(scope="module", params=["memory", "a store that awaits"])
def here(request: pytest.FixtureRequest) -> Generator[Limited]:
    limits = [
        Limit("requests", 60),
        Limit("requests", 1000, 3600.0),
        Limit("input_tokens", 6000),
        Limit("output_tokens", 600),
        Limit("tokens", 12000),
        Limit("requests", 7, per="all", models=("never-*",)),
        Limit("tokens", 10, mode="observe"),
        Limit("concurrent", 100),
    ]
    store = MemoryStore(clock=stopped) if request.param == "memory" else AwaitingStore(clock=stopped)
    with limited(*limits, store=store) as one:
        yield one


REPLIES: dict[str, tuple[Reply, bool, int]] = {
    "json": (text("Hello"), False, 200),
    "a stream": (text("Hello"), True, 200),
    "an upstream's 400": (error(400, "invalid_request_error", "no", headers=UPSTREAMS), False, 400),
    "an upstream's 429": (error(429, "rate_limit_error", "slow down", headers=UPSTREAMS), False, 429),
    "an upstream's 529": (error(529, "overloaded_error", "Overloaded", headers=UPSTREAMS), True, 529),
    "an error in place of a stream": (error_first_event("overloaded_error", "Overloaded"), True, 529),
}


@pytest.mark.parametrize(("reply", "streaming", "status"), REPLIES.values(), ids=REPLIES.keys())
def test_each_reply_has_the_headers_of_each_family(
    here: Limited, request: pytest.FixtureRequest, reply: Reply, streaming: bool, status: int
) -> None:
    caller = re.sub(r"\W+", "-", request.node.name)
    body = encoded(model=f"claude-{caller}", stream=streaming, max_tokens=100)
    here.upstream.enqueue(reply)
    answer = here.post(caller, body)
    assert answer.status_code == status
    taken = estimated_input(body).input_tokens or 0
    used = {"requests": 1, "input-tokens": taken, "output-tokens": 100, "tokens": taken + 100}
    for family in FAMILIES:
        check_family(answer.headers, family, AMOUNTS[family] - used[family])
        assert len(answer.headers.get_list(f"anthropic-ratelimit-{family}-remaining")) == 1


def check_family(headers: Mapping[str, str], family: str, remaining: int) -> None:
    name = f"anthropic-ratelimit-{family}"
    assert headers[f"{name}-limit"] == str(AMOUNTS[family])
    assert headers[f"{name}-remaining"] == str(remaining)
    full_in = datetime.fromisoformat(headers[f"{name}-reset"]).timestamp() - time.time()
    expected = 60.0 * (AMOUNTS[family] - remaining) / AMOUNTS[family]
    assert expected - 1.0 <= full_in <= expected + 1.5


def test_a_refusal_has_them_too(here: Limited) -> None:
    here.upstream.enqueue(hang())
    here.upstream.requests.clear()
    with here.began("large", encoded(model="claude-large", max_tokens=590)):
        here.upstream.wait_requests()
        refused = here.post("large", max_tokens=100)
    assert refused.status_code == 429
    assert "of 600 output tokens per minute" in refused.json()["error"]["message"]
    check_family(refused.headers, "output-tokens", 10)
    assert {f"anthropic-ratelimit-{family}-limit" for family in FAMILIES} <= refused.headers.keys()


def test_count_tokens_has_those_of_its_requests_only(here: Limited) -> None:
    headers = here.count("counter").headers
    check_family(headers, "requests", 59)
    assert not [name for name in headers if "tokens" in name]


@pytest.mark.parametrize(("outer", "inner"), [(3, 9), (9, 3)], ids=["outer", "inner"])
def test_behind_another_limiter_the_tightest_limit_of_a_kind_is_reported_once(outer: int, inner: int) -> None:
    layers = ([Limit("requests", outer), Limit("requests", 100, per="all")], [Limit("requests", inner)])
    stack = [
        Middleware(AuthMiddleware, backend=user()),
        *[Middleware(RateLimitMiddleware, limits=limits, store=AwaitingStore(clock=stopped)) for limits in layers],
    ]
    with limited(middleware=stack) as one:
        replies = [one.post("ann") for _ in range(4)]
    for left, reply in zip((2, 1, 0, 0), replies, strict=True):
        names = [name for name in reply.headers if "ratelimit-requests" in name]
        assert reply.headers.get_list("anthropic-ratelimit-requests-limit") == ["3"]
        assert reply.headers.get_list("anthropic-ratelimit-requests-remaining") == [str(left)]
        assert (reply.status_code, len(names)) == (429 if reply is replies[3] else 200, 3)
