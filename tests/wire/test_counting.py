"""Counting tokens over real sockets: byte for byte both ways, refused like a message, recorded without usage."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from support.calls import BODY, HEADERS, KEY, MODEL, UPSTREAM_KEY
from support.gateway import Gateway, gateway, impatient, provider
from support.ports import nowhere

from bud_asgi import ApiKey, ApiKeys, Limit, Route, Target, hash_api_key
from bud_asgi.testing import (
    Reply,
    StandIn,
    ThreadedStandIn,
    empty,
    error,
    hang,
    html,
    json_body,
    reset_after_head,
    sse,
)

COUNT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
ODD = (
    b' {"messages":[ {"content":[{"text":"1e2 \xe2\x80\xa8 \\u00e9","type":"text"}],"role":"user"}],\n'
    b'"tools":[{"input_schema":{"type":"object","maximum":1E+2},"name":"t"}] ,"model" : "claude-haiku-4-5"} \r\n'
)
ANSWER = b'{ "input_tokens" : 2.1e1, "context_management":{"original_input_tokens":21}, "of_tomorrow":null}\n'


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """One pair for all tests without further options."""
    keys = [ApiKey(name="me", hash=hash_api_key(KEY), models=("claude-haiku-*", "house", "down-*"))]
    routes = [
        Route("house", to=[Target("anthropic", "claude-opus-5")]),
        Route("down-*", to=[Target("nowhere", MODEL), Target("anthropic", MODEL)]),
        Route("claude-*", to=["anthropic"]),
    ]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        providers = [provider(stand_in.base_url), provider(nowhere(), name="nowhere")]
        with gateway("", providers=providers, auth=ApiKeys(keys), routes=routes) as one:
            yield one, stand_in


def count(here: Gateway, body: Any = None, *, query: str = "", **headers: str) -> httpx.Response:
    """Ask for a count; `body` is JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps({**COUNT, **(body or {})}).encode()
    url = f"{here.base_url}/v1/messages/count_tokens{query}"
    return httpx.post(url, headers={**HEADERS, **headers}, content=content, verify=False)


@pytest.mark.parametrize("query", ["", "?beta=true"])
def test_bytes_are_unchanged_in_both_directions(here: Gateway, upstream: ThreadedStandIn, query: str) -> None:
    upstream.enqueue(json_body(ANSWER))
    reply = count(here, ODD, query=query, **{"anthropic-beta": "token-counting-2024-11-01"})
    assert reply.content == ANSWER
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(ANSWER))
    (seen,) = upstream.requests
    assert (seen.method, seen.target, seen.body) == (b"POST", b"/v1/messages/count_tokens", ODD)
    assert seen.header("anthropic-beta") == b"token-counting-2024-11-01"
    assert reply.headers["upstream-request-id"] == seen.request_id
    assert reply.headers["request-id"] == here.account().request_id


def test_only_a_mapped_model_is_replaced_in_place(here: Gateway, upstream: ThreadedStandIn) -> None:
    sent = ODD.replace(b'"claude-haiku-4-5"', b'"house"')
    assert count(here, sent).json()["input_tokens"] > 0
    assert upstream.requests[0].body == sent.replace(b'"house"', b'"claude-opus-5"')


BOOKED = {"as it is": ANSWER, "with the usage of a Message": b'{"input_tokens":5,"usage":{"input_tokens":5}}'}


@pytest.mark.parametrize("answer", BOOKED.values(), ids=BOOKED.keys())
def test_an_answer_is_accounted_for_without_usage(here: Gateway, upstream: ThreadedStandIn, answer: bytes) -> None:
    upstream.enqueue(json_body(answer))
    assert count(here).content == answer
    account = here.account()
    assert (account.operation, account.outcome, account.status) == ("messages.count_tokens", "answered", 200)
    assert account.usage is None
    assert [attempt.status for attempt in account.attempts] == [200]


REFUSED: dict[str, tuple[bytes, int, str, str]] = {
    "no JSON": (b"{", 400, "invalid_request_error", "The request body is not valid JSON: Input data was truncated"),
    "no model": (b'{"messages":[{}]}', 400, "invalid_request_error", "model: Field required"),
    "no messages": (b'{"model":"claude-haiku-4-5"}', 400, "invalid_request_error", "messages: Field required"),
    "a max_tokens that is none": (
        b'{"model":"claude-haiku-4-5","messages":[{}],"max_tokens":"1"}',
        400,
        "invalid_request_error",
        "max_tokens: Input should be a valid integer",
    ),
    "a key twice": (
        b'{"model":"claude-haiku-4-5","messages":[{}],"model":"house"}',
        400,
        "invalid_request_error",
        "The request body is not valid JSON: the key 'model' appears more than once",
    ),
    "an unknown model": (b'{"model":"gpt-x","messages":[{}]}', 404, "not_found_error", "model: gpt-x"),
    "a model of somebody else's": (
        b'{"model":"claude-opus-5","messages":[{}]}',
        403,
        "permission_error",
        "model: claude-opus-5 is not among the models that you may use",
    ),
}


@pytest.mark.parametrize(("body", "status", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_gateway_refuses(
    here: Gateway, upstream: ThreadedStandIn, body: bytes, status: int, kind: str, message: str
) -> None:
    reply = count(here, body)
    assert (reply.status_code, reply.json()["error"]) == (status, {"type": kind, "message": message})
    assert reply.json()["request_id"] == reply.headers["request-id"]
    assert here.account().outcome == "refused"
    assert upstream.requests == []


def test_it_requires_key_version_and_method_like_a_message(here: Gateway, upstream: ThreadedStandIn) -> None:
    url = f"{here.base_url}/v1/messages/count_tokens"
    assert httpx.post(url, json=COUNT).status_code == 401
    no_version = httpx.post(url, json=COUNT, headers={"x-api-key": KEY})
    assert no_version.json()["error"]["message"] == "anthropic-version: header is required"
    other = httpx.get(url, headers=HEADERS)
    assert (other.status_code, other.headers["allow"]) == (405, "POST")
    assert httpx.post(f"{url}/", json=COUNT, headers=HEADERS).status_code == 404
    assert upstream.requests == []


def test_a_count_is_never_streamed(here: Gateway, upstream: ThreadedStandIn) -> None:
    reply = count(here, {"stream": True})
    assert reply.json()["error"]["message"] == "stream: Extra inputs are not permitted"  # the upstream's word
    upstream.enqueue(sse(b"event: ping\ndata: {}\n\n"))
    reply = count(here)
    assert (reply.status_code, reply.json()["error"]["message"]) == (502, "The upstream's answer was not JSON.")


NO_COUNT = {"type": "not_found_error", "message": "The upstream of this model does not count tokens."}
UNCOUNTED: dict[str, Callable[[], Reply]] = {
    "a page": lambda: html(404),
    "nothing": lambda: empty(404),
    "another's error": lambda: json_body({"detail": "Not Found"}, status=404),
}


@pytest.mark.parametrize("fault", UNCOUNTED.values(), ids=UNCOUNTED.keys())
def test_an_upstream_that_does_not_count_is_a_404(
    here: Gateway, upstream: ThreadedStandIn, fault: Callable[[], Reply]
) -> None:
    upstream.enqueue(fault(), fault())
    reply = count(here)
    assert (reply.status_code, reply.json()["error"]) == (404, NO_COUNT)
    assert reply.json()["request_id"] == reply.headers["request-id"]
    assert reply.headers["x-should-retry"] == "false"
    assert here.account().attempts[0].status == 404
    assert here.post().status_code == 404


def test_what_the_upstream_refuses_passes_as_it_came(here: Gateway, upstream: ThreadedStandIn) -> None:
    told = b'{"type":"error", "error":{"type":"not_found_error","message":"model: x"},"request_id":"req_9"}'
    upstream.enqueue(
        json_body(told, status=404), error(429, "rate_limit_error", "Slow down", headers={"retry-after": "7"})
    )
    reply = count(here)
    assert (reply.status_code, reply.content) == (404, told)
    reply = count(here)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert here.account().outcome == "answered"


FAILED: dict[str, tuple[Callable[[], Reply], int]] = {
    "a page": (html, 502),
    "an empty answer": (empty, 502),
    "a page, 500": (lambda: html(500), 500),
    "a reset": (reset_after_head, 502),
    "silence": (hang, 504),
    "its credential is refused": (lambda: error(401, "authentication_error", f"no such key: {UPSTREAM_KEY}"), 502),
}


@pytest.mark.parametrize(("fault", "status"), FAILED.values(), ids=FAILED.keys())
def test_an_upstream_that_fails(
    here: Gateway, upstream: ThreadedStandIn, fault: Callable[[], Reply], status: int
) -> None:
    upstream.enqueue(fault())
    with impatient(here, fault()):
        reply = count(here)
    assert reply.status_code == status
    assert UPSTREAM_KEY not in reply.text
    assert here.account().outcome == "upstream_failed"


def test_where_nothing_was_begun_the_next_target_counts(here: Gateway, upstream: ThreadedStandIn) -> None:
    assert count(here, {"model": "down-1"}).json()["input_tokens"] > 0
    assert [attempt.target.provider for attempt in here.account().attempts] == ["nowhere", "anthropic"]
    assert upstream.requests[0].json()["model"] == MODEL


def test_counts_and_messages_have_buckets_of_their_own(upstream: ThreadedStandIn) -> None:
    limits = [Limit("requests", 2, 3600.0), Limit("requests", 3, 3600.0, per="all")]
    with gateway(upstream.base_url, limits=limits) as here:
        assert [count(here).status_code for _ in range(3)] == [200, 200, 429]
        assert [here.post(BODY).status_code for _ in range(3)] == [200, 200, 429]
        refused = count(here)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) > 1000
        assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert len(upstream.requests) == 4
