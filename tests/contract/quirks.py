"""Replies of our own with the quirks that recorded ones have: paddings, pings in every place, counts told late."""

from __future__ import annotations

import json
from typing import Any

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
COMMENT = b": keep-alive\n\n"


def event(name: str, *, pad: int = 0, **data: Any) -> bytes:
    """An event as the service writes it: on one line, padded with spaces before its last brace."""
    written = json.dumps({"type": name, **data}, separators=(",", ":"), ensure_ascii=False).encode()
    return b"event: %b\ndata: %b%b}\n\n" % (name.encode(), written[:-1], b" " * pad)


def start(*, pad: int = 0, **usage: Any) -> bytes:
    """`message_start`."""
    counts = {"input_tokens": 21, "output_tokens": 1, **usage}
    message = {"id": "msg_01Quirk", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
    ending = {"stop_reason": None, "stop_sequence": None}
    return event("message_start", pad=pad, message={**message, **ending, "usage": counts})


def opened(index: int, *, pad: int = 0, **block: Any) -> bytes:
    """`content_block_start`."""
    return event("content_block_start", pad=pad, index=index, content_block=block)


def delta(index: int, kind: str, *, pad: int = 0, **more: Any) -> bytes:
    """`content_block_delta`."""
    return event("content_block_delta", pad=pad, index=index, delta={"type": kind, **more})


def text(said: str, index: int = 0, *, pad: int = 0) -> bytes:
    """A delta of text."""
    return delta(index, "text_delta", pad=pad, text=said)


def closed(index: int, *, pad: int = 0) -> bytes:
    """`content_block_stop`."""
    return event("content_block_stop", pad=pad, index=index)


def ending(reason: str = "end_turn", *, pad: int = 0, **usage: Any) -> bytes:
    """`message_delta` and `message_stop`."""
    told = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", pad=pad, delta=told, usage={"output_tokens": 9, **usage}) + STOP


STOP = event("message_stop", pad=3)
BLOCK = opened(0, pad=2, type="text", text="")
CACHED: dict[str, Any] = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 1800}

_SEARCH: dict[str, Any] = {"type": "server_tool_use", "id": "srvtoolu_01Q", "name": "web_search", "input": {}}
_FOUND = {
    "type": "web_search_result",
    "url": "https://example.org/",
    "title": "Ein Beispiel",
    "encrypted_content": "Eo8=",
}
_CITED = {"type": "web_search_result_location", "url": "https://example.org/", "encrypted_index": "Eq==", "title": None}

STREAMS: dict[str, bytes] = {
    "a ping after the first block's start": start(pad=9) + BLOCK + PING + text("Hi", pad=15) + closed(0) + ending(),
    "a ping at once": start() + PING + BLOCK + text("Hi") + PING + text(" there", pad=1) + closed(0) + PING + ending(),
    "pings before the start": PING + PING + start() + BLOCK + closed(0) + ending(),
    "counts told at the end": start(**CACHED)
    + BLOCK
    + text("é")
    + closed(0)
    + ending(pad=7, input_tokens=40, server_tool_use=None, **CACHED),
    "counts told twice": start()
    + event("message_delta", delta={}, usage={"output_tokens": 4})
    + ending(output_tokens=9),
    "thinking, then a tool": start(pad=4)
    + opened(0, type="thinking", thinking="", signature="")
    + PING
    + delta(0, "thinking_delta", thinking="I should\nlook \u2028 it up", pad=12)
    + delta(0, "signature_delta", signature="EqQBCkYIBxgCKkA=")
    + closed(0)
    + opened(1, type="tool_use", id="toolu_01Q", name="look", input={}, pad=6)
    + delta(1, "input_json_delta", partial_json="")
    + delta(1, "input_json_delta", partial_json='{"wha', pad=5)
    + delta(1, "input_json_delta", partial_json='t":"é\\n"}')
    + closed(1)
    + ending("tool_use", output_tokens=77),
    "a search on the server": start()
    + opened(0, **_SEARCH)
    + delta(0, "input_json_delta", partial_json='{"query": "x"}')
    + closed(0)
    + PING
    + opened(1, type="web_search_tool_result", tool_use_id="srvtoolu_01Q", content=[_FOUND])
    + closed(1, pad=14)
    + opened(2, citations=[], type="text", text="")
    + delta(2, "citations_delta", citation=_CITED)
    + text("So.", 2)
    + closed(2)
    + ending(input_tokens=10682, server_tool_use={"web_search_requests": 1}),
    "blocks and deltas of tomorrow": start()
    + event("content_block_start", index=0, content_block={"type": "fallback", "from": {"model": "a"}})
    + closed(0)
    + opened(1, type="hologram", layers=[1e-07, -0.0])
    + delta(1, "hologram_delta", depth=123456789012345678901234567890)
    + closed(1)
    + event("weather", sun=True)
    + ending(iterations=[{"type": "message", "input_tokens": 2, "output_tokens": 1}]),
    "line breaks of Unicode": start() + BLOCK + text("a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg 😀") + closed(0) + ending(),
    "comments": COMMENT + start() + b":\n" + BLOCK + COMMENT + text("Hi") + closed(0) + ending(),
    "CRLF": (start() + BLOCK + PING + text("Hi \u2028") + closed(0) + ending()).replace(b"\n", b"\r\n"),
    "an error in the middle": start()
    + BLOCK
    + text("Well")
    + event("error", error={"details": None, "type": "overloaded_error", "message": "Overloaded"}, request_id="req_1"),
}
"""Whole event streams."""

MESSAGES: dict[str, bytes] = {
    "on one line": b'{"model":"claude-x","id":"msg_01Q","type":"message","role":"assistant","content":[{"type":"text",'
    b'"text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":21,"output_tokens":9}}',
    "spelled out": b'{ "id" : "msg_01Q", "type":"message" ,"content" : [ {"n": 1E+2, "s":"\\u00e9\\/"} ],\n\t"usage":'
    b'{"input_tokens":21,"output_tokens":9.0e0, "cache_creation":{"ephemeral_1h_input_tokens":0}} }\r\n',
    "nothing said": b'{"id":"msg_01Q","type":"message","content":[],"stop_reason":"max_tokens","usage":'
    b'{"input_tokens":21,"output_tokens":0}}',
    "characters of every length": '{"id":"msg_01Q","content":[{"text":"é€😀\u2028\u0085\x7f"}],"usage":null}'.encode(),
}
"""Whole Messages."""

ERRORS: dict[str, tuple[int, bytes]] = {
    "with its fields in another order": (
        404,
        b'{"error":{"message":"model: claude-nowhere","type":"not_found_error"},"request_id":"req_01","type":"error"}',
    ),
    "spelled out": (
        400,
        b'{"type" : "error", "error":{"type":"invalid_request_error",\n "message":"prompt is too long: 9 > 8"}}\n',
    ),
    "of the edge": (413, b'{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}'),
    "with details": (
        400,
        b'{"type":"error","error":{"details":{"error_code":"x","paths":["messages.0"]},"type":"a","message":"\\u00e9"}}',
    ),
    "of a type of tomorrow": (
        529,
        b'{"type":"error","error":{"type":"napping_error","message":"Later","details":null},"request_id":null}',
    ),
}
"""Error bodies, with their statuses."""
