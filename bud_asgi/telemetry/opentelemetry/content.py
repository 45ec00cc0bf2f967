"""Prompts and completions for spans, in the form of the conventions for generative AI. Off by default.

The form is that of "Recording content on attributes": messages of parts. Data of images and documents is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.sse import parse_event, split_events

MAX_CAPTURED = 1 << 20
"""The largest body and the largest reply whose content is captured, in bytes."""

Part = dict[str, Any]
"""A part of a message: its `type`, and the fields of that type."""

_SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})


class Content(msgspec.Struct):
    """The content of an attempt. Lists may be changed or replaced; an empty one is not recorded.

    A message is `{"role": ..., "parts": [...]}`, a part is `{"type": "text", "content": ...}` for example.
    `output_messages` is empty where no reply arrived.
    """

    input_messages: list[Any]
    output_messages: list[Any]
    system_instructions: list[Any]
    tool_definitions: list[Any]


Capture = Callable[[Content], Content | None]
"""Returns what of an attempt's content is recorded; `None` for nothing. It is called in the event loop."""


class Recorder:
    """Keeps the content of one attempt until it has ended."""

    def __init__(self, exchange: Exchange) -> None:
        self._is_stream = exchange.decoded_request.stream
        self._size = 0
        self._chunks: list[bytes] = []
        self._request = _request_fields(exchange)

    def add(self, chunk: bytes) -> None:
        """Keep bytes of the reply. Past `MAX_CAPTURED` none of it is kept."""
        self._size += len(chunk)
        if self._size > MAX_CAPTURED:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def content(self) -> Content:
        """The content, as far as it is known."""
        reply = b"".join(self._chunks)
        message = _message_of_events(reply) if self._is_stream else _object(_decoded(reply))
        output: list[Any] = []
        if message.get("role") == "assistant":
            output.append({**_message(message), "finish_reason": str(message.get("stop_reason") or "error")})
        request = self._request
        return Content(
            input_messages=[_message(_object(one)) for one in _list(request.get("messages"))],
            output_messages=output,
            system_instructions=_parts(request.get("system")),
            tool_definitions=[_tool(_object(tool)) for tool in _list(request.get("tools"))],
        )


def _request_fields(exchange: Exchange) -> dict[str, Any]:
    """The fields of the request with content. Its body is not kept: an attempt may take minutes."""
    request = exchange.decoded_request
    if len(request.body) > MAX_CAPTURED:
        return {}
    named = {name: request.value(name) for name in ("messages", "system", "tools")}
    return {name: _decoded(value) for name, value in named.items() if value is not None}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": str(message.get("role", "")), "parts": _parts(message.get("content"))}


def _parts(content: object) -> list[Part]:
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return [_part(_object(block)) for block in _list(content)]


def _part(block: dict[str, Any]) -> Part:
    """A content block of the Messages API as a part; of kinds that the conventions have no form for, only the kind."""
    kind = str(block.get("type", ""))
    if kind == "text":
        return {"type": "text", "content": block.get("text", "")}
    if kind == "thinking":
        return {"type": "reasoning", "content": block.get("thinking", "")}
    if kind == "tool_use":
        named = {"id": block.get("id"), "name": block.get("name")}
        return {"type": "tool_call", **named, "arguments": block.get("input")}
    if kind == "tool_result":
        response = block.get("content")
        shown = response if isinstance(response, str) else _parts(response)
        return {"type": "tool_call_response", "id": block.get("tool_use_id"), "response": shown}
    if kind in _SERVER_CALLS:
        call = {"type": block.get("name"), "input": block.get("input")}
        return {"type": "server_tool_call", "id": block.get("id"), "name": block.get("name"), "server_tool_call": call}
    return {"type": kind}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """The definition of a tool; of one whose form Anthropic defines only its type and its name."""
    kind = str(tool.get("type") or "custom")
    if kind != "custom":
        return {"type": kind, "name": str(tool.get("name") or tool.get("mcp_server_name") or kind)}
    found = {"type": "function", "name": tool.get("name"), "description": tool.get("description")}
    found["parameters"] = tool.get("input_schema")
    return {name: value for name, value in found.items() if value is not None}


def _message_of_events(events: bytes) -> dict[str, Any]:
    """Put a message together from the events of its stream, as far as they have arrived."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for event in split_events(events):
        parsed = parse_event(event)
        data = _object(_decoded(parsed.data)) if parsed else {}
        kind, index = data.get("type"), data.get("index")
        if kind == "message_start":
            message = _object(data.get("message"))
        elif kind == "content_block_start" and isinstance(index, int):
            blocks[index] = _object(data.get("content_block"))
        elif kind == "content_block_delta" and index in blocks:
            _extend(blocks[index], _object(data.get("delta")))
        elif kind == "message_delta":
            message.update(_object(data.get("delta")))
    whole = [_with_input(block) for _, block in sorted(blocks.items())]
    return {**message, "content": whole} if message else {}


def _extend(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("text", "thinking", "partial_json"):
        if isinstance(piece := delta.get(name), str):
            block.setdefault(f"{name} pieces", []).append(piece)


def _with_input(block: dict[str, Any]) -> dict[str, Any]:
    """A content block with the pieces that its deltas have brought."""
    for name in ("text", "thinking"):
        if pieces := block.pop(f"{name} pieces", None):
            block[name] = str(block.get(name) or "") + "".join(pieces)
    if pieces := block.pop("partial_json pieces", None):
        block["input"] = _decoded("".join(pieces).encode())
    return block


def _decoded(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except MALFORMED_JSON:
        return None


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
