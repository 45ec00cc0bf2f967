"""The models that a body names besides `model`: fallbacks, tools that call a model, tools added in mid-conversation.

Vendor pages "Server-side fallback", "Advisor tool", "Mid-conversation tool changes", "Compaction". What users define or
write is never searched: text, the inputs and results of tools, and JSON schemas may contain a property of that name.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import cast

import msgspec

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.fields import MAX_MODEL_NAME
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest, NamedModel, invalid_json, split_object

MAX_NAMED_MODELS = 32
"""The most further models that a body may name; official clients name up to four."""

MAX_SEARCHED = 1 << 18
"""The most bytes, in values that name a model, that are decoded: more would block the event loop."""

MAX_ITEMS = 300_000
"""The most items of a list of tools or messages that is searched, counted by its commas."""

_CHUNK = 1 << 22  # bytes that are searched without a pause
_WORK_PER_PAUSE, _WORK_PER_ITEM = 250_000, 250  # in bytes that are decoded, or as much work as that
_NODES_PER_PAUSE = 20_000
_FALLBACK_KEYS = 100  # an item has about five
_OVERLAP = 64  # bytes; no match of the patterns is longer
_WITHOUT_MODELS = frozenset(("metadata", "stop_sequences", "output_config", "output_format"))
_USER_DEFINED = frozenset(("input", "input_schema", "input_examples", "output_config", "configs", "metadata"))

# The letters may be escaped, and some readers ignore their case; no other key resembles this one. A quote behind a
# backslash is inside a string; to look behind before the quote has been found would take five times as long.
_MODEL = re.compile(
    rb'"(?=[mM\\])(?<!\\")(?:[mM]|\\u00[46][dD])(?:[oO]|\\u00[46][fF])(?:[dD]|\\u00[46]4)(?:[eE]|\\u00[46]5)(?:[lL]|\\u00[46][cC])"'
)
_MODEL_KEY = re.compile(_MODEL.pattern + rb"[ \t\n\r]*+:")
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")

_BLOCKS = frozenset(("tool_addition", "tool_definition"))
_TOOL_CHANGES = "tool_changes"
_SIGN = re.compile(rb'_(?:addition|definition|changes)"')  # how these words end: a rare first byte is found quickly

_Found = Generator[NamedModel | None, None, None]
_Search = Generator[None, None, bool]

_QUOTE, _LIST, _CONTAINERS = ord('"'), ord("["), frozenset(b"[{")
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def named_models(request: MessagesRequest) -> _Found:
    """Find the models. Yields `None` where the caller should let the event loop run, at least every 20 ms or so.

    Raises `InvalidRequest` for a key that two readers may read differently, and for a value that cannot be a model's.
    """
    body, search = request.body, _Searcher()
    for name, (start, end) in request.spans.items():
        first = body[start]
        if first not in _CONTAINERS or name in _WITHOUT_MODELS:
            if name == "fallbacks" and first == _QUOTE:
                yield NamedModel("fallbacks", None)
        elif name in {"messages", "system"}:
            if not _is_plain(body, start, end):
                yield from _in_conversation(search, name, body, start, end)
        elif name == "tools":
            yield from _in_tools(search, body, start, end)
        elif name == "fallbacks":
            yield from _in_fallbacks(search, body[start:end])
        elif (yield from _contains(_MODEL, body, start, end)):
            yield from search.models(body[start:end], name, lenient=True)


class _Searcher:
    """Decodes values and finds the models in them, up to `MAX_SEARCHED` bytes and `MAX_NAMED_MODELS` models."""

    def __init__(self) -> None:
        self._searched = 0
        self._found = 0
        self._work = 0

    def models(self, value: bytes, field: str, *, lenient: bool = False) -> _Found:
        """Find the models in a value. Raises `InvalidRequest`; if `lenient`, values that are not names are ignored."""
        self._searched += len(value)
        if self._searched > MAX_SEARCHED:
            raise InvalidRequest(f"{field}: more than {MAX_SEARCHED} bytes in values that name a model")
        try:
            decoded: object = msgspec.json.decode(value)
        except MALFORMED_JSON as error:
            raise invalid_json(error) from None
        keys = 0
        for found in _model_keys(decoded, field):
            if found is None:
                yield None
                continue
            keys += 1
            if found.searched and found.value is not None and not (lenient and not isinstance(found.value, str)):
                self._found += 1
                yield _model(found, self._found)
        if keys != len(_MODEL_KEY.findall(value)):  # the decoder keeps the last of two equal keys
            raise InvalidRequest(f"{field}: a key appears more than once")

    def objects(self, body: bytes, start: int, end: int, field: str) -> Generator[tuple[str, bytes] | None]:
        """The objects in a list that contain a key `model`, with their paths, and `None` for a pause now and then."""
        if body.count(b",", start, end) > MAX_ITEMS:
            raise InvalidRequest(f"{field}: more than {MAX_ITEMS} items beside a tool that names a model")
        try:
            items = _split_list(memoryview(body)[start:end])
        except MALFORMED_JSON as error:
            raise invalid_json(error) from None
        for n, item in enumerate(items):
            value = bytes(item)
            self._work += len(value) + _WORK_PER_ITEM
            if self._work > _WORK_PER_PAUSE:
                self._work = 0
                yield None
            if value.startswith(b"{") and (yield from _contains(_MODEL, value, 0, len(value))):
                yield f"{field}.{n}", value


class _ModelKey(msgspec.Struct, gc=False):
    """A key `model`, in any case, and its value. `searched`: it is not inside what a user defines."""

    path: str
    key: str
    value: object
    searched: bool


def _model(found: _ModelKey, count: int) -> NamedModel:
    field, value = f"{found.path}.{found.key[:100]}", found.value
    if found.key != "model":
        raise InvalidRequest(f"{field}: Extra inputs are not permitted; write model")
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: Input should be a valid string")
    if len(value) > MAX_MODEL_NAME:
        raise InvalidRequest(f"{field}: String should have at most {MAX_MODEL_NAME} characters")
    if count > MAX_NAMED_MODELS:
        raise InvalidRequest(f"{field}: at most {MAX_NAMED_MODELS} further models are supported")
    return NamedModel(field, value)


_Path = tuple["_Path", "str | int"] | None


def _model_keys(value: object, field: str) -> Iterator[_ModelKey | None]:
    """Yield every key `model` in a value, in order, and `None` for a pause now and then."""
    nodes: list[tuple[object, _Path, bool]] = [(value, None, True)]
    for count, (node, path, searched) in enumerate(nodes):
        if count % _NODES_PER_PAUSE == _NODES_PER_PAUSE - 1:
            yield None
        if isinstance(node, list):
            items = cast("list[object]", node)
            nodes += ((item, (path, n), searched) for n, item in enumerate(items) if isinstance(item, dict | list))
            continue
        for key, item in cast("dict[str, object]", node).items():
            if len(key) == 5 and key.lower() == "model":
                yield _ModelKey(_joined(field, path), key, item, searched)
            if isinstance(item, dict | list):
                nodes.append((cast("object", item), (path, key), searched and key not in _USER_DEFINED))


def _joined(field: str, path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(str(part)[:100])
    return ".".join((field, *reversed(parts)))


def _in_fallbacks(search: _Searcher, value: bytes) -> _Found:
    """The models of `fallbacks`. Each item must name one."""
    named: set[str] = set()
    for model in search.models(value, "fallbacks"):
        if model is not None:
            named.add(model.field)
        yield model
    for n, item in enumerate(_split_list(value)):
        if not bytes(item).startswith(b"{"):
            raise InvalidRequest(f"fallbacks.{n}: Input should be a valid dictionary")
        if len(split_object(bytes(item))[0]) > _FALLBACK_KEYS:
            raise InvalidRequest(f"fallbacks.{n}: more than {_FALLBACK_KEYS} keys")
        if f"fallbacks.{n}.model" not in named:
            raise InvalidRequest(f"fallbacks.{n}.model: Field required")


def _in_tools(search: _Searcher, body: bytes, start: int, end: int) -> _Found:
    """The models of tools: anywhere in a tool of the service's, only at the top level of a user's tool."""
    if not (yield from _contains(_MODEL, body, start, end)):
        return
    for found in search.objects(body, start, end, "tools"):
        if found is None:
            yield None
            continue
        field, tool = found
        fields, _ = split_object(tool)
        is_custom = bytes(fields.get("type", b"null")) in {b"null", b'"custom"'}
        if not is_custom or any(key.lower() == "model" for key in fields):
            yield from search.models(tool, field)


def _in_conversation(search: _Searcher, name: str, body: bytes, start: int, end: int) -> _Found:
    """The models of tools that blocks bring in. Few conversations have such blocks."""
    if not (yield from _has_sign(body, start, end)) or not (yield from _contains(_MODEL, body, start, end)):
        return
    if name == "system":
        yield from _in_blocks(search, body[start:end], name)
        return
    for found in search.objects(body, start, end, name):
        if found is None:
            yield None
            continue
        field, message = found
        fields, spans = split_object(message)
        yield None
        content = spans.get("content")
        if content is not None and message[content[0]] == _LIST:
            yield from _in_blocks(search, message[content[0] : content[1]], f"{field}.content")
        rest = {key: value for key, value in fields.items() if key != "content"}
        yield from search.models(msgspec.json.encode(rest), field)


def _in_blocks(search: _Searcher, content: bytes, field: str) -> _Found:
    for found in search.objects(content, 0, len(content), field):
        if found is None:
            yield None
            continue
        path, block = found
        fields, _ = split_object(block)
        kind = bytes(fields.get("type", b"null"))
        if _TOOL_CHANGES in fields or (kind.startswith(b'"') and msgspec.json.decode(kind) in _BLOCKS):
            yield from search.models(block, path)


def _contains(pattern: re.Pattern[bytes], body: bytes, start: int, end: int) -> _Search:
    """Search for a pattern in chunks, with a pause between them."""
    for position in range(start, end, _CHUNK):
        if position > start:
            yield None
        if pattern.search(body, position, min(end, position + _CHUNK + _OVERLAP)):
            return True
    return False


def _is_plain(body: bytes, start: int, end: int) -> bool:
    """Whether a small part of a body has no sign of a block that brings in tools: the usual case, decided at once.

    A single byte is found thirty times as fast as a pattern, and prose has few of these.
    """
    if end - start > _CHUNK:
        return False
    sign, escape = body.find(b"_", start, end), body.find(b"\\", start, end)
    return (sign < 0 or not _SIGN.search(body, sign, end)) and (
        escape < 0 or not _ESCAPED_LETTER.search(body, escape, end)
    )


def _has_sign(body: bytes, start: int, end: int) -> _Search:
    """The same for any size. A type can be written with escaped letters, so any of these is a sign."""
    return (yield from _contains(_SIGN, body, start, end)) or (yield from _contains(_ESCAPED_LETTER, body, start, end))
