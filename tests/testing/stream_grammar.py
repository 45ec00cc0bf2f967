"""A strict parser of the stream's grammar that shares no code with the stand-in."""

import json
import re
from typing import Any

_EVENT = re.compile(rb"event: ([a-z_]+)\ndata: ([^\n]+)\n\n")


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the data of each event. Fails on anything that the service would not send."""
    found: list[dict[str, Any]] = []
    position = 0
    for match in _EVENT.finditer(stream):
        assert match.start() == position, f"something between events: {stream[position : match.start()]!r}"
        position = match.end()
        data = json.loads(match[2])
        assert data["type"] == match[1].decode()
        padding = len(match[2]) - 1 - len(match[2][:-1].rstrip(b" "))
        assert match[2] == b'{"type": "ping"}' if data["type"] == "ping" else padding <= 15
        found.append(data)
    assert position == len(stream), f"an unfinished event: {stream[position:]!r}"
    return found


def padding_of(stream: bytes) -> list[int]:
    """Return the number of padding spaces in each data line."""
    return [len(m[2]) - 1 - len(m[2][:-1].rstrip(b" ")) for m in _EVENT.finditer(stream)]


def message_of(stream: bytes) -> dict[str, Any]:
    """Assemble the Message of a complete stream. Fails if the stream violates the grammar."""
    events = [event for event in events_of(stream) if event["type"] != "ping"]
    first, *middle, last = events
    assert first["type"] == "message_start"
    assert last == {"type": "message_stop"}
    message: dict[str, Any] = first["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    while middle and middle[0]["type"] == "content_block_start":
        message["content"].append(_block(middle, len(message["content"])))
    assert middle, "no message_delta"
    for event in middle:
        assert event["type"] == "message_delta"
        message |= event["delta"]
        assert event["usage"]["output_tokens"] >= message["usage"]["output_tokens"]
        message["usage"] |= event["usage"]
    assert message["stop_reason"] is not None
    return message


def _block(events: list[dict[str, Any]], index: int) -> dict[str, Any]:
    started = events.pop(0)
    assert started["index"] == index
    block: dict[str, Any] = started["content_block"]
    written = ""
    while (event := events.pop(0))["type"] == "content_block_delta":
        assert event["index"] == index
        delta = event["delta"]
        if delta["type"] == "input_json_delta":
            assert block["type"] == "tool_use"
            written += delta["partial_json"]
            continue
        kind = delta["type"].removesuffix("_delta")
        assert delta["type"] == f"{kind}_delta"
        assert not (kind != "signature" and block.get("signature")), "a delta after the signature"
        block[kind] += delta[kind]
    assert event == {"type": "content_block_stop", "index": index}
    if block["type"] == "tool_use":
        block["input"] = json.loads(written) if written else {}
    return block
