"""What Claude models have on Anthropic's own API and not on Vertex AI, refused by the model layer.

Sources: "Claude on Vertex AI", "Features overview"; wordings as observed, else those of the Messages API.
"""

from __future__ import annotations

from typing import Any, cast

from bud_asgi.testing.anthropic.checks import Fields
from bud_asgi.testing.anthropic.content_blocks import blocks, objects
from bud_asgi.testing.anthropic.refusals import invalid

_ABSENT = ("container", "fallbacks", "inference_geo", "mcp_servers", "output_format", "service_tier", "speed", "thread")
_SOURCES = {"image": ("base64",), "document": ("base64", "content", "text")}
_TOOLS = ("bash_", "text_editor_", "computer_2", "memory_", "tool_search_tool_", "web_search_20250305")
"""How the tool types that there are begin."""


def judge_features(fields: Fields, model: str) -> None:
    """Refuse what Vertex AI does not have. Raises `Refused`."""
    for name in _ABSENT:
        if name in fields:
            raise invalid(f"{name}: Extra inputs are not permitted")
    for at, block in blocks(fields):
        _judge_mark(block, at)
        _judge_source(block, at)
    for n, tool in enumerate(objects(fields.get("tools"))):
        _judge_mark(tool, f"tools.{n}")
        kind = tool.get("type", "custom")
        if kind != "custom" and not str(kind).startswith(_TOOLS):
            raise _no_tag(f"tools.{n}", kind, ("bash_20250124", "custom", "web_search_20250305"))
    config: object = fields.get("output_config")
    if model.startswith("claude-haiku-4-5") and isinstance(config, dict) and "effort" in config:
        raise invalid("output_config.effort: Extra inputs are not permitted")


def _judge_mark(block: Fields, at: str) -> None:
    mark: object = block.get("cache_control")
    if isinstance(mark, dict) and "scope" in mark:
        raise invalid(f"{at}.cache_control.ephemeral.scope: Extra inputs are not permitted")


def _judge_source(block: Fields, at: str) -> None:
    kind, source = str(block.get("type")), block.get("source")
    if kind not in _SOURCES or not isinstance(source, dict):
        return
    given = cast("dict[str, Any]", source).get("type")
    if given not in _SOURCES[kind]:
        raise _no_tag(f"{at}.{kind}.source", given, _SOURCES[kind])


def _no_tag(at: str, tag: object, known: tuple[str, ...]) -> Exception:
    names = ", ".join(f"'{name}'" for name in known)
    words = f"Input tag '{tag}' found using 'type' does not match any of the expected tags: {names}"
    return invalid(f"{at}: {words}")
