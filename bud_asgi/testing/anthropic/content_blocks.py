"""The content blocks of a request, wherever they are, for the checks of services that support only some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from bud_asgi.testing.anthropic.check_values import Fields, unexpected_type

_SOURCE_TYPES: Mapping[str, tuple[str, ...]] = {"image": ("base64",), "document": ("base64", "content", "text")}


def content_blocks(fields: Fields) -> Iterator[tuple[str, Fields]]:
    """Yield every block with its path: in the system prompt, in messages, and in tool results."""
    parts: list[tuple[str, object]] = [("system", fields.get("system"))]
    messages = enumerate(objects(fields.get("messages")))
    parts += [(f"messages.{n}.content", message.get("content")) for n, message in messages]
    while parts:
        path, part = parts.pop(0)
        for n, block in enumerate(objects(part)):
            yield f"{path}.{n}", block
            parts.append((f"{path}.{n}.{block.get('type')}.content", block.get("content")))


def objects(value: object) -> list[Fields]:
    """Return the objects in a list; an empty list if `value` is not a list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def check_inline_source(block: Fields, path: str) -> Fields | None:
    """Return the `source` of an image or document block, which must be inline; `None` for other blocks.

    Bedrock and Vertex AI have no Files API and do not fetch URLs. Raises `Rejected`.
    """
    kind, source = str(block.get("type")), block.get("source")
    if kind not in _SOURCE_TYPES or not isinstance(source, dict):
        return None
    fields = cast("dict[str, Any]", source)
    if fields.get("type") not in _SOURCE_TYPES[kind]:
        raise unexpected_type(f"{path}.{kind}.source", fields.get("type"), _SOURCE_TYPES[kind])
    return fields
