"""The events of a request, on each way out of it: in order, each once, whatever an observer does."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.gateway import Gateway, gateway, impatient, messages_app, provider
from support.sockets import raw_request, receive_until
from support.waiting import wait_until

from bud_asgi import (
    Anthropic,
    ApiKeys,
    Attempt,
    AuthMiddleware,
    Exchange,
    Limit,
    Observer,
    Route,
    RouteTable,
    RoutingMiddleware,
    hash_api_key,
)
from bud_asgi.attempt import AttemptEnd
from bud_asgi.observer import Observers
from bud_asgi.telemetry import AccessLog
from bud_asgi.testing import (
    Answer,
    StandIn,
    ThreadedStandIn,
    cut_before_message_stop,
    error,
    error_first_event,
    hang,
    hang_mid_event,
    text,
)

UNREACHABLE = Anthropic(name="dead", base_url="http://127.0.0.1:1", api_key=UPSTREAM_KEY)
STREAM = {"stream": True}


class Recorder(Observer):
    """Notes each event of a request, with what is known at that moment."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.ended: list[tuple[str, AttemptEnd | None]] = []
        self.exchanges: list[Exchange] = []

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        assert scope["type"] == "http"
        self.events.append(f"started {exchange.operation}")

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        assert attempt is exchange.attempts[-1]
        assert attempt.ended is None
        self.events.append(f"attempt {attempt.target.provider}")

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        assert attempt in exchange.attempts
        assert attempt.ended is not None
        self.events.append(f"ended {attempt.target.provider} {attempt.end}")

    def response_started(self, exchange: Exchange) -> None:
        assert exchange.committed is not None
        self.events.append(f"response {exchange.status}")

    def settled(self, exchange: Exchange) -> None:
        assert exchange.ended is not None
        self.events.append(f"settled {exchange.outcome} {exchange.error_type}")
        self.exchanges.append(exchange)


class Broken(Observer):
    """Raises in every method."""

    def request_started(self, exchange: Exchange, scope: Scope) -> None:
        raise ValueError("started")

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        raise OSError("attempt started")

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        raise TimeoutError("attempt ended")

    def response_started(self, exchange: Exchange) -> None:
        raise RuntimeError("response")

    def settled(self, exchange: Exchange) -> None:
        raise KeyError("settled")


class Passing:
    """A middleware that answers one path by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if b"teapot" in dict(scope["headers"]).get(b"user-agent", b""):
            await send({"type": "http.response.start", "status": 418, "headers": []})
            await send({"type": "http.response.body", "body": b"short and stout"})
        else:
            await self.app(scope, receive, send)


STACK = [
    Middleware(Passing),
    Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key("sk-bud-the-callers-key")})),
    Middleware(RoutingMiddleware, router=RouteTable([Route("*", to=["anthropic"])])),
]


class Watched:
    """A gateway with a recorder behind an observer that always fails, and its upstream."""

    def __init__(self, here: Gateway, recorder: Recorder, upstream: ThreadedStandIn) -> None:
        self.here, self.recorder, self.upstream = here, recorder, upstream

    def events(self) -> list[str]:
        """The events of the only request, once it is settled."""
        wait_until(lambda: bool(self.recorder.exchanges), "the request is settled")
        return self.recorder.events


@pytest.fixture(scope="module")
def both() -> Generator[tuple[Watched, Watched]]:
    """An app with its own stages, and one with a stack of middleware."""
    one, other = Recorder(), Recorder()
    routes = [
        Route("claude-over-*", to=["dead", "anthropic"]),
        Route("claude-dead", to=["dead"]),
        Route("claude-*", to=["anthropic"]),
    ]
    limits = [Limit("requests", 1, window=3600.0, per="model")]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        providers = [provider(upstream.base_url), UNREACHABLE]
        options: dict[str, Any] = {"routes": routes, "limits": limits, "providers": providers}
        with (
            gateway("", observers=[Broken(), one], **options) as here,
            gateway("", observers=[Broken(), other], providers=providers[:1], middleware=STACK) as stacked,
        ):
            yield Watched(here, one, upstream), Watched(stacked, other, upstream)


def cleared(watched: Watched) -> Watched:
    """The same, without events of earlier tests."""
    watched.recorder.__init__()
    watched.upstream.requests.clear()
    watched.upstream._stand_in._queue.clear()
    return watched


@pytest.fixture
def watched(both: tuple[Watched, Watched]) -> Generator[Watched]:
    yield cleared(both[0])
    both[0].here.assert_nothing_open()


CREATED = "started messages.create"
SENT = [CREATED, "attempt anthropic"]
FAILED_OVER = [CREATED, "attempt dead", "ended dead not_sent", "attempt anthropic"]

WAYS: dict[str, tuple[dict[str, Any], Answer | None, list[str]]] = {
    "a message": (
        {},
        text("Hello"),
        [*SENT, "response 200", "ended anthropic answered", "settled answered None"],
    ),
    "a stream": (
        STREAM,
        text("Hello"),
        [*SENT, "response 200", "ended anthropic answered", "settled answered None"],
    ),
    "a model without a route": (
        {"model": "gpt-5"},
        None,
        [CREATED, "response 404", "settled refused not_found_error"],
    ),
    "an invalid body": (
        {"max_tokens": "many"},
        None,
        [CREATED, "response 400", "settled refused invalid_request_error"],
    ),
    "a refusal of the upstream": (
        {},
        error(400, "invalid_request_error", "no"),
        [*SENT, "ended anthropic refused", "response 400", "settled answered invalid_request_error"],
    ),
    "an unknown error type": (
        {},
        error(418, "teapot_error", "no"),
        [*SENT, "ended anthropic refused", "response 418", "settled answered teapot_error"],
    ),
    "an error in place of a stream": (
        STREAM,
        error_first_event("overloaded_error", "Overloaded"),
        [*SENT, "ended anthropic overloaded", "response 529", "settled answered overloaded_error"],
    ),
    "a stream that is cut": (
        STREAM,
        cut_before_message_stop(text("Hello")),
        [*SENT, "response 200", "ended anthropic broken", "settled upstream_failed api_error"],
    ),
    "an upstream that is silent": (
        {},
        hang(),
        [*SENT, "ended anthropic unknown", "response 504", "settled upstream_failed timeout_error"],
    ),
    "failover": (
        {"model": "claude-over-there"},
        text("Hello"),
        [*FAILED_OVER, "response 200", "ended anthropic answered", "settled answered None"],
    ),
    "an upstream that can't be reached": (
        {"model": "claude-dead"},
        None,
        [CREATED, "attempt dead", "ended dead not_sent", "response 502", "settled upstream_failed api_error"],
    ),
}
"""The fields of the request, the reply of the upstream, and the events."""


@pytest.mark.parametrize("name", WAYS)
def test_each_way_out_has_its_events(watched: Watched, name: str) -> None:
    fields, reply, expected = WAYS[name]
    if reply is not None:
        watched.upstream.enqueue(reply)
    fields = {"model": f"claude-{name.replace(' ', '-')}", **fields}
    with impatient(watched.here, *filter(None, [reply])):
        watched.here.post(fields)
    assert watched.events() == expected


def test_a_caller_without_a_key_and_a_path_without_an_operation(watched: Watched) -> None:
    watched.here.post(headers={})
    assert watched.events() == [CREATED, "response 401", "settled refused authentication_error"]
    cleared(watched)
    httpx.get(f"{watched.here.base_url}/v1/nothing")
    assert watched.events() == ["started None", "response 404", "settled refused not_found_error"]


def test_a_limit_and_the_models_api(watched: Watched) -> None:
    watched.here.post({"model": "claude-once"})
    watched.events()
    cleared(watched)
    watched.here.post({"model": "claude-once"})
    assert watched.events() == [CREATED, "response 429", "settled refused rate_limit_error"]
    cleared(watched)
    httpx.get(f"{watched.here.base_url}/v1/models", headers=HEADERS)
    assert watched.events() == ["started models.list", "response 200", "settled answered None"]


def test_health_checks_have_no_events(watched: Watched) -> None:
    httpx.get(f"{watched.here.base_url}/healthz")
    httpx.get(f"{watched.here.base_url}/readyz")
    assert watched.recorder.events == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves(watched: Watched, begun: bool) -> None:
    watched.upstream.enqueue(hang_mid_event() if begun else hang())
    body = json.dumps({**BODY, "model": f"claude-left-{begun}", **STREAM}).encode()
    with raw_request(watched.here.base_url, body) as client:
        watched.upstream.wait_requests()
        if begun:
            receive_until(client, b"message_start")
    ended = "ended anthropic client_gone"
    order = ["response 200", ended] if begun else [ended, "response 499"]
    assert watched.events() == [*SENT, *order, "settled client_gone None"]


def test_a_stream_counts_its_pieces_and_its_longest_gap(watched: Watched) -> None:
    watched.upstream.enqueue(text("one two three", delay=0.06))
    watched.here.post({"model": "claude-paced", **STREAM})
    watched.events()
    (exchange,) = watched.recorder.exchanges
    assert exchange.writes >= 3
    assert 0.03 < exchange.longest_gap < 1.0
    assert exchange.ended is not None
    assert exchange.started < exchange.last_write <= exchange.ended


def test_what_the_gateway_adds_leaves_out_body_and_upstream(watched: Watched) -> None:
    watched.upstream.enqueue(text("Hello", delay=0.2))
    body = json.dumps({**BODY, "model": "claude-slow"}).encode()

    def slowly() -> Generator[bytes]:
        yield body[:20]
        time.sleep(0.2)
        yield body[20:]

    lines = {**HEADERS, "content-length": str(len(body))}
    reply = httpx.post(f"{watched.here.base_url}/v1/messages", headers=lines, content=slowly())
    assert reply.status_code == 200
    watched.events()
    (exchange,) = watched.recorder.exchanges
    assert exchange.body_wait > 0.15
    assert exchange.added is not None
    assert 0 < exchange.added < 0.1


def test_a_stack_of_middleware_has_the_same_events(both: tuple[Watched, Watched]) -> None:
    watched = cleared(both[1])
    watched.here.post()
    assert watched.events() == [*SENT, "response 200", "ended anthropic answered", "settled answered None"]
    cleared(watched)
    watched.here.post(headers={**HEADERS, "user-agent": "a teapot"})
    assert watched.events() == [CREATED, "response 418", "settled refused None"]
    cleared(watched)
    watched.here.post(headers={})
    assert watched.events() == [CREATED, "response 401", "settled refused authentication_error"]


def test_observers_that_fail_are_logged_once_in_a_while(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.here.messages._observers._log_at = 0.0
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        for number in range(3):
            watched.here.post({"model": f"claude-often-{number}"})
        wait_until(lambda: len(watched.recorder.exchanges) == 3, "three requests are settled")
    (record,) = [record for record in caplog.records if "observer" in record.message]
    assert "Broken." in record.message
    assert record.exc_info is not None


def test_no_event_is_lost_while_observers_change() -> None:
    """A reload in another thread takes the access log out and puts it in again."""
    seen: list[bool] = []

    class Reading(Observer):
        def __getattribute__(self, name: str) -> Any:  # `settled` is read whenever the observers change
            if name == "settled":
                seen.append(bool(observers and observers.settled))
            return super().__getattribute__(name)

        def settled(self, exchange: Exchange) -> None: ...

    observers: Observers | None = None
    log = AccessLog()
    observers = Observers([Reading(), log])
    seen.clear()
    observers.remove(log)
    observers.add(log)
    assert seen
    assert all(seen)


def test_observers_must_be_observers() -> None:
    wrong: Any = Recorder
    with pytest.raises(ValueError, match=r"observers\[0\]: expected an Observer, got the class Recorder"):
        messages_app("http://127.0.0.1:1", observers=[wrong])
