"""Raw responses: the headers a client may see, and the bytes of a stream."""

from __future__ import annotations

import json
from typing import Any

import anthropic
from cues import Cue, reply, said

UNICODE = "Zürich \u2028 \x85 \x0b 🦜 \\n"


def check_headers(headers: Any, cue: Cue, content_type: str) -> None:
    """What describes the answer is there; what describes the operator's account isn't."""
    assert headers["content-type"] == content_type
    assert headers["request-id"].startswith("req_")
    assert headers["upstream-request-id"] == cue.seen()["upstream"][0]["id"]
    private = ("anthropic-organization-id", "anthropic-workspace-id", "anthropic-ratelimit-", "set-cookie")
    assert [name for name in headers if name.startswith(private)] == []


def test_a_message(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("text", "Hello there"))
    raw = client.messages.with_raw_response.create(**cue.ask())
    check_headers(raw.headers, cue, "application/json")
    message = raw.parse()
    assert said(message) == [("text", "Hello there")]
    assert message._request_id == raw.headers["request-id"] == raw.request_id
    assert (raw.status_code, raw.http_response.json()["content"][0]["text"]) == (200, "Hello there")


async def test_a_message_async(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(reply("text", "Hello there"))
    raw = await async_client.messages.with_raw_response.create(**cue.ask())
    check_headers(raw.headers, cue, "application/json")
    parsed: Any = raw.parse()
    message = await parsed if hasattr(parsed, "__await__") else parsed
    assert said(message) == [("text", "Hello there")]


def test_a_stream(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("text", UNICODE))
    with client.messages.with_streaming_response.create(stream=True, **cue.ask()) as raw:
        check_headers(raw.headers, cue, "text/event-stream; charset=utf-8")
        body = b"".join(raw.iter_bytes())
    events = [event.split(b"\n") for event in body.removesuffix(b"\n\n").split(b"\n\n")]
    assert all(len(lines) == 2 for lines in events)
    names = [name.removeprefix(b"event: ").decode() for name, _ in events]
    data = [json.loads(line.removeprefix(b"data: ")) for _, line in events]
    assert [one["type"] for one in data] == names
    assert names[-1] == "message_stop"
    texts = [one["delta"]["text"] for one in data if one["type"] == "content_block_delta"]
    assert "".join(texts) == UNICODE


def test_a_stream_is_parsed_from_the_raw(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("text", "Hello there"))
    raw = client.messages.with_raw_response.create(stream=True, **cue.ask())
    assert [event.type for event in raw.parse()][-1] == "message_stop"


def test_unknown_fields_of_an_answer(client: anthropic.Anthropic) -> None:
    """Bytes are relayed, so what nobody knows yet arrives."""
    message: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-next", "from": {"a": [None]},
        "stop_reason": "tomorrow", "stop_sequence": None, "content": [{"type": "hologram", "depth": 1e2}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    raw = client.messages.with_raw_response.create(**Cue(reply("json_body", message)).ask())
    assert raw.http_response.json() == message
    parsed: Any = raw.parse()
    assert (parsed.stop_reason, parsed.content[0].type) == ("tomorrow", "hologram")
