"""Requests that the stand-in rejects, with the service's own errors."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bud_asgi.testing import StandIn
from testing.raw_client import BODY, ask, connect, wire

NEW = {"anthropic-version": "2026-10-21"}
TEXT = {"type": "text", "text": "Hi."}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "a", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
TOOL = {"name": "a", "input_schema": {"type": "object"}}
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn() as upstream:
        yield upstream


def conversation(*messages: Any, **fields: Any) -> bytes:
    roles = ("user", "assistant")
    return wire(messages=[{"role": roles[n % 2], "content": content} for n, content in enumerate(messages)], **fields)


async def answer(upstream: StandIn, request: bytes) -> tuple[int, dict[str, Any]]:
    head, body, _ = await ask(upstream, request)
    replied: dict[str, Any] = json.loads(body)
    if replied.get("type") == "error":
        assert replied["request_id"] == upstream.requests[-1].request_id
        assert f"request-id: {replied['request_id']}".encode() in head
    return int(head[9:12]), replied


HEADS: dict[str, tuple[bytes, int, str, str]] = {
    "no credential": (
        wire(headers={"x-api-key": None}), 401, "authentication_error", "x-api-key header is required"
    ),
    "a wrong key": (wire(headers={"x-api-key": "other"}), 401, "authentication_error", "invalid x-api-key"),
    "two keys": (
        wire(headers={"x-api-key": "sk-ant-upstream", "X-Api-Key": "sk-ant-upstream"}),
        401, "authentication_error", "invalid x-api-key",
    ),
    "a wrong bearer": (
        wire(headers={"x-api-key": None, "authorization": "Bearer no"}),
        401, "authentication_error", "Invalid bearer token",
    ),
    "a right key and the client's bearer": (
        wire(headers={"authorization": "Bearer sk-client"}), 401, "authentication_error", "Invalid bearer token"
    ),
    "no bearer": (
        wire(headers={"x-api-key": None, "authorization": "Basic sk-ant-upstream"}),
        401, "authentication_error", "Invalid bearer token",
    ),
    "no version": (
        wire(headers={"anthropic-version": None}),
        400, "invalid_request_error", "anthropic-version: header is required",
    ),
    "an unknown version": (
        wire(headers={"anthropic-version": "2024-01-01"}),
        400, "invalid_request_error", 'anthropic-version: "2024-01-01" is not a valid version',
    ),
    "two versions": (
        wire(headers={"Anthropic-Version": "2023-06-01"}),
        400, "invalid_request_error", 'anthropic-version: "2023-06-01, 2023-06-01" is not a valid version',
    ),
    "an unknown path": (wire(start="POST /v1/complete HTTP/1.1"), 404, "not_found_error", "Not found"),
    "a wrong method": (wire(start="PUT /v1/messages HTTP/1.1"), 405, "invalid_request_error", "Method Not Allowed"),
    "no content type": (
        wire(headers={"content-type": None}),
        400, "invalid_request_error", "content-type: must be application/json",
    ),
    "two hosts": (wire(headers={"Host": "b"}), 400, "invalid_request_error", "host: came more than once"),
    "no host": (wire(headers={"host": None}), 400, "invalid_request_error", "host: header is required"),
    "an unknown model": (
        wire(model="claude-does-not-exist"), 404, "not_found_error", "model: claude-does-not-exist"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "kind", "message"), HEADS.values(), ids=HEADS.keys())
async def test_heads(upstream: StandIn, request_: bytes, status: int, kind: str, message: str) -> None:
    got, body = await answer(upstream, request_)
    assert (got, body["error"]) == (status, {"type": kind, "message": message})
    assert upstream.requests[-1].refusal == message


JSON = "The request body is not valid JSON: "
EXTRA = "Extra inputs are not permitted"
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (wire(b""), f"{JSON}Expecting value: line 1 column 1 (char 0)"),
    "a cut body": (wire(b'{"model"'), f"{JSON}Expecting ':' delimiter: line 1 column 9 (char 8)"),
    "more after it": (wire(b"{} {}"), f"{JSON}Extra data: line 1 column 4 (char 3)"),
    "a lone surrogate": (
        wire(b'{"a":\n"\\\\ud800 \\ud83d\\ude00 \\ud83d"}'),
        f"{JSON}no low surrogate in string: line 2 column 23 (char 28)",
    ),
    "a number that is none": (wire(b'{"a": NaN}'), f"{JSON}unexpected character: NaN"),
    "too deep": (wire(b"[" * 200_000), f"{JSON}recursion limit exceeded"),
    "a field twice": (wire(b'{"model": "a", "mod\\u0065l": "b"}'), f"{JSON}`model` occurs more than once"),
    "no object": (wire(b"[]"), "Input should be a valid dictionary"),
    "no max_tokens": (wire({"model": "m", "messages": BODY["messages"]}), "max_tokens: Field required"),
    "no messages": (wire({"model": "m", "max_tokens": 1}), "messages: Field required"),
    "no model": (wire({"max_tokens": 1}), "model: Field required"),
    "a model that is no string": (wire(model=1), "model: Input should be a valid string"),
    "an empty model": (wire(model=""), "model: String should have at least 1 character"),
    "an unknown field": (wire(foo=1), f"foo: {EXTRA}"),
    "a version in the body": (wire(anthropic_version="2023-06-01"), f"anthropic_version: {EXTRA}"),
    "max_tokens that is a string": (wire(max_tokens="1"), "max_tokens: Input should be a valid integer"),
    "max_tokens that is true": (wire(max_tokens=True), "max_tokens: Input should be a valid integer"),
    "max_tokens below 0": (wire(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
    "stream that is a string": (wire(stream="true"), "stream: Input should be a valid boolean"),
    "messages that are none": (wire(messages={}), "messages: Input should be a valid list"),
    "no message": (wire(messages=[]), "messages: at least one message is required"),
    "an unknown role": (
        wire(messages=[{"role": "bot", "content": "Hi."}]),
        "messages.0.role: Input should be 'user', 'assistant' or 'system'",
    ),
    "no content": (wire(messages=[{"role": "user"}]), "messages.0.content: Field required"),
    "a message's unknown field": (
        wire(messages=[{"role": "user", "content": "Hi.", "name": "me"}]), f"messages.0.name: {EXTRA}"
    ),
    "empty content": (
        conversation(""),
        "messages.0: all messages must have non-empty content except for the optional final assistant message",
    ),
    "empty text": (conversation([{"type": "text", "text": ""}]), "messages: text content blocks must be non-empty"),
    "a block without type": (conversation([{"text": "Hi."}]), "messages.0.content.0.type: Field required"),
    "a block's unknown field": (conversation([{**TEXT, "x": 1}]), f"messages.0.content.0.text.x: {EXTRA}"),
    "a block's missing field": (conversation([{"type": "image"}]), "messages.0.content.0.image.source: Field required"),
    "a mark on thinking": (
        conversation("Hi.", [{"type": "thinking", "thinking": "", "signature": "x", **MARK}]),
        f"messages.1.content.0.thinking.cache_control: {EXTRA}",
    ),
    "a call without a result": (
        conversation("Hi.", [CALL], "And?"),
        ("messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. Each "
        "`tool_use` block must have a corresponding `tool_result` block in the next message."),
    ),
    "a result without a call": (
        conversation("Hi.", [TEXT], [RESULT]),
        ("messages.2: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1. Each `tool_result` block must "
        "have a corresponding `tool_use` block in the previous message."),
    ),
    "five marks": (
        conversation([{**TEXT, **MARK}] * 3, system=[{**TEXT, **MARK}], tools=[{**TOOL, **MARK}]),
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    "prefill": (
        conversation("Hi.", "I"),
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    ),
    "a system that is no text": (wire(system=1), "system: Input should be a valid string"),
    "no schema": (wire(tools=[{"name": "a"}]), "tools.0.custom.input_schema: Field required"),
    "a schema of no object": (
        wire(tools=[{"name": "a", "input_schema": {"type": "string"}}]),
        "tools.0.custom.input_schema.type: Input should be 'object'",
    ),
    "a tool's unknown field": (wire(tools=[{**TOOL, "x": 1}]), f"tools.0.custom.x: {EXTRA}"),
    "tools of one name": (wire(tools=[TOOL, TOOL]), "tools: Tool names must be unique."),
    "a choice without name": (
        wire(tools=[TOOL], tool_choice={"type": "tool"}), "tool_choice.tool.name: Field required"
    ),
    "a choice of nothing": (
        wire(tools=[TOOL], tool_choice={"type": "tool", "name": "b"}), "Tool 'b' not found in provided tools"
    ),
    "a small budget": (
        wire(model="claude-haiku-4-5", thinking={"type": "enabled", "budget_tokens": 1}),
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    "a budget past max_tokens": (
        wire(model="claude-haiku-4-5", thinking={"type": "enabled", "budget_tokens": 2000}),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    "enabled thinking of a new model": (
        wire(thinking={"type": "enabled", "budget_tokens": 2000}),
        ('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
        '"output_config.effort" to control thinking behavior.'),
    ),
    "an unknown effort": (
        wire(output_config={"effort": "huge"}),
        "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
    ),
    "metadata's unknown field": (wire(metadata={"team": "a"}), f"metadata.team: {EXTRA}"),
    "sampling of a new model": (wire(temperature=0), "`temperature` is deprecated for this model."),
    "sampling in the new version": (wire(headers=NEW, temperature=1), f"temperature: {EXTRA}"),
    "sampling out of bounds": (
        wire(model="claude-haiku-4-5", temperature=2), "temperature: Input should be less than or equal to 1"
    ),
    "citations in the new version": (
        wire(headers=NEW, messages=[{"role": "user", "content": [{**TEXT, "citations": [{}]}]}]),
        f"messages.0.content.0.text.citations: {EXTRA}",
    ),
    "an unknown encoding": (wire(headers={"content-encoding": "br"}), "content-encoding: not supported"),
    "a broken encoding": (
        wire(headers={"content-encoding": "gzip"}), f"{JSON}Error -3 while decompressing data: incorrect header check"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "message"), BODIES.values(), ids=BODIES.keys())
async def test_bodies(upstream: StandIn, request_: bytes, message: str) -> None:
    status, body = await answer(upstream, request_)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert body["error"]["message"] == message


TAGS = {
    "a block": conversation([{"type": "hologram"}]),
    "a beta block without its flag": conversation([{"type": "compaction"}]),
    "a tool": wire(tools=[{"type": "hologram_20260101", "name": "a"}]),
    "a document of the assistant in the new version": wire(
        headers=NEW,
        messages=[
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": [{"type": "document", "source": {}}]},
            {"role": "user", "content": "Hi."},
        ],
    ),
}


@pytest.mark.parametrize("request_", TAGS.values(), ids=TAGS.keys())
async def test_unknown_tags(upstream: StandIn, request_: bytes) -> None:
    status, body = await answer(upstream, request_)
    assert status == 400
    assert "found using 'type' does not match any of the expected tags: '" in body["error"]["message"]


PAIRS = {
    "context_management": "context-management-2025-06-27",
    "thread": "message-threads-2026-08-12",
    "mcp_servers": "mcp-client-2025-11-20",
    "fallbacks": "server-side-fallback-2026-07-01",
    "billing_policy": "user-profiles-billing-2026-10-01",
    "output_format": "structured-outputs-2025-11-13",
}


@pytest.mark.parametrize(("field", "flag"), PAIRS.items(), ids=PAIRS.keys())
async def test_a_beta_field_needs_its_flag(upstream: StandIn, field: str, flag: str) -> None:
    given = BODY | {field: {"type": "create"} if field == "thread" else {}}
    status, body = await answer(upstream, wire(given))
    assert (status, body["error"]["message"]) == (400, f"{field}: {EXTRA}")
    status, _ = await answer(upstream, wire(given, headers={"anthropic-beta": f"other-1, {flag}"}))
    assert status == 200


VALID: dict[str, bytes] = {
    "a bearer": wire(headers={"x-api-key": None, "authorization": "bearer sk-ant-upstream"}),
    "both credentials": wire(headers={"authorization": "Bearer sk-ant-upstream"}),
    "the new version": wire(headers=NEW),
    "a query": wire(start="POST /v1/messages?beta=true HTTP/1.1"),
    "a charset": wire(headers={"content-type": "application/json; charset=utf-8"}),
    "unknown flags": wire(headers={"anthropic-beta": "never-seen-2031-01-01,another"}),
    "a gzipped body": wire(gzip.compress(json.dumps(BODY).encode()), headers={"content-encoding": "gzip"}),
    "a surrogate pair": wire(json.dumps(BODY | {"system": "\U0001f600 \\ud800"}).encode()),
    "sampling of an old model": wire(model="claude-haiku-4-5", temperature=0.5, top_p=None, top_k=40),
    "prefill of an old model": conversation("Hi.", "", model="claude-haiku-4-5"),
    "a system message": wire(messages=[{"role": "user", "content": "Hi."}, {"role": "system", "content": "Be."}]),
    "two of one role": wire(messages=[*BODY["messages"], *BODY["messages"]]),
    "nulls": wire(system=None, tools=None, metadata=None, thinking=None, output_config=None, tool_choice=None),
    "four marks": conversation([{**TEXT, **MARK}] * 3, **MARK),
    "a name twice deep inside": wire(
        json.dumps(BODY)[:-1].encode() + b', "system": "x", "metadata": {"user_id": "a"}}'
    ),
    "a whole conversation": conversation(
        "Hi.",
        [{"type": "thinking", "thinking": "", "signature": "x"}, TEXT, CALL],
        [{**RESULT, "content": [TEXT], "is_error": False}, TEXT],
        tools=[TOOL, {"type": "web_search_20260318", "name": "web_search", "max_uses": 1}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    ),
}


@pytest.mark.parametrize("request_", VALID.values(), ids=VALID.keys())
async def test_valid_requests_pass(upstream: StandIn, request_: bytes) -> None:
    status, body = await answer(upstream, request_)
    assert (status, body["type"]) == (200, "message"), body


async def test_count_tokens_has_fields_of_its_own(upstream: StandIn) -> None:
    start = "POST /v1/messages/count_tokens HTTP/1.1"
    counted = {name: value for name, value in BODY.items() if name != "max_tokens"}
    status, body = await answer(upstream, wire(counted, start=start))
    assert (status, list(body)) == (200, ["input_tokens"])
    status, body = await answer(upstream, wire(BODY, start=start))
    assert (status, body["error"]["message"]) == (400, f"max_tokens: {EXTRA}")
    status, body = await answer(upstream, wire(counted | {"top_k": 1}, start=start, headers=NEW))
    assert (status, body["error"]["message"]) == (400, f"top_k: {EXTRA}")


async def test_models_and_flags_can_be_named() -> None:
    async with StandIn(models={"claude-a"}, betas={"known-1"}) as upstream:
        assert (await answer(upstream, wire(model="claude-a")))[0] == 200
        assert (await answer(upstream, wire(model="claude-b")))[1]["error"]["message"] == "model: claude-b"
        status, body = await answer(upstream, wire(model="claude-a", headers={"anthropic-beta": "known-1,x-1"}))
        assert status == 400
        assert body["error"]["message"].startswith("Unexpected value(s) `x-1` for the `anthropic-beta` header.")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_rejected_before_its_end(chunked: bool) -> None:
    async with StandIn(max_body=1000) as upstream:
        client = await connect(upstream)
        framing = {"transfer-encoding": "chunked", "content-length": None} if chunked else {"content-length": "1001"}
        head = wire(b"", headers=framing)
        await client.send(head + (b"3e9\r\n" if chunked else b"") + b" " * (1001 if chunked else 1))
        received, ended = await client.until_silent()
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b'"type":"request_too_large"' in received
        assert ended == "eof"
        await client.send(b" " * 500)
        assert not upstream.requests[0].complete
        await client.close()
        await upstream.wait_connections(0, 1)
        assert upstream.requests[0].aborted is None


async def test_a_thread_goes_on_from_messages_that_are_held(upstream: StandIn) -> None:
    flags = {"anthropic-beta": "message-threads-2026-08-12"}
    only_new = [{"role": "user", "content": [RESULT]}]
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    assert (await answer(upstream, wire(messages=only_new, thread=thread, headers=flags)))[0] == 200
    twice = [*only_new, {"role": "assistant", "content": "Ok."}, *only_new]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"messages": only_new, "thread": {"type": "create"}}, "messages.0: unexpected `tool_use_id` found"),
        ({"messages": twice, "thread": thread}, "messages.2: unexpected `tool_use_id` found"),
        ({"thread": {"type": "continue"}}, "thread.continue.previous_message_id: Field required"),
        ({"thread": {"type": "resume"}}, "thread: Input tag 'resume' found"),
    ]
    for fields, expected_message in bad:
        status, body = await answer(upstream, wire(BODY | fields, headers=flags))
        assert (status, body["error"]["message"].startswith(expected_message)) == (400, True), body
