"""The content blocks of a request, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from bud_asgi.testing.anthropic.checks import Fields


def blocks(fields: Fields) -> Iterator[tuple[str, Fields]]:
    """Every block with where it stands: of the system prompt, of messages, of tools' results."""
    parts: list[tuple[str, object]] = [("system", fields.get("system"))]
    messages = enumerate(objects(fields.get("messages")))
    parts += [(f"messages.{n}.content", message.get("content")) for n, message in messages]
    while parts:
        at, part = parts.pop(0)
        for n, block in enumerate(objects(part)):
            yield f"{at}.{n}", block
            parts.append((f"{at}.{n}.{block.get('type')}.content", block.get("content")))


def objects(value: object) -> list[Fields]:
    """The objects in a list; none in what is no list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]
