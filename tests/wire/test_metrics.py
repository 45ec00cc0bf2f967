"""The metrics on each way out of a request, as a Prometheus server scrapes and parses them."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.routing import Route as HostRoute
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.gateway import messages_app, provider
from support.scrapes import OPENMETRICS, Samples, counted, read_samples, scrape, total
from support.serving import serving
from support.sockets import raw_request, receive_until
from support.waiting import wait_until

from bud_asgi import Anthropic, Limit, MessagesApp, Route, Target
from bud_asgi.testing import (
    Answer,
    StandIn,
    ThreadedStandIn,
    cut_before_message_stop,
    eof_before_head,
    error,
    error_first_event,
    hang,
    hang_mid_event,
    text,
)

UNREACHABLE = Anthropic(name="dead", base_url="http://127.0.0.1:1", api_key=UPSTREAM_KEY)
STREAM = {"stream": True}
ROUTES = [
    Route("claude-over-*", to=["dead", "anthropic"]),
    Route("claude-dead", to=["dead"]),
    Route("claude-fixed", to=[Target("anthropic", "claude-haiku-4-5")]),
    Route("claude-*", to=["anthropic"]),
]


class Scraped:
    """A gateway whose metrics are scraped, and its upstream."""

    def __init__(self, url: str, messages: MessagesApp, upstream: ThreadedStandIn) -> None:
        self.url, self.messages, self.upstream = url, messages, upstream
        self.before: Samples = {}

    def clear(self) -> None:
        self.upstream.requests.clear()
        self.upstream._stand_in._queue.clear()
        self.before = self.scrape()

    def scrape(self) -> Samples:
        return scrape(f"{self.url}/metrics")

    def post(self, fields: dict[str, Any], *, headers: dict[str, str] | None = None) -> httpx.Response:
        lines = HEADERS if headers is None else headers
        return httpx.post(f"{self.url}/llm/v1/messages", headers=lines, json={**BODY, **fields}, timeout=30)

    def counted(self, requests: int = 1) -> dict[str, float]:
        """What has been counted since `clear`, once so many requests have ended."""
        name, ended = "bud_requests_total", total(self.before, "bud_requests_total") + requests
        wait_until(lambda: total(self.scrape(), name) >= ended, "the requests are counted")
        found = counted(self.before, self.scrape())
        return {name: value for name, value in found.items() if not name.startswith(("loop_lag", "longest_gap"))}


@pytest.fixture(scope="module")
def running() -> Generator[Scraped]:
    limits = [
        Limit("requests", 1, window=3600.0, per="model", models=("claude-once",)),
        Limit("requests", 1, window=3600.0, per="model", models=("claude-seen",), mode="observe"),
    ]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        providers = [provider(upstream.base_url), UNREACHABLE]
        messages = messages_app("", providers=providers, routes=ROUTES, limits=limits)
        host = Starlette(routes=[HostRoute("/metrics", messages.metrics()), Mount("/mounted", messages.metrics())])
        messages.install(host, "/llm")
        with serving(host) as url:
            yield Scraped(url, messages, upstream)


@pytest.fixture
def scraped(running: Scraped) -> Scraped:
    running.clear()
    return running


Counted = dict[str, float]


def ended(outcome: str, route: str, target: str, *, stream: bool = False) -> Counted:
    """What each request counts that had an attempt; `outcome` is with the status."""
    streamed = "true" if stream else "false"
    return {
        f"requests_total messages.create {outcome} {route} {target}": 1,
        f"request_duration_seconds_count messages.create {streamed} {route}": 1,
        **({"added_seconds_count messages.create": 1} if target != "none" else {}),
    }


def answered(route: str = "claude-*", target: str = "anthropic", *, words: int = 1, stream: bool = False) -> Counted:
    """What a request counts that got its message, of so many words."""
    return {
        **ended("answered 200", route, target, stream=stream),
        f"attempts_total {target} answered": 1,
        f"time_to_first_event_seconds_count {target} {'true' if stream else 'false'}": 1,
        f"tokens_total input {route} {target}": 6,
        f"tokens_total output {route} {target}": words,
    }


def error_of(kind: str) -> Counted:
    return {f"errors_total messages.create {kind}": 1}


WAYS: dict[str, tuple[dict[str, Any], Answer | None, Counted]] = {
    "a message": ({}, text("Hello"), answered()),
    "a stream": (STREAM, text("Hello you two"), answered(words=3, stream=True)),
    "a configured model": (
        {"model": "claude-fixed"},
        text("Hello"),
        answered("claude-fixed", "anthropic/claude-haiku-4-5"),
    ),
    "a model without a route": (
        {"model": "gpt-5"},
        None,
        {**ended("refused 404", "none", "none"), **error_of("not_found_error")},
    ),
    "an invalid body": (
        {"max_tokens": "many"},
        None,
        {**ended("refused 400", "claude-*", "none"), **error_of("invalid_request_error")},
    ),
    "a refusal of the upstream": (
        {},
        error(400, "invalid_request_error", "no"),
        {
            **ended("answered 400", "claude-*", "anthropic"),
            **error_of("invalid_request_error"),
            "attempts_total anthropic refused": 1,
        },
    ),
    "an unknown error type and status": (
        {},
        error(418, "teapot_error", "no"),
        {
            **ended("answered 4xx", "claude-*", "anthropic"),
            **error_of("other"),
            "attempts_total anthropic refused": 1,
        },
    ),
    "an error in place of a stream": (
        STREAM,
        error_first_event("overloaded_error", "Overloaded"),
        {
            **ended("answered 529", "claude-*", "anthropic", stream=True),
            **error_of("overloaded_error"),
            "attempts_total anthropic overloaded": 1,
            "time_to_first_event_seconds_count anthropic true": 1,
        },
    ),
    "a stream that is cut": (
        STREAM,
        cut_before_message_stop(text("Hello")),
        {
            **ended("upstream_failed 200", "claude-*", "anthropic", stream=True),
            **error_of("api_error"),
            "attempts_total anthropic broken": 1,
            "time_to_first_event_seconds_count anthropic true": 1,
            "tokens_total input claude-* anthropic": 6,
            "tokens_total output claude-* anthropic": 1,
        },
    ),
    "an upstream that closes the connection": (
        {},
        eof_before_head(),
        {
            **ended("upstream_failed 502", "claude-*", "anthropic"),
            **error_of("api_error"),
            "attempts_total anthropic unknown": 1,
            "tokens_total input claude-* anthropic": 34,
        },
    ),
    "failover": (
        {"model": "claude-over-there"},
        text("Hello"),
        {**answered("claude-over-*"), "attempts_total dead not_sent": 1},
    ),
    "an upstream that can't be reached": (
        {"model": "claude-dead"},
        None,
        {
            **ended("upstream_failed 502", "claude-dead", "dead"),
            **error_of("api_error"),
            "attempts_total dead not_sent": 1,
        },
    ),
}
"""The fields of the request, the reply of the upstream, and what is counted, but for what depends on the time."""


@pytest.mark.parametrize("name", WAYS)
def test_each_way_out_is_counted(scraped: Scraped, name: str) -> None:
    fields, reply, expected = WAYS[name]
    if reply is not None:
        scraped.upstream.enqueue(reply)
    scraped.post({"model": f"claude-{name.replace(' ', '-')}", **fields})
    assert scraped.counted() == expected


def test_a_caller_without_a_key_and_a_path_without_an_operation(scraped: Scraped) -> None:
    scraped.post({}, headers={})
    httpx.get(f"{scraped.url}/llm/v1/nothing?model=claude-x")
    httpx.get(f"{scraped.url}/llm/readyz")
    assert scraped.counted(2) == {
        **ended("refused 401", "none", "none"),
        **error_of("authentication_error"),
        "requests_total none refused 404 none none": 1,
        "request_duration_seconds_count none false none": 1,
        "errors_total none not_found_error": 1,
    }


def test_a_limit_that_refuses_and_one_that_observes(scraped: Scraped) -> None:
    for model in ("claude-once", "claude-once", "claude-seen", "claude-seen"):
        scraped.post({"model": model})
    found = scraped.counted(4)
    assert found["limit_refusals_total 1 request per hour model enforce"] == 1
    assert found["limit_refusals_total 1 request per hour model observe"] == 1
    assert found["requests_total messages.create refused 429 claude-* none"] == 1
    assert found["requests_total messages.create answered 200 claude-* anthropic"] == 3


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves(scraped: Scraped, begun: bool) -> None:
    scraped.upstream.enqueue(hang_mid_event() if begun else hang())
    body = json.dumps({**BODY, "model": "claude-left", **STREAM}).encode()
    with raw_request(f"{scraped.url}/llm", body) as client:
        scraped.upstream.wait_requests()
        if begun:
            receive_until(client, b"message_start")
        assert total(scraped.scrape(), "bud_requests_in_flight") == 1
        assert total(scraped.scrape(), "bud_streams_in_flight") == begun
    found = scraped.counted()
    status = "200" if begun else "499"
    assert found[f"requests_total messages.create client_gone {status} claude-* anthropic"] == 1
    assert found["attempts_total anthropic client_gone"] == 1
    assert total(scraped.scrape(), "bud_requests_in_flight") == 0


def test_times_are_in_seconds_and_in_the_right_buckets(scraped: Scraped) -> None:
    scraped.upstream.enqueue(text("one two three", delay=0.06))
    scraped.post({"model": "claude-paced", **STREAM})
    scraped.counted()
    after = scraped.scrape()
    gaps = total(after, "bud_longest_gap_seconds_sum") - total(scraped.before, "bud_longest_gap_seconds_sum")
    took = total(after, "bud_request_duration_seconds_sum") - total(scraped.before, "bud_request_duration_seconds_sum")
    assert 0.03 < gaps < took < 30


def test_both_formats_have_the_same_samples(scraped: Scraped) -> None:
    for path in ("metrics", "mounted/"):
        as_text, as_openmetrics = (scrape(f"{scraped.url}/{path}", openmetrics=kind) for kind in (False, True))
        assert as_text.keys() == as_openmetrics.keys()


def test_only_get_and_head_are_answered(scraped: Scraped) -> None:
    url = f"{scraped.url}/metrics"
    reply = httpx.post(url)
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")
    head = httpx.head(url, headers={**OPENMETRICS, "accept-encoding": "identity"})
    assert head.headers["content-type"].startswith("application/openmetrics-text")
    assert int(head.headers["content-length"]) > 1000
    assert head.content == b""
    assert "content-encoding" not in head.headers


def test_an_accept_header_that_cannot_be_read_gets_the_text_format(scraped: Scraped) -> None:
    reply = httpx.get(f"{scraped.url}/metrics", headers={"accept": "application/openmetrics-text; version=abc"})
    assert (reply.status_code, reply.headers["content-type"][:10]) == (200, "text/plain")


def test_streams_and_scrapes_at_the_same_time(scraped: Scraped) -> None:
    for _ in range(12):
        scraped.upstream.enqueue(text("one two three four", delay=0.05))
    with ThreadPoolExecutor(16) as threads:
        streams = [threads.submit(scraped.post, {"model": "claude-many", **STREAM}) for _ in range(12)]
        scrapes = [threads.submit(scraped.scrape) for _ in range(8)]
        assert all(stream.result().status_code == 200 for stream in streams)
        begun = [total(samples.result(), "bud_streams_in_flight") for samples in scrapes]
    assert max(begun) <= 12
    assert scraped.counted(12)["requests_total messages.create answered 200 claude-* anthropic"] == 12


async def test_a_drain(scraped: Scraped) -> None:
    """In this event loop, with an app of its own."""
    scraped.upstream.enqueue(hang_mid_event())
    messages = messages_app(scraped.upstream.base_url)
    metrics = httpx.AsyncClient(transport=httpx.ASGITransport(messages.metrics()), base_url="http://host")
    client = httpx.AsyncClient(transport=messages.transport("me"), base_url="http://gateway", headers=HEADERS)
    async with metrics, client:
        async with client.stream("POST", "/v1/messages", json={**BODY, **STREAM}) as stream:
            events = stream.aiter_bytes()
            assert b"message_start" in await anext(events)
            await messages.drain(0)
            assert b"overloaded_error" in b"".join([event async for event in events])
        assert (await client.post("/v1/messages", json=BODY)).status_code == 529
        found = counted({}, read_samples((await metrics.get("/")).text))
    assert found["requests_total messages.create cancelled 200 * anthropic"] == 1
    assert found["attempts_total anthropic cancelled"] == 1
    assert found["requests_total messages.create refused 529 none none"] == 1
    assert found["errors_total messages.create overloaded_error"] == 2
    await messages._loops.aclose()
