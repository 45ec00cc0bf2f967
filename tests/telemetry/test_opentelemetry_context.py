"""Where the spans hang: below the host's, below the client's, and above those of what the request calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp
from support.asgi import Receiving, call, chunks, http_scope
from support.calls import BODY, HEADERS
from support.captured import Captured
from support.gateway import provider
from support.sockets import raw_request, receive_until
from support.telemetry import Signals, attributes_of, context_of
from support.waiting import wait_until

from bud_asgi import HostUser, OpenTelemetry
from bud_asgi.http import HttpReply, HttpRequest
from bud_asgi.protocol.errors import ShuttingDown
from bud_asgi.testing import error, hang, text
from telemetry.traced_stage import TRACEPARENT, Stage

TRACE_ID, SPAN_ID = (int(part, 16) for part in TRACEPARENT.split("-")[1:3])
STATE = "vendor=abc"


def send(app: ASGIApp, *, path: str = "/v1/messages", method: str = "POST", **headers: str) -> None:
    """Send one request in this process."""
    lines = [(name.encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]
    scope = http_scope(lines, path=path, method=method)
    asyncio.run(call(app, scope, Receiving(*chunks(json.dumps(BODY).encode()))))


def traceparents(stage: Stage, upstream: int = 0) -> list[bytes | None]:
    """What an upstream got as the `traceparent` of each request."""
    return [received.header("traceparent") for received in stage.upstreams[upstream].requests]


def header_of(span: ReadableSpan) -> bytes:
    """The `traceparent` that has this span as the parent."""
    found = context_of(span)
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}".encode()


def test_the_span_continues_the_trace_of_the_client(stage: Stage) -> None:
    stage.post(headers={"traceparent": TRACEPARENT, "tracestate": STATE})
    span = stage.signals.request
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE_ID, SPAN_ID, True)
    assert stage.here.account().trace_id == f"{TRACE_ID:032x}"
    assert context_of(span).trace_state.to_header() == STATE


@pytest.mark.parametrize("value", ["", "00-0-0-01", f"{TRACEPARENT}, {TRACEPARENT}", "\xff", f"ff{TRACEPARENT[2:]}"])
def test_an_invalid_trace_context_begins_a_new_trace(value: str) -> None:
    signals = Signals()
    app = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer]).app
    send(app, traceparent=value)
    assert signals.request.parent is None
    assert context_of(signals.request).trace_id != TRACE_ID


def test_each_attempt_sends_its_own_span_upstream(stage: Stage) -> None:
    stage.upstreams[0].always(error(529, "overloaded_error", "busy"))
    stage.post("pair", headers={"traceparent": TRACEPARENT, "tracestate": STATE})
    first, _ = stage.signals.attempts
    assert traceparents(stage) == [header_of(first)]
    assert stage.upstreams[0].requests[0].header("tracestate") == STATE.encode()
    assert traceparents(stage, 1) == [None], "a provider without trace_context"
    assert stage.upstreams[1].requests[0].header("tracestate") is None


def test_hedged_attempts_send_their_own_spans_upstream(stage: Stage) -> None:
    stage.upstreams[0].always(hang())
    stage.post("hedged")
    wait_until(lambda: len(stage.signals.spans) == 3, "three spans")
    cancelled, answered = stage.signals.attempts
    assert traceparents(stage) == [header_of(cancelled)]
    assert context_of(answered).trace_id == context_of(cancelled).trace_id


def test_without_a_span_the_headers_of_the_client_go_upstream() -> None:
    quiet = OpenTelemetry()  # no SDK is configured in this process
    captured = Captured(providers=[provider("http://127.0.0.1:1", trace_context=True)], observers=[quiet])
    captured.post(BODY, {"traceparent": TRACEPARENT, "tracestate": STATE})
    assert captured.headers["traceparent"] == TRACEPARENT
    assert captured.headers["tracestate"] == STATE
    captured.post(BODY)
    assert "traceparent" not in captured.headers
    assert quiet._traces == {}


@pytest.mark.parametrize("sampled", ["00", "01"])
def test_a_trace_that_is_not_sampled_is_continued_as_such(sampled: str) -> None:
    signals = Signals()
    captured = Captured(providers=[provider("http://127.0.0.1:1", trace_context=True)], observers=[signals.observer])
    captured.post(BODY, {"traceparent": TRACEPARENT[:-2] + sampled})
    assert captured.headers["traceparent"][-2:] == sampled
    assert captured.headers["traceparent"][3:35] == f"{TRACE_ID:032x}"
    assert captured.headers["traceparent"] != TRACEPARENT
    assert len(signals.spans) == (2 if sampled == "01" else 0)


STATES: dict[str, str | None] = {
    "a=1, ,b@c=2": "a=1,b@c=2",
    "": None,
    "a=b\tc": None,
    "CANARY\x85forged": None,
    "CANARY=" * 9000: None,
    ",".join(f"k{number}=v" for number in range(33)): None,
}


@pytest.mark.parametrize(("state", "kept"), STATES.items(), ids=[state[:9] for state in STATES])
def test_a_tracestate_is_continued_if_it_is_valid_and_never_logged(
    state: str, kept: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Signals().observer
    captured = Captured(providers=[provider("http://127.0.0.1:1", trace_context=True)], observers=[observer])
    captured.post(BODY, {"traceparent": TRACEPARENT, "tracestate": state})
    assert captured.headers.get("tracestate") == kept
    assert captured.headers["traceparent"][3:35] == f"{TRACE_ID:032x}"
    assert {record.name for record in caplog.records} == {"bud_asgi"}


def test_below_an_instrumented_host_the_span_is_an_internal_child() -> None:
    signals = Signals()
    app = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer]).app
    send(OpenTelemetryMiddleware(app, tracer_provider=signals.tracers), traceparent=TRACEPARENT)
    (server,) = (span for span in signals.spans if span.kind is SpanKind.SERVER)
    (ours,) = (span for span in signals.spans if span.name == "messages.create")
    assert ours.kind is SpanKind.INTERNAL
    assert ours.parent is not None
    assert ours.parent.span_id == context_of(server).span_id
    assert context_of(ours).trace_id == TRACE_ID
    assert [name for name in attributes_of(ours) if name.startswith(("http.request", "url."))] == []
    assert [span.name for span in signals.attempts] == ["chat claude-haiku-4-5"]


class Spanning(Captured):
    """An HTTP client that is instrumented: each request has a span."""

    def __init__(self, signals: Signals, **options: Any) -> None:
        self.tracer = signals.tracers.get_tracer("the host's")
        super().__init__(observers=[signals.observer], **options)

    async def send(self, request: HttpRequest) -> HttpReply:
        with self.tracer.start_as_current_span("a request of the host's client"):
            return await super().send(request)


def test_what_the_request_calls_has_its_spans_below_ours() -> None:
    signals = Signals()
    tracer = signals.tracers.get_tracer("the host's")

    def user(scope: Any) -> str:
        with tracer.start_as_current_span("a look-up of the host's"):
            return "ann"

    client = Spanning(signals, auth=HostUser(user), providers=[provider("http://127.0.0.1:1")])
    client.post(BODY)
    named = {span.name: span for span in signals.spans}
    parents = {name: span.parent and span.parent.span_id for name, span in named.items()}
    request, attempt = named["POST /v1/messages"], named["chat claude-haiku-4-5"]
    assert parents["a look-up of the host's"] == context_of(request).span_id
    assert parents["a request of the host's client"] == context_of(attempt).span_id
    assert parents["chat claude-haiku-4-5"] == context_of(request).span_id


async def test_the_context_of_the_host_is_current_again_afterwards() -> None:
    signals = Signals()
    app = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer]).app
    mark = context.set_value("mark", 1)
    token = context.attach(mark)
    await call(app, http_scope([(b"x-api-key", b"wrong")]), Receiving(*chunks(b"{}")))
    assert context.get_current() is mark
    assert not trace.get_current_span().get_span_context().is_valid
    context.detach(token)
    assert len(signals.spans) == 1


def test_a_request_during_a_drain_has_failed() -> None:
    signals = Signals()
    captured = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer])

    async def drained() -> None:
        async with captured.app.lifespan():
            await captured.app.drain(0)
            await call(captured.app, http_scope(()), Receiving(*chunks(b"{}")))

    asyncio.run(drained())
    found = attributes_of(signals.request)
    assert (found["http.response.status_code"], found["error.type"]) == (529, "overloaded_error")


def test_a_stream_that_a_drain_aborts_has_failed(stage: Stage) -> None:
    stage.upstreams[0].always(text("slow " * 100, delay=0.05))
    with raw_request(stage.here.base_url, json.dumps({**BODY, "stream": True}).encode()) as client:
        receive_until(client, b"content_block_delta")
        ((loop, (resources, _)),) = stage.here.messages._loops._by_loop.items()
        (request,) = resources.in_flight.values()
        loop.call_soon_threadsafe(request.abort, ShuttingDown())
        stage.here.account()
    request_span, (attempt,) = stage.signals.request, stage.signals.attempts
    found = attributes_of(request_span)
    assert (found["http.response.status_code"], found["bud.outcome"]) == (200, "cancelled")
    assert found["error.type"] == "overloaded_error"
    assert attributes_of(attempt)["bud.attempt.end"] == "cancelled"
    assert request_span.status.status_code is StatusCode.ERROR
