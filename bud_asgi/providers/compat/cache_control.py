"""Prompt cache breakpoints (`cache_control`) in the form that the clouds accept. Vendor page "Prompt caching"."""

from __future__ import annotations

import re

import msgspec
from msgspec.json import encode

from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.providers.compat.edit import BodyEdit, first_byte, is_object, parse_list, parse_object

_SPACE = rb"[ \t\n\r]*+"
# Quotes inside JSON strings are escaped, so this can only match a real key, never the text of a string.
_SCOPED = re.compile(rb'"cache_control"%b:%b\{[^{}]*"scope"' % (_SPACE, _SPACE))
_NEVER_CACHED = (b'"thinking"', b'"redacted_thinking"')
_MAX_DEPTH = 3  # a message, its block, a block in a tool result


def strip_scope(body: BodyEdit) -> None:
    """Remove `cache_control.scope` from the request, its system prompt, messages and tools."""
    for name in ("cache_control", "system", "messages", "tools"):
        if body.contains(name, b'"scope"'):
            value = body.value(name) or b""
            new = _without_scope(value) if name == "cache_control" else _items_without_scope(value, _MAX_DEPTH)
            if new is not None:
                body.changed[name] = new
                body.mark_dropped("cache_control.scope")


def _items_without_scope(value: bytes | msgspec.Raw, depth: int) -> bytes | None:
    """Return a list of messages, blocks or tools without scopes; `None` if it has none."""
    if not depth or first_byte(value) != b"[" or _SCOPED.search(value) is None:
        return None
    items = parse_list(value)
    found = False
    for n, item in enumerate(items):
        if _SCOPED.search(item) and (new := _item_without_scope(item, depth)) is not None:
            items[n] = msgspec.Raw(new)
            found = True
    return encode(items) if found else None


def _item_without_scope(item: msgspec.Raw, depth: int) -> bytes | None:
    """Return a message, block or tool without scopes; `None` if it has none.

    Tool input is user data and never edited.
    """
    if not is_object(item):
        return None
    fields = parse_object(item)
    breakpoint_, content = fields.get("cache_control"), fields.get("content")
    new = {
        "cache_control": None if breakpoint_ is None else _without_scope(breakpoint_),
        "content": None if content is None else _items_without_scope(content, depth - 1),
    }
    changed = {name: msgspec.Raw(value) for name, value in new.items() if value is not None}
    return encode({**fields, **changed}) if changed else None


def _without_scope(breakpoint_: bytes | msgspec.Raw) -> bytes | None:
    if not is_object(breakpoint_):
        return None
    fields = parse_object(breakpoint_)
    return None if fields.pop("scope", None) is None else encode(fields)


def move_automatic_breakpoint(body: BodyEdit) -> None:
    """Replace the automatic breakpoint with an explicit one in the same place: on the last block."""
    breakpoint_ = body.value("cache_control")
    if breakpoint_ is None:
        return
    body.without.add("cache_control")
    body.changed.pop("cache_control", None)
    if breakpoint_ == b"null":
        return
    messages = None
    if not body.request.counting:
        messages = _with_breakpoint(body.value("messages") or b"[]", breakpoint_)
    if messages is None:
        body.mark_dropped("cache_control")
    else:
        body.changed["messages"] = messages


def _with_breakpoint(messages: bytes, breakpoint_: bytes) -> bytes | None:
    """Return the messages with a breakpoint on their last block; `None` if that block cannot have one."""
    try:
        *before, last = parse_list(messages)
        message = parse_object(last)
        blocks = _blocks(message["content"])
        block = parse_object(blocks[-1])
        never_cached = bytes(block["type"]) in _NEVER_CACHED or bytes(block.get("text", b"")) == b'""'
    except (*MALFORMED_JSON, LookupError):
        return None
    if never_cached:
        return None
    if "cache_control" not in block:
        blocks[-1] = msgspec.Raw(encode({**block, "cache_control": msgspec.Raw(breakpoint_)}))
    return encode([*before, {**message, "content": blocks}])


def _blocks(content: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the blocks of a message; a string is short for one text block."""
    if first_byte(content) != b'"':
        return parse_list(content)
    return [msgspec.Raw(encode({"type": "text", "text": content}))]
