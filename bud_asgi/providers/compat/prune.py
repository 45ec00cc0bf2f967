"""Removes nested fields from a request body.

Only the containers on the way to a removed field are encoded again; every other value keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import msgspec
from msgspec.json import encode

from bud_asgi.protocol.patterns import matches
from bud_asgi.protocol.values import first_byte, is_object, parse_list, parse_object, type_of
from bud_asgi.providers.compat.rules import NestedField

_EMPTY = frozenset({b"null", b"false", b"[]", b"{}", b'""'})
_SPACE = b" \t\r\n"
_LONGEST_NEUTRAL = 100  # bytes

Removes = Callable[[NestedField, bytes | msgspec.Raw], bool]
"""Decides whether the value of a field is removed, and takes note of it."""


class Node:
    """A place in a request: the field that ends here, what is below, and list items to remove by their type."""

    __slots__ = ("children", "field", "items")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.field: NestedField | None = None
        self.items: list[tuple[str, NestedField]] = []


def tree_of(fields: tuple[NestedField, ...]) -> Node:
    """Return the tree of fields that have the same top-level field, which is its root."""
    root = Node()
    for field in reversed(fields):  # an operator's field comes first, and replaces a known one
        node = root
        for step in field.path[1:]:
            node = node.children.setdefault(step.name, Node())
        if field.path[-1].kind:
            node.items.append((field.path[-1].kind, field))
        else:
            node.field = field
    return root


def pruned(value: bytes | msgspec.Raw, node: Node, removes: Removes) -> bytes | None:
    """Return a value without the fields of a tree that `removes` accepts; `None` if it has none of them.

    A list stands for each of its items, but not for those of a list within it. A field whose
    list loses all of its items by their type is removed. Raises one of `MALFORMED_JSON`, `TooManyValues`, and what
    `removes` raises.
    """
    kind = first_byte(value)
    if kind == b"{":
        return _pruned_object(value, node, removes)
    return _pruned_list(value, node, removes) if kind == b"[" else None


def _pruned_object(value: bytes | msgspec.Raw, node: Node, removes: Removes) -> bytes | None:
    fields = parse_object(value)
    changed = False
    for name, child in node.children.items():
        inner = fields.get(name)
        if inner is None:
            continue
        if child.field is not None and removes(child.field, inner):
            del fields[name]
            changed = True
        elif (new := pruned(inner, child, removes)) is not None:
            changed = True
            if child.items and new == b"[]":
                del fields[name]
            else:
                fields[name] = msgspec.Raw(new)
    return encode(fields) if changed else None


def _pruned_list(value: bytes | msgspec.Raw, node: Node, removes: Removes) -> bytes | None:
    kept: list[msgspec.Raw] = []
    changed = False
    for item in parse_list(value):
        if not is_object(item):
            kept.append(item)
            continue
        if node.items and _is_removed(item, node, removes):
            changed = True
            continue
        new = _pruned_object(item, node, removes) if node.children else None
        kept.append(item if new is None else msgspec.Raw(new))
        changed = changed or new is not None
    return encode(kept) if changed else None


def _is_removed(item: msgspec.Raw, node: Node, removes: Removes) -> bool:
    kind = type_of(item)
    return any(matches(pattern, kind) and removes(field, item) for pattern, field in node.items)


def is_neutral(field: NestedField, value: bytes | msgspec.Raw) -> bool:
    """Return whether a value has no effect: null, false, empty, or a known default of the field."""
    if field.path[-1].kind or len(memoryview(value)) > _LONGEST_NEUTRAL:
        return False
    plain = bytes(value).translate(None, _SPACE)
    return plain in _EMPTY or plain in _neutral(field.rule.neutral)


@lru_cache(maxsize=64)
def _neutral(values: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(value.encode().translate(None, _SPACE) for value in values)
