"""Features of Anthropic's own API that Vertex AI lacks, as its model layer rejects them.

Sources: "Claude on Vertex AI", "Features overview"; wordings as observed, else those of the Messages API.
"""

from __future__ import annotations

from bud_asgi.testing.anthropic.check_values import Fields, unexpected_type, unknown_field
from bud_asgi.testing.anthropic.content_blocks import check_inline_source, content_blocks, objects

_UNSUPPORTED_FIELDS = (
    "container",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "output_format",
    "service_tier",
    "speed",
    "thread",
)
_TOOL_TYPE_PREFIXES = ("bash_", "text_editor_", "computer_2", "memory_", "tool_search_tool_", "web_search_20250305")


def check_features(fields: Fields, model: str) -> None:
    """Reject what Vertex AI does not support. Raises `Rejected`."""
    for name in _UNSUPPORTED_FIELDS:
        if name in fields:
            raise unknown_field(name)
    for path, block in content_blocks(fields):
        _check_cache_control(block, path)
        check_inline_source(block, path)
    for n, tool in enumerate(objects(fields.get("tools"))):
        _check_cache_control(tool, f"tools.{n}")
        kind = tool.get("type", "custom")
        if kind != "custom" and not str(kind).startswith(_TOOL_TYPE_PREFIXES):
            raise unexpected_type(f"tools.{n}", kind, ("bash_20250124", "custom", "web_search_20250305"))
    config: object = fields.get("output_config")
    if model.startswith("claude-haiku-4-5") and isinstance(config, dict) and "effort" in config:
        raise unknown_field("output_config.effort")


def _check_cache_control(block: Fields, path: str) -> None:
    cache_control: object = block.get("cache_control")
    if isinstance(cache_control, dict) and "scope" in cache_control:
        raise unknown_field(f"{path}.cache_control.ephemeral.scope")
