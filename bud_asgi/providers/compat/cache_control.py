"""Marks for the prompt cache (`cache_control`), as the clouds take them. Vendor page "Prompt caching"."""

from __future__ import annotations

import re

import msgspec
from msgspec.json import encode

from bud_asgi.providers.compat.edit import MALFORMED, BodyEdit, fields_of, first_of, is_object, items_of

_SPACE = rb"[ \t\n\r]*+"
# A quote inside a JSON string is escaped: what is matched here is a whole key, never somebody's words.
_SCOPED = re.compile(rb'"cache_control"%b:%b\{[^{}]*"scope"' % (_SPACE, _SPACE))
_UNMARKED = (b'"thinking"', b'"redacted_thinking"')
_DEPTH = 3  # a message, its block, a block in the result of a tool


def strip_scope(draft: BodyEdit) -> None:
    """`cache_control.scope`, on the request, its system prompt, its messages and its tools."""
    for name in ("cache_control", "system", "messages", "tools"):
        if draft.says(name, b'"scope"'):
            value = draft.value(name) or b""
            new = _unscoped(value) if name == "cache_control" else _unscoped_items(value, _DEPTH)
            if new is not None:
                draft.changed[name] = new
                draft.note("cache_control.scope")


def _unscoped_items(value: bytes | msgspec.Raw, depth: int) -> bytes | None:
    """Messages, blocks or tools without a scope; `None` if they have none."""
    if not depth or first_of(value) != b"[" or _SCOPED.search(value) is None:
        return None
    items = items_of(value)
    found = False
    for n, item in enumerate(items):
        if _SCOPED.search(item) and (new := _unscoped_item(item, depth)) is not None:
            items[n] = msgspec.Raw(new)
            found = True
    return encode(items) if found else None


def _unscoped_item(item: msgspec.Raw, depth: int) -> bytes | None:
    """A message, a block or a tool. The input of a tool is not looked into: it is somebody's own."""
    if not is_object(item):
        return None
    fields = fields_of(item)
    mark, content = fields.get("cache_control"), fields.get("content")
    new = {
        "cache_control": None if mark is None else _unscoped(mark),
        "content": None if content is None else _unscoped_items(content, depth - 1),
    }
    edited = {name: msgspec.Raw(value) for name, value in new.items() if value is not None}
    return encode({**fields, **edited}) if edited else None


def _unscoped(mark: bytes | msgspec.Raw) -> bytes | None:
    if not is_object(mark):
        return None
    fields = fields_of(mark)
    return None if fields.pop("scope", None) is None else encode(fields)


def move_automatic_mark(draft: BodyEdit) -> None:
    """The automatic breakpoint becomes a plain one where it would stand: on the last block."""
    mark = draft.value("cache_control")
    if mark is None:
        return
    draft.without.add("cache_control")
    draft.changed.pop("cache_control", None)
    if mark == b"null":
        return
    marked = None if draft.request.counting else _marked(draft.value("messages") or b"[]", mark)
    if marked is None:
        draft.note("cache_control")
    else:
        draft.changed["messages"] = marked


def _marked(messages: bytes, mark: bytes) -> bytes | None:
    """Messages with a mark on their last block; `None` where it can have none."""
    try:
        *before, last = items_of(messages)
        message = fields_of(last)
        blocks = _blocks(message["content"])
        block = fields_of(blocks[-1])
        unmarked = bytes(block["type"]) in _UNMARKED or bytes(block.get("text", b"")) == b'""'
    except (*MALFORMED, LookupError):
        return None
    if unmarked:
        return None
    if "cache_control" not in block:
        blocks[-1] = msgspec.Raw(encode({**block, "cache_control": msgspec.Raw(mark)}))
    return encode([*before, {**message, "content": blocks}])


def _blocks(content: msgspec.Raw) -> list[msgspec.Raw]:
    """The blocks of a message; a string stands for one."""
    if first_of(content) != b'"':
        return items_of(content)
    return [msgspec.Raw(encode({"type": "text", "text": content}))]
