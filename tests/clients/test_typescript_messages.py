"""The official TypeScript SDK with the mounted gateway: messages, streams, tools, thinking, structured output."""

from __future__ import annotations

from typing import Any

from clients_node import TypeScript
from support.calls import UPSTREAM_KEY

from bud_asgi.testing import (
    TextBlock,
    ThinkingBlock,
    ThreadedStandIn,
    ToolUseBlock,
    blocks,
    cut_before_message_stop,
    error_mid_stream,
    text,
    tool_use,
)

MODEL = "claude-opus-5-5"
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def params(prompt: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 2048, "messages": [{"role": "user", "content": prompt}], **more}


def test_create(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("Grüezi \u2028 \U0001f600"))
    seen = sdk("messages.create", params())
    assert seen["message"]["content"] == [{"type": "text", "text": "Grüezi \u2028 \U0001f600"}]
    assert seen["message"]["usage"]["output_tokens"] > 0
    assert seen["requestId"].startswith("req_")
    (received,) = upstream.requests
    assert received.json() == params()
    assert received.header("anthropic-version") == b"2026-10-21"
    assert received.header("x-api-key") == UPSTREAM_KEY.encode()
    assert received.header("authorization") is None


def test_the_stream_helper_builds_the_same_message(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    reply = blocks(
        ThinkingBlock("Let me see. \u2029"),
        TextBlock("I will look it up, \u2028 in \U0001f1e8\U0001f1ed."),
        ToolUseBlock("weather", {"city": "Zürich", "days": [1, 2.5]}),
    )
    upstream.always(reply)
    request = params(tools=[WEATHER], thinking={"type": "adaptive", "display": "summarized"})
    whole = sdk("messages.create", request)["message"]
    seen = sdk("messages.stream", request)
    compared = ("role", "stop_reason", "model", "usage")
    assert {name: seen["message"][name] for name in compared} == {name: whole[name] for name in compared}
    thinking, message, call = seen["message"]["content"]
    assert thinking["thinking"] == "".join(seen["thoughts"]) == "Let me see. \u2029"
    assert thinking["signature"]
    assert message["text"] == "".join(seen["texts"]) == "I will look it up, \u2028 in \U0001f1e8\U0001f1ed."
    assert call["input"] == {"city": "Zürich", "days": [1, 2.5]}
    assert "".join(seen["inputs"]).replace(" ", "") == '{"city":"Zürich","days":[1,2.5]}'
    assert [block["type"] for block in seen["blocks"]] == ["thinking", "text", "tool_use"]
    assert (seen["events"][0], seen["events"][-1]) == ("message_start", "message_stop")
    assert seen["requestId"].startswith("req_")


def test_events_arrive_one_by_one(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("word " * 20, delay=0.05))
    seen = sdk("messages.stream", params())
    assert "".join(seen["texts"]) == "word " * 20
    assert seen["times"][-1] - seen["times"][0] > 200  # milliseconds, of about 1,000


def test_raw_events(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("Hello there"))
    events = sdk("messages.rawEvents", params())
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == "Hello there"
    assert events[-1] == {"type": "message_stop"}


def test_aborting_a_stream_ends_the_upstream_request(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("word " * 1000, delay=0.02))
    assert sdk("messages.abort", params()) == "APIUserAbortError"
    assert upstream.wait_aborted(timeout=15.0).number == 1


def test_an_error_in_a_stream_is_thrown(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error_mid_stream("overloaded_error", "Overloaded", after_events=4))
    thrown = sdk("errors.stream")
    assert (thrown["class"], thrown["status"], thrown["type"]) == ("APIError", None, "overloaded_error")


def test_a_stream_that_breaks_off_is_an_error(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(cut_before_message_stop())
    thrown = sdk("errors.stream")
    assert (thrown["class"], thrown["type"]) == ("APIError", "api_error")


def test_structured_output(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}}}
    upstream.enqueue(text('{"city": "Bern", "people": 134591}'))
    assert sdk("messages.parse", params(schema=city)) == {"city": "Bern", "people": 134591}
    assert upstream.requests[0].json()["output_config"]["format"]["type"] == "json_schema"


def test_the_tool_runner_runs_to_the_end(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(tool_use("weather", {"city": "Bern"}), text("It is sunny."))
    seen = sdk("messages.toolRunner", params(tools=[WEATHER], answers={"weather": "sunny"}))
    assert seen["calls"] == [["weather", {"city": "Bern"}]]
    assert seen["message"]["content"][0]["text"] == "It is sunny."
    result = upstream.requests[1].json()["messages"][-1]["content"][0]
    assert (result["type"], result["content"]) == ("tool_result", "sunny")
    assert upstream.refused == []


def test_betas_are_forwarded(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    betas = ["context-management-2025-06-27", "never-seen-2027-01-01"]
    sdk("messages.betas", params(betas=betas, context_management=edits))
    (received,) = upstream.requests
    assert received.header("anthropic-beta") == b"context-management-2025-06-27,never-seen-2027-01-01"
    assert received.json()["context_management"] == edits


def test_count_tokens(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    counted = params("Four characters are a token here.", tools=[WEATHER])
    del counted["max_tokens"]
    plain, beta = sdk("messages.countTokens", counted)
    assert plain == beta > 0
    assert [request.path for request in upstream.requests] == [b"/v1/messages/count_tokens"] * 2
    assert upstream.refused == []


def test_raw_responses(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.always(text("Hello there"))
    seen = sdk("messages.rawResponse", params())
    assert seen["data"]["content"][0]["text"] == "Hello there"
    assert seen["requestId"] == seen["headers"]["request-id"]
    assert seen["headers"]["upstream-request-id"] == upstream.requests[0].request_id
    assert seen["status"] == 200
    assert '"text":"Hello there"' in seen["text"]


def test_either_credential(sdk: TypeScript) -> None:
    key = sdk._options["apiKey"]
    assert sdk("messages.create", params(), apiKey=None, authToken=key)["message"]["role"] == "assistant"
    header = {"x-api-key": key}
    assert sdk("messages.create", params(), apiKey="other", defaultHeaders=header)["message"]["role"] == "assistant"
