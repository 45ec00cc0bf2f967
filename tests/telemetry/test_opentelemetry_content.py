"""What OpenTelemetry gets of prompts, completions and credentials: nothing, unless the host captures content."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.semconv._incubating.attributes import (  # pyright: ignore[reportMissingTypeStubs]
    gen_ai_attributes as names,
)
from support.asgi import Receiving, call, chunks, http_scope
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.captured import Captured
from support.gateway import provider
from support.telemetry import Signals, attributes_of

from bud_asgi import ApiKey, ApiKeys, OpenTelemetry, hash_api_key
from bud_asgi.options import OptionError
from bud_asgi.telemetry.opentelemetry import Content
from bud_asgi.testing import cut_before_message_stop, error, error_mid_stream, json_body, text, thinking, tool_use
from telemetry.traced_stage import Stage, traced_stage

CANARY = "canary-4711"
HEADERS_WITH_CANARIES = {
    name: f"{CANARY}-{name}"
    for name in (
        "authorization",
        "cookie",
        "user-agent",
        "referer",
        "origin",
        "x-forwarded-for",
        "forwarded",
        "anthropic-beta",
        "anthropic-user-profile-id",
        "anthropic-workspace-id",
        "baggage",
        "tracestate",
        "bud-hops",
        "x-request-id",
        "x-anything",
    )
}
TOOL = {"name": f"{CANARY}_tool", "description": CANARY, "input_schema": {"type": "object", "title": CANARY}}
REQUEST: dict[str, Any] = {
    "system": f"{CANARY} system",
    "messages": [
        {"role": "user", "content": f"{CANARY} prompt"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": CANARY, "input": {"q": CANARY}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": CANARY}]},
    ],
    "tools": [
        TOOL,
        {"type": "web_search_20250305", "name": "web_search", "blocked_domains": [CANARY]},
        {"type": "mcp_toolset", "mcp_server_name": "files"},
    ],
    "metadata": {"user_id": CANARY},
    "stop_sequences": [CANARY],
    "container": CANARY,
    "unknown_field": {CANARY: CANARY},
}
REPLIES = [
    text(CANARY, stop_reason="stop_sequence"),
    thinking(CANARY, CANARY),
    tool_use(CANARY, {CANARY: CANARY}),
    error(400, CANARY, CANARY),
    error(529, "overloaded_error", CANARY),
    error(401, "authentication_error", CANARY),
    error_mid_stream(CANARY),
    json_body({CANARY: CANARY}),
    cut_before_message_stop(),
]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_no_content_and_no_credential_reaches_a_signal(stage: Stage, stream: bool) -> None:
    for reply in REPLIES:
        stage.upstreams[0].always(reply)
        stage.upstreams[1].always(reply)
        stage.here.post({"model": "pair", "stream": stream, **REQUEST}, headers={**HEADERS, **HEADERS_WITH_CANARIES})
        stage.here.post({"stream": stream, **REQUEST}, headers={**HEADERS, "x-api-key": CANARY}, params={"q": CANARY})
    stage.here.accounts(2 * len(REPLIES))
    signals = stage.signals.everything()
    assert len(stage.signals.attempts) >= len(REPLIES)
    for secret in (CANARY, KEY, UPSTREAM_KEY):
        assert secret not in signals


def test_the_caller_is_named_only_if_the_host_wants_it() -> None:
    keys = ApiKeys([ApiKey(name="ann", team="red", hash=hash_api_key(KEY))])
    for principal in (False, True):
        signals = Signals(principal=principal)
        Captured(auth=keys, providers=[provider("http://127.0.0.1:1")], observers=[signals.observer]).post(BODY)
        caller = {name: value for name, value in attributes_of(signals.request).items() if "principal" in name}
        assert caller == ({"bud.principal.id": "ann", "bud.principal.team": "red"} if principal else {})
        assert ("ann" in signals.everything()) is principal


def unchanged(content: Content) -> Content:
    """Record all of it."""
    return content


def captured_content(stage: Stage) -> dict[str, Any]:
    """The content of the only attempt, decoded."""
    (span,) = stage.signals.attempts
    found = attributes_of(span)
    wanted = (
        names.GEN_AI_INPUT_MESSAGES,
        names.GEN_AI_OUTPUT_MESSAGES,
        names.GEN_AI_SYSTEM_INSTRUCTIONS,
        names.GEN_AI_TOOL_DEFINITIONS,
    )
    return {name.removeprefix("gen_ai."): json.loads(found[name]) for name in wanted if name in found}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_captured_content_has_the_form_of_the_conventions(stream: bool) -> None:
    with traced_stage(Signals(capture=unchanged)) as stage:
        stage.reset()
        stage.upstreams[0].always(tool_use("look_up", {"q": "é"}, text="Let me look."))
        stage.post("solo", stream=stream, **REQUEST)
        found = captured_content(stage)
        stage.reset()
        stage.upstreams[0].always(thinking("Hm.", "Done."))
        stage.post("solo", stream=stream)
        again = captured_content(stage)
    call_id = found["output.messages"][0]["parts"][1].pop("id")
    assert call_id.startswith("toolu_")
    assert found == {
        "system_instructions": [{"type": "text", "content": f"{CANARY} system"}],
        "input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": f"{CANARY} prompt"}]},
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "t1", "name": CANARY, "arguments": {"q": CANARY}}],
            },
            {"role": "user", "parts": [{"type": "tool_call_response", "id": "t1", "response": CANARY}]},
        ],
        "tool.definitions": [
            {"type": "function", "name": TOOL["name"], "description": CANARY, "parameters": TOOL["input_schema"]},
            {"type": "web_search_20250305", "name": "web_search"},
            {"type": "mcp_toolset", "name": "files"},
        ],
        "output.messages": [
            {
                "role": "assistant",
                "parts": [
                    {"type": "text", "content": "Let me look."},
                    {"type": "tool_call", "name": "look_up", "arguments": {"q": "é"}},
                ],
                "finish_reason": "tool_use",
            }
        ],
    }
    assert [part["type"] for part in again["output.messages"][0]["parts"]] == ["reasoning", "text"]
    assert "system_instructions" not in again


def test_the_function_of_the_host_decides_what_is_recorded() -> None:
    def redact(content: Content) -> Content:
        content.output_messages = []
        content.system_instructions = [{"type": "text", "content": "[removed]"}]
        content.tool_definitions = []
        content.input_messages = [{"role": one["role"], "parts": []} for one in content.input_messages]
        return content

    with traced_stage(Signals(capture=redact)) as stage:
        stage.reset()
        stage.upstreams[0].always(text(CANARY))
        stage.post("solo", stream=True, **REQUEST)
        assert set(captured_content(stage)) == {"input.messages", "system_instructions"}
        assert CANARY not in stage.signals.everything()


def refuse(_content: Content) -> Content | None:
    """Record nothing."""
    return None


def fail(content: Content) -> Content:
    """Raise an error that contains what was to be removed."""
    raise KeyError(content.input_messages[0]["parts"][0]["content"])


@pytest.mark.parametrize("capture", [refuse, fail])
def test_what_is_not_returned_is_not_recorded(capture: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    signals = Signals(capture=capture)
    captured = Captured(providers=[provider("http://127.0.0.1:1")], observers=[signals.observer])
    captured.post({**BODY, **REQUEST})
    assert CANARY not in signals.everything()
    assert CANARY not in caplog.text
    assert ("raised KeyError" in caplog.text) is (capture is fail)
    assert len(signals.spans) == 2


def test_a_reply_that_is_too_long_is_not_captured(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from bud_asgi.telemetry.opentelemetry import content

    monkeypatch.setattr(content, "MAX_CAPTURED", 1000)
    with traced_stage(Signals(capture=unchanged)) as own:
        own.reset()
        own.upstreams[0].always(text("long " * 1000))
        own.post("solo", stream=True)
        assert set(captured_content(own)) == {"input.messages"}


class Broken(SpanExporter):
    """An exporter that fails."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("the collector is gone")


class BrokenProcessor(SpanProcessor):
    """A processor that fails at one event of a span."""

    def __init__(self, event: str) -> None:
        self._event = event

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._fail("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end")

    def _fail(self, event: str) -> None:
        if event == self._event:
            raise RuntimeError("a processor of the host's")


@pytest.mark.parametrize("processor", [SimpleSpanProcessor(Broken()), BrokenProcessor("start"), BrokenProcessor("end")])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_broken_exporter_changes_nothing_for_the_client(processor: SpanProcessor, stream: bool) -> None:
    tracers = TracerProvider()
    tracers.add_span_processor(processor)
    observer = OpenTelemetry(tracer_provider=tracers)
    captured = Captured(providers=[provider("http://127.0.0.1:1")], observers=[observer])
    assert captured.post({**BODY, "stream": stream}).status == 502
    assert observer._traces == {}


async def test_without_an_sdk_nothing_happens() -> None:
    observer = OpenTelemetry(capture=fail)
    app = Captured(providers=[provider("http://127.0.0.1:1")], observers=[observer]).app
    scope = http_scope([(name.encode(), value.encode()) for name, value in HEADERS.items()])
    await call(app, scope, Receiving(*chunks(json.dumps(BODY).encode())))
    assert scope["bud_asgi.exchange"].trace_id is None
    assert observer._traces == {}
    assert asyncio.current_task() is not None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tracer_provider": 1}, "tracer_provider: expected a TracerProvider of OpenTelemetry, got 1"),
        ({"meter_provider": "x"}, 'meter_provider: expected a MeterProvider of OpenTelemetry, got "x"'),
        ({"principal": 1}, "principal: expected true or false, got 1"),
        ({"capture": "all"}, 'capture: expected a function of the Content that returns a Content or None, got "all"'),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as raised:
        OpenTelemetry(**options)
    assert str(raised.value) == problem
