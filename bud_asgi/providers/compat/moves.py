"""The edits that move a value to the only place where a cloud accepts it.

An edit is made only if the bytes contain what it looks for. It re-encodes the containers on the path to the change;
every other value keeps its bytes. Fields that cannot be parsed are sent unchanged, for the service to validate.

Vendor pages "Structured outputs", "Tool search tool", "Prompt caching".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec
from msgspec.json import encode

from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.values import TooManyValues, first_byte, is_object, parse_list, parse_object
from bud_asgi.providers.compat.edit import MAX_EDITS, BodyEdit
from bud_asgi.providers.compat.rules import EditName

EDITED_WORDS = (b'"custom"',)
"""What `tools` contain if an edit may change them. The other edits concern a top-level field, which they remove."""

_CUSTOM = re.compile(EDITED_WORDS[0] + rb"[ \t\n\r]*+:")
_NEVER_CACHED = frozenset({b'"thinking"', b'"redacted_thinking"', b'"fallback"', b'"mcp_tool_listing"'})
_LAST_PLACES = 100  # messages that are searched for a block that can have a breakpoint


def apply_edits(body: BodyEdit, names: tuple[EditName, ...]) -> None:
    """Make the edits of a service that come before the removal of fields."""
    for name in names:
        if edit := _EDITS.get(name):
            edit(body)


def _move_output_format(body: BodyEdit) -> None:
    """Move `output_format` into `output_config`, the only place where the clouds accept it."""
    output_format = body.value("output_format")
    if output_format is None:
        return

    def with_format(config: bytes) -> bytes:
        fields = parse_object(config) if config != b"null" else {}
        return encode({"format": msgspec.Raw(output_format), **fields})

    if output_format == b"null":
        body.without.add("output_format")
    elif (config := body.edited("output_config", with_format)) is not None:
        body.without.add("output_format")
        body.changed["output_config"] = config


def _hoist_custom(body: BodyEdit) -> None:
    """Move `defer_loading` out of the `custom` of tools, where Claude Code puts it, into the tool itself."""
    if not body.matches("tools", _CUSTOM):
        return
    lost: list[str] = []

    def hoisted(value: bytes) -> bytes | None:
        tools = parse_list(value)
        if len(tools) > MAX_EDITS:
            raise TooManyValues
        changed = [_without_custom(tool, lost) for tool in tools]
        if all(tool is None for tool in changed):
            return None
        return encode([tool if new is None else new for tool, new in zip(tools, changed, strict=True)])

    new = body.edited("tools", hoisted)
    if new is not None:
        body.changed["tools"] = new
        for name in lost:
            body.mark_dropped(name)


def _without_custom(item: msgspec.Raw, lost: list[str]) -> msgspec.Raw | None:
    """Return a tool without `custom`, noting what is lost with it; `None` if it has none."""
    if not is_object(item) or _CUSTOM.search(item) is None:
        return None
    tool = parse_object(item)
    custom = tool.pop("custom", None)
    if custom is None:
        return None
    inside = parse_object(custom) if is_object(custom) else {}
    if "defer_loading" in inside:
        tool.setdefault("defer_loading", inside.pop("defer_loading"))
    if inside:
        lost[:] = ["tools.custom"]
    return msgspec.Raw(encode(tool))


def move_automatic_breakpoint(body: BodyEdit) -> None:
    """Replace the automatic cache breakpoint with an explicit one in the same place: on the last block.

    If no block can have one, it goes to the end of the system prompt, then of the tools. It is dropped if
    neither exists, and when counting tokens, where it has no effect.
    """
    breakpoint_ = body.value("cache_control")
    if breakpoint_ is None:
        return
    body.remove("cache_control")
    if breakpoint_ == b"null":
        return
    for name, mark in _PLACES.items() if not body.request.counting else ():
        value = body.value(name)
        try:
            marked = None if value is None else mark(value, breakpoint_)
        except (*MALFORMED_JSON, LookupError, TooManyValues):
            break
        if marked is not None:
            body.changed[name] = marked
            return
    body.mark_dropped("cache_control")


def _mark_messages(messages: bytes, breakpoint_: bytes) -> bytes | None:
    """Return the messages with a breakpoint on the last block that can have one; `None` if there is none."""
    items = parse_list(messages)
    for n in range(len(items) - 1, max(-1, len(items) - 1 - _LAST_PLACES), -1):
        message = parse_object(items[n])
        content = _mark_blocks(message["content"], breakpoint_)
        if content is not None:
            items[n] = msgspec.Raw(encode({**message, "content": msgspec.Raw(content)}))
            return encode(items)
    return None


def _mark_blocks(content: bytes | msgspec.Raw, breakpoint_: bytes) -> bytes | None:
    """Return content with a breakpoint on the last block that can have one; a string is short for one text block."""
    text = first_byte(content) == b'"'
    blocks = [msgspec.Raw(encode({"type": "text", "text": msgspec.Raw(content)}))] if text else parse_list(content)
    for n in range(len(blocks) - 1, -1, -1):
        block = parse_object(blocks[n])
        if bytes(block["type"]) not in _NEVER_CACHED and bytes(block.get("text", b"")) != b'""':
            blocks[n] = _marked(block, blocks[n], breakpoint_)
            return encode(blocks)
    return None


def _mark_tools(tools: bytes, breakpoint_: bytes) -> bytes | None:
    items = parse_list(tools)
    if not items:
        return None
    items[-1] = _marked(parse_object(items[-1]), items[-1], breakpoint_)
    return encode(items)


def _marked(fields: dict[str, msgspec.Raw], item: msgspec.Raw, breakpoint_: bytes) -> msgspec.Raw:
    """Return a block or tool with the breakpoint, unless it has one of its own."""
    if bytes(fields.get("cache_control", b"null")) != b"null":
        return item
    return msgspec.Raw(encode({**fields, "cache_control": msgspec.Raw(breakpoint_)}))


_PLACES: Mapping[str, Callable[[bytes, bytes], bytes | None]] = {
    "messages": _mark_messages,
    "system": _mark_blocks,
    "tools": _mark_tools,
}

_EDITS: Mapping[EditName, Callable[[BodyEdit], None]] = {
    "output_format": _move_output_format,
    "tools.custom": _hoist_custom,
}
