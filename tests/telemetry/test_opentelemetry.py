"""OpenTelemetry over real sockets: the spans and metrics of each way out of a request, by its own SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import httpx
import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from support.asgi import call, http_scope
from support.calls import BODY, HEADERS, MODEL
from support.captured import Captured
from support.gateway import impatient, provider
from support.sockets import raw_request, receive_until
from support.telemetry import Signals, attributes_of, context_of
from support.waiting import wait_until

from bud_asgi.testing import (
    Answer,
    cut_before_message_stop,
    error,
    error_first_event,
    error_mid_stream,
    hang,
    late,
    reset_before_head,
    text,
)
from telemetry.traced_stage import LIMITED, REPLY, Stage


def leave(stage: Stage) -> None:
    """A client that disconnects in the middle of a stream."""
    stage.upstreams[0].always(text("slow " * 200, delay=0.05))
    with raw_request(stage.here.base_url, json.dumps({**BODY, "stream": True}).encode()) as client:
        receive_until(client, b"content_block_delta")
    stage.here.account()


def refused(stage: Stage) -> None:
    """A second request of a caller that may send one."""
    for _ in range(2):
        stage.here.forget()
        stage.signals.exporter.clear()
        stage.post("solo", headers={"x-api-key": LIMITED})


def replies(stage: Stage, *answers: Answer, model: str = "solo", stream: bool = False) -> None:
    """One request, and what the upstreams reply, in their order."""
    for upstream, answer in zip(stage.upstreams, answers, strict=False):
        upstream.always(answer)
    with impatient(stage.here, *answers[: 1 if model == "solo" else 0]):
        stage.post(model, stream=stream)


class Case(msgspec.Struct, frozen=True):
    """What is done, and what is seen: name, status, outcome and error of the request; of each attempt end and error."""

    act: Callable[[Stage], object]
    name: str
    status: int | None
    outcome: str
    error: str | None
    attempts: Sequence[tuple[str, str, str | None]]


MESSAGES = "POST /v1/messages"
BUSY = error(529, "overloaded_error", "busy")

CASES = {
    "a JSON reply": Case(
        lambda s: replies(s, REPLY), MESSAGES, 200, "answered", None, [("chat solo", "answered", None)]
    ),
    "a stream": Case(
        lambda s: replies(s, REPLY, stream=True), MESSAGES, 200, "answered", None, [("chat solo", "answered", None)]
    ),
    "tokens counted": Case(
        lambda s: (
            httpx.post(f"{s.here.base_url}/v1/messages/count_tokens", json=BODY, headers=HEADERS),
            s.here.account(),
        ),
        "POST /v1/messages/count_tokens",
        200,
        "answered",
        None,
        [(f"count_tokens {MODEL}", "answered", None)],
    ),
    "the models": Case(lambda s: s.get("/v1/models"), "GET /v1/models", 200, "answered", None, []),
    "a model that is not there": Case(
        lambda s: s.get("/v1/models/claude-unheard-of"), "GET /v1/models/{model_id}", 404, "refused", None, []
    ),
    "no credential": Case(lambda s: s.post(headers={"x-api-key": "wrong"}), MESSAGES, 401, "refused", None, []),
    "no such path": Case(lambda s: s.get("/v1/files"), "GET", 404, "refused", None, []),
    "a method that is not served": Case(lambda s: s.get("/v1/messages", "PATCH"), "PATCH", 405, "refused", None, []),
    "an invalid request": Case(lambda s: s.post(stream="yes"), MESSAGES, 400, "refused", None, []),
    "a limit": Case(refused, MESSAGES, 429, "refused", None, []),
    "an error of the upstream": Case(
        lambda s: replies(s, error(400, "invalid_request_error", "no")),
        MESSAGES,
        400,
        "answered",
        None,
        [("chat solo", "refused", "invalid_request_error")],
    ),
    "an error of a type that is not known": Case(
        lambda s: replies(s, error(418, "teapot_secret", "no")),
        MESSAGES,
        418,
        "answered",
        None,
        [("chat solo", "refused", "refused")],
    ),
    "an upstream without capacity": Case(
        lambda s: replies(s, BUSY),
        MESSAGES,
        529,
        "answered",
        "overloaded_error",
        [("chat solo", "overloaded", "overloaded_error")],
    ),
    "a rejected credential": Case(
        lambda s: replies(s, error(401, "authentication_error", "no")),
        MESSAGES,
        502,
        "upstream_failed",
        "api_error",
        [("chat solo", "denied", "denied")],
    ),
    "a reset": Case(
        lambda s: replies(s, reset_before_head()),
        MESSAGES,
        502,
        "upstream_failed",
        "api_error",
        [("chat solo", "unknown", "unknown")],
    ),
    "a timeout": Case(
        lambda s: replies(s, hang()),
        MESSAGES,
        504,
        "upstream_failed",
        "timeout_error",
        [("chat solo", "unknown", "unknown")],
    ),
    "failover": Case(
        lambda s: replies(s, BUSY, REPLY, model="pair"),
        MESSAGES,
        200,
        "answered",
        None,
        [("chat m-1", "overloaded", "overloaded_error"), ("chat m-2", "answered", None)],
    ),
    "failover of a stream": Case(
        lambda s: replies(s, error_first_event("overloaded_error", "busy"), REPLY, model="pair", stream=True),
        MESSAGES,
        200,
        "answered",
        None,
        [("chat m-1", "overloaded", "overloaded_error"), ("chat m-2", "answered", None)],
    ),
    "hedging": Case(
        lambda s: replies(s, hang(), REPLY, model="hedged"),
        MESSAGES,
        200,
        "answered",
        None,
        [("chat m-1", "cancelled", None), ("chat m-2", "answered", None)],
    ),
    "hedging that was not needed": Case(
        lambda s: replies(s, late(0.1, REPLY), hang(), model="hedged", stream=True),
        MESSAGES,
        200,
        "answered",
        None,
        [("chat m-2", "cancelled", None), ("chat m-1", "answered", None)],
    ),
    "a stream that is cut": Case(
        lambda s: replies(s, cut_before_message_stop(), stream=True),
        MESSAGES,
        200,
        "upstream_failed",
        "api_error",
        [("chat solo", "broken", "broken")],
    ),
    "a stream that ends by an error": Case(
        lambda s: replies(s, error_mid_stream(), stream=True),
        MESSAGES,
        200,
        "upstream_failed",
        "overloaded_error",
        [("chat solo", "broken", "overloaded_error")],
    ),
    "a client that leaves": Case(leave, MESSAGES, 200, "client_gone", None, [(f"chat {MODEL}", "client_gone", None)]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_way_out_of_a_request_has_its_spans(stage: Stage, case: Case) -> None:
    case.act(stage)
    signals = stage.signals
    wait_until(lambda: len(signals.spans) == 1 + len(case.attempts), f"spans: {[s.name for s in signals.spans]}")
    assert_request(signals.request, case)
    assert [
        (span.name, attributes_of(span)["bud.attempt.end"], attributes_of(span).get("error.type"))
        for span in signals.attempts
    ] == case.attempts
    for span in signals.attempts:
        assert span.parent is not None
        assert span.parent.span_id == context_of(signals.request).span_id
        assert (span.status.status_code is StatusCode.ERROR) is ("error.type" in attributes_of(span))
        assert span.status.description is None
        assert span.events == ()
    exchange = stage.here.account()
    assert exchange.trace_id == f"{context_of(signals.request).trace_id:032x}"


def assert_request(span: ReadableSpan, case: Case) -> None:
    found = attributes_of(span)
    assert (span.name, span.kind, span.parent) == (case.name, SpanKind.SERVER, None)
    assert (found.get("http.response.status_code"), found["bud.outcome"]) == (case.status, case.outcome)
    assert found.get("error.type") == case.error
    assert span.status.status_code is (StatusCode.ERROR if case.error else StatusCode.UNSET)
    assert found["bud.attempts"] == len(case.attempts)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "bud_asgi"


def test_the_path_is_without_a_query_even_if_that_was_encoded(stage: Stage) -> None:
    stage.get("/v1/messages%3Fkey=CANARY?key=CANARY")
    assert str(attributes_of(stage.signals.request)["url.path"]).endswith("/v1/messages")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_an_attempt_has_the_attributes_of_the_conventions(stage: Stage, stream: bool) -> None:
    stage.post("pair", stream=stream)
    (span,) = stage.signals.attempts
    found = dict(attributes_of(span))
    assert found.pop("gen_ai.response.id").startswith("msg_")
    assert found.pop("bud.upstream_request_id").startswith("req_")
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk", 0.1) < 1
    streamed = {"gen_ai.request.stream": True} if stream else {}
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m-1",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ("end_turn",),
        "gen_ai.usage.input_tokens": 37,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.cache_creation.input_tokens": 10,
        "server.address": "127.0.0.1",
        "server.port": int(stage.upstreams[0].base_url.rpartition(":")[2]),
        "http.response.status_code": 200,
        "bud.target": "one/m-1",
        "bud.attempt.end": "answered",
        **streamed,
    }
    request = dict(attributes_of(stage.signals.request))
    assert request.pop("bud.request_id").startswith("req_")
    assert request == {
        "http.request.method": "POST",
        "http.route": "/v1/messages",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/llm/v1/messages",
        "bud.outcome": "answered",
        "bud.revision": 1,
        "bud.attempts": 1,
        "bud.model": "pair",
        "bud.route": "pair",
        "bud.target": "one/m-1",
    }


def test_a_method_that_http_does_not_have_is_shown_beside_its_class() -> None:
    signals = Signals()
    app = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer]).app
    asyncio.run(call(app, http_scope(method="BR\tEW")))
    found = attributes_of(signals.request)
    assert (signals.request.name, found["http.request.method"]) == ("HTTP", "_OTHER")
    assert found["http.request.method_original"] == "BR\\tEW"


def test_a_refused_request_names_the_limit(stage: Stage) -> None:
    refused(stage)
    assert attributes_of(stage.signals.request)["bud.refused_by"]
