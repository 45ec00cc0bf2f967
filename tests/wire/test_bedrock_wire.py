"""Claude on Bedrock behind a gateway: events and responses arrive, errors are translated to the Messages API."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from collections.abc import Callable, Generator
from typing import Any

import anthropic
import pytest
from bedrock_stage import ARN, THERE, Stage, error_of, events_of, staged
from support.calls import BODY, KEY, MODEL
from support.gateway import assert_upstream_ends
from support.memory import request_body_bytes
from support.sockets import raw_request, receive_until
from support.waiting import wait_still, wait_until

from bud_asgi import Route, Target, Usage
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import (
    Reply,
    json_body,
    late,
    one_byte_per_segment,
    text,
    tool_use,
)
from bud_asgi.testing import bedrock as stand_ins
from bud_asgi.testing.bedrock import (
    all_at_once,
    aws_error,
    large_event,
    large_event_stream,
    metrics_apart,
    unknown_event,
)
from bud_asgi.testing.bedrock.stream import CONTENT_TYPE, chunk

STREAM = {**BODY, "stream": True}


@pytest.fixture
def stage() -> Generator[Stage]:
    with staged() as one:
        yield one


def test_an_answer(stage: Stage) -> None:
    reply = stage.post()
    assert reply.status_code == 200
    assert reply.json()["id"].startswith("msg_bdrk_")
    assert set(reply.headers) == {
        "date",
        "server",
        "content-type",
        "content-length",
        "request-id",
        "upstream-request-id",
    }
    assert reply.headers["upstream-request-id"] == stage.sent.request_id
    assert stage.sent.target == f"/model/{THERE}/invoke".encode()
    assert stage.sent.json() == {
        "max_tokens": 100,
        "messages": BODY["messages"],
        "anthropic_version": "bedrock-2023-05-31",
    }
    usage = stage.here.account().usage
    assert usage is not None
    assert usage.input_tokens == reply.json()["usage"]["input_tokens"]


def test_an_answer_arrives_byte_for_byte(stage: Stage) -> None:
    body = b'{ "type":"message","content":[{"n":1e2,"s":"\\u00e9"}],"amazon-bedrock-guardrailAction":"NONE"}\n'
    assert stage.post(None, json_body(body)).content == body


def test_a_stream(stage: Stage) -> None:
    reply = stage.stream(text("Hello there"))
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["upstream-request-id"] == stage.sent.request_id
    assert not any(name.startswith("x-amz") for name in reply.headers)
    events = events_of(reply)
    assert [name for name, _ in events][:3] == ["message_start", "ping", "content_block_start"]
    assert all(data["type"] == name for name, data in events)
    assert events[-1] == ("message_stop", {"type": "message_stop"})
    assert b"amazon" not in reply.content
    assert stage.sent.target == f"/model/{THERE}/invoke-with-response-stream".encode()
    assert stage.sent.header("accept") == b"application/vnd.amazon.eventstream"
    account = stage.here.account()
    assert account.outcome == "answered"
    assert account.usage is not None
    assert account.usage.output_tokens == events[-2][1]["usage"]["output_tokens"]


@pytest.mark.parametrize("apart", [False, True], ids=["in the stop", "in a chunk of their own"])
def test_usage_that_only_the_metrics_of_aws_report_is_accounted_for(stage: Stage, apart: bool) -> None:
    metrics = b'"amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":77}'
    end = [b'{"type":"message_stop",%b}' % metrics]
    if apart:
        end = [b"{%b}" % metrics, b'{"type":"message_stop"}']
    start = b'{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":3,"output_tokens":1}}}'
    frames = b"".join(map(chunk, [start, *end]))
    reply = stage.stream(Reply(headers=(("content-type", CONTENT_TYPE),), body=(frames,)))
    assert b"amazon" not in reply.content
    assert stage.here.account().usage == Usage(5, 77)


CUTS: dict[str, Callable[[Reply], Reply]] = {
    "byte by byte": one_byte_per_segment,
    "all at once": all_at_once,
    "with metrics apart": lambda reply: metrics_apart(reply=reply),
    "with metrics first": lambda reply: metrics_apart(first=True, reply=reply),
    "with an unknown event": lambda reply: unknown_event(reply=reply),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_stream_is_the_same_however_it_comes(stage: Stage, cut: Callable[[Reply], Reply]) -> None:
    said = text("Wörter, 漢字 \u2028 and 😀")
    one, other = (events_of(stage.stream(reply)) for reply in (said, cut(said)))
    for events in (one, other):
        del events[0][1]["message"]["id"]
    assert other == one


def test_the_sdk_reads_it(stage: Stage) -> None:
    stage.upstream.enqueue(tool_use("weather", {"city": "Bern"}))
    with (
        anthropic.Anthropic(base_url=stage.here.base_url, api_key=KEY, max_retries=0) as client,
        client.messages.stream(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        message = stream.get_final_message()
    assert (message.stop_reason, message.content[-1].to_dict()["input"]) == ("tool_use", {"city": "Bern"})


def test_a_large_event_and_a_large_stream(stage: Stage) -> None:
    assert len(stage.stream(large_event(1_000_000)).content) > 1_000_000
    reply = stage.stream(large_event_stream(10_000_000))
    assert reply.content.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert stage.here.account().outcome == "answered"


def test_a_count(stage: Stage) -> None:
    reply = stage.count(thinking={"type": "enabled", "budget_tokens": 2048})
    assert (reply.status_code, list(reply.json())) == (200, ["input_tokens"])
    assert reply.json()["input_tokens"] == stage.post().json()["usage"]["input_tokens"]
    assert reply.headers["content-length"] == str(len(reply.content))
    first = stage.upstream.requests[0]
    assert first.target == b"/model/anthropic.claude-haiku-4-5-20251001-v1:0/count-tokens"
    inner = json.loads(base64.b64decode(first.json()["input"]["invokeModel"]["body"]))
    assert inner["anthropic_version"] == "bedrock-2023-05-31"


def test_a_model_that_is_not_counted_for(stage: Stage) -> None:
    words = "The upstream of this model does not count tokens."
    assert error_of(stage.count("claude-opus-4-8")) == (404, "not_found_error", words)
    assert stage.upstream.requests == []
    refused = aws_error("ValidationException", "The provided model doesn't support counting tokens.")
    assert error_of(stage.count(MODEL, refused)) == (404, "not_found_error", words)


@pytest.mark.parametrize("body", [b"{}", b"<html>", b""])
def test_a_malformed_count(stage: Stage, body: bytes) -> None:
    assert error_of(stage.count(MODEL, json_body(body)))[:2] == (502, "api_error")


SESSION: dict[str, Any] = {
    "model": "claude-opus-4-6",
    "max_tokens": 32000,
    "stream": True,
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": "u"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2"},
        {"type": "text", "text": "You are helpful.", "cache_control": {"type": "ephemeral", "scope": "global"}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}}]},
    ],
    "tools": [
        {"name": "Read", "input_schema": {"type": "object"}, "eager_input_streaming": True},
        {"name": "Late", "input_schema": {"type": "object"}, "custom": {"defer_loading": True}},
    ],
}
FLAGS = (
    "claude-code-20250219,context-management-2025-06-27,interleaved-thinking-2025-05-14,effort-2025-11-24,"
    "prompt-caching-scope-2026-01-05,advanced-tool-use-2025-11-20,thinking-token-count-2026-05-13"
)


def test_a_request_as_claude_code_makes_it(stage: Stage) -> None:
    """The stand-in refuses what Bedrock refuses: as it stands it would be a 400, for six reasons."""
    reply = stage.post(SESSION, anthropic_beta=FLAGS)
    assert reply.status_code == 200, reply.text
    assert events_of(reply)[-1][0] == "message_stop"
    sent = stage.sent.json()
    assert sent["anthropic_beta"] == [
        "interleaved-thinking-2025-05-14",
        "effort-2025-11-24",
        "tool-search-tool-2025-10-19",
        "tool-examples-2025-10-29",
        "fine-grained-tool-streaming-2025-05-14",
    ]
    assert sent["system"][0] == SESSION["system"][0]
    assert reply.headers["bud-dropped"] == (
        "claude-code-20250219, context-management-2025-06-27, prompt-caching-scope-2026-01-05, "
        "thinking-token-count-2026-05-13, context_management.clear_thinking, cache_control.scope"
    )


def test_a_thread_is_refused_without_asking(stage: Stage) -> None:
    reply = stage.post({"thread": {"type": "create"}}, anthropic_beta="message-threads-2026-08-12")
    assert reply.status_code == 400
    assert reply.json()["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["platform"]}
    assert stage.upstream.requests == []


def test_a_validation_error_of_the_model_keeps_its_message(stage: Stage) -> None:
    words = "tools.0: Input tag 'web_search_20250305' found using 'type' does not match any of the expected tags: "
    reply = stage.post({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})
    status, kind, said = error_of(reply)
    assert (status, kind) == (400, "invalid_request_error")
    assert said.startswith(words)
    assert reply.headers["upstream-request-id"] == stage.sent.request_id
    assert reply.headers["x-should-retry"] == "false"


def test_a_client_that_leaves_ends_the_call(stage: Stage) -> None:
    stage.upstream.enqueue(text("slow " * 200, delay=0.05))
    with raw_request(stage.here.base_url, STREAM) as client:
        receive_until(client, b"content_block_delta")
    assert_upstream_ends(stage.upstream, time.monotonic())
    assert stage.here.account().outcome == "client_gone"


def test_an_open_stream_keeps_nothing_of_its_request(stage: Stage) -> None:
    stage.upstream.enqueue(late(5.0, text("slow " * 200, delay=0.05)))
    size = 4 << 20
    tracemalloc.start()
    try:
        with raw_request(stage.here.base_url, {**STREAM, "system": "x" * size}) as client:
            stage.upstream.wait_requests(timeout=30)
            assert request_body_bytes() >= size
            receive_until(client, b"content_block_delta")
            wait_until(lambda: request_body_bytes() < size, "the body is gone")
    finally:
        tracemalloc.stop()


def test_a_reader_that_stops_reading_holds_upstream_back(stage: Stage) -> None:
    stage.upstream.enqueue(large_event_stream(200_000_000))
    with raw_request(stage.here.base_url, STREAM) as client:
        client.recv(1000)
        (seen,) = stage.upstream.wait_requests()
        assert wait_still(lambda: seen.replied) < 40_000_000  # it waits, for the kernel's buffers and ours are full
    assert stage.upstream.wait_aborted(30.0).aborted is not None


def test_a_bearer_token() -> None:
    with staged(bearer_token="bedrock-api-key-stand-in") as stage:
        assert stage.post().status_code == 200
        assert stage.sent.header("authorization") == b"Bearer bedrock-api-key-stand-in"
        assert stage.sent.header("x-amz-date") is None


@pytest.mark.parametrize("way", ["target", "model_ids"])
def test_an_arn_is_signed_as_it_is_sent(way: str) -> None:
    service = stand_ins.Bedrock(profiles={ARN: "anthropic.claude-haiku-4-5-20251001-v1:0"})
    app: dict[str, Any] = {"routes": [Route(MODEL, to=[Target("bedrock", ARN)])]} if way == "target" else {}
    options: dict[str, Any] = {} if way == "target" else {"model_ids": {MODEL: ARN}}
    with staged(service, app, **options) as stage:
        assert stage.post().status_code == 200
        assert stage.sent.target == f"/model/{ARN.replace('/', '%2F')}/invoke".encode()
        assert stage.count().status_code == 200


def test_a_guardrail_and_a_tier_of_the_operator_s() -> None:
    with staged(guardrail=("gr-1", "2"), service_tier="flex") as stage:
        mine = {"x_amzn_bedrock_guardrailidentifier": "none", "x_amzn_bedrock_service_tier": "priority"}
        assert stage.post(None, **mine).status_code == 200
        assert stage.sent.values("x-amzn-bedrock-guardrailidentifier") == [b"gr-1"]
        assert stage.sent.values("x-amzn-bedrock-guardrailversion") == [b"2"]
        assert stage.sent.values("x-amzn-bedrock-service-tier") == [b"flex"]
        assert stage.count().status_code == 200


def test_no_header_of_the_client_is_forwarded_unless_allowed(stage: Stage) -> None:
    stage.post(None, cookie="a=b", anthropic_workspace_id="w", x_amzn_bedrock_trace="ENABLED", user_agent="SDK")
    names = {name.decode() for name, _ in stage.sent.headers}
    assert names == {
        "bud-hops",
        "host",
        "accept",
        "accept-encoding",
        "content-type",
        "user-agent",
        "authorization",
        "x-amz-date",
        "x-amz-security-token",
        "content-length",
    }
    assert stage.sent.header("user-agent") == b"bud_asgi"
    assert KEY.encode() not in b"".join(value for _, value in stage.sent.headers)


def test_a_body_over_twenty_megabytes(stage: Stage) -> None:
    reply = stage.post({"system": "x" * 20_000_001})
    assert error_of(reply)[:2] == (413, "request_too_large")
    assert stage.upstream.requests == []


def test_the_ping_after_the_start_is_the_customary_one(stage: Stage) -> None:
    assert stage.stream().content.count(PING) == 1
