"""Features of Anthropic's own API that Bedrock's InvokeModel lacks, as the model rejects them there.

Sources: "Claude on Amazon Bedrock", "Anthropic Claude Messages API" of Bedrock, "Features overview"; wordings as
observed, else those of the Messages API.
"""

from __future__ import annotations

from typing import Any, cast

from bud_asgi.testing.anthropic.check_values import (
    Fields,
    expect_one_of,
    forbid_unknown,
    unexpected_type,
    unknown_field,
)
from bud_asgi.testing.anthropic.content_blocks import check_inline_source, content_blocks, objects
from bud_asgi.testing.anthropic.errors import invalid_request
from bud_asgi.testing.anthropic.models import generation

_FIELDS = (
    "anthropic_beta anthropic_version context_management max_tokens messages metadata output_config safeguards "
    "stop_sequences system temperature thinking tool_choice tools top_k top_p user_profile_id"
)
"""The top-level fields that Bedrock knows. `model` and `stream` are not among them."""

MAX_IMAGE = 5 << 20
"""The largest image, in characters of its base64."""

_TOOL_TYPE_PREFIXES = ("bash_", "computer_2", "memory_", "text_editor_", "tool_search_tool_regex")
_TOOL_TYPES_IN_ERRORS = ("bash_20250124", "custom", "memory_20250818", "text_editor_20250728")
_STRUCTURED_OUTPUT_MODELS = (
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "claude-sonnet-4-6",
)
_EFFORTS = ("low", "medium", "high", "max", "xhigh")
_EFFORT_COUNTS = {"claude-opus-4-5": 3, "claude-opus-4-6": 4, "claude-sonnet-4-6": 4}
"""How many of `_EFFORTS` a model supports. Models of later generations support all, other models none."""
_BETA_TOOL_FIELDS = {
    "defer_loading": "tool-search-tool-2025-10-19",
    "input_examples": "tool-examples-2025-10-29",
    "allowed_callers": None,
    "eager_input_streaming": None,
}
"""Fields of a tool with the beta flag that each needs; `None`: not supported at all."""
_BETA_EDITS = {"compact_": "compact-2026-01-12", "clear_tool_uses_": "context-management-2025-06-27"}
"""Prefixes of context edit types with the beta flag that each needs."""


def check_features(fields: Fields, model: str, betas: frozenset[str]) -> None:
    """Reject what Bedrock does not support, for this model or at all. Raises `Rejected`."""
    forbid_unknown(fields, _FIELDS.split())
    if "safeguards" in fields and "dangerous-tool-use-2026-09-03" not in betas:
        raise unknown_field("safeguards")
    for path, block in content_blocks(fields):
        _check_cache_control(block, path, model)
        _check_source(block, path)
    for n, tool in enumerate(objects(fields.get("tools"))):
        _check_cache_control(tool, f"tools.{n}", model)
        _check_tool(tool, f"tools.{n}", model, betas)
    for n, message in enumerate(objects(fields.get("messages"))):
        if message.get("role") == "system" and generation(model) < (4, 8):
            raise invalid_request(f"messages.{n}.role: Input should be 'user' or 'assistant'")
    _check_output_config(fields, model)
    _check_thinking(fields, model)
    _check_context_edits(fields, betas)


def _check_cache_control(block: Fields, path: str, model: str) -> None:
    value: object = block.get("cache_control")
    cache_control = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if "scope" in cache_control:
        raise unknown_field(f"{path}.cache_control.ephemeral.scope")
    if "ttl" in cache_control and generation(model) < (4, 5):
        raise unknown_field(f"{path}.cache_control.ephemeral.ttl")


def _check_source(block: Fields, path: str) -> None:
    source = check_inline_source(block, path)
    size = len(str(source.get("data", ""))) if source else 0
    if block.get("type") == "image" and size > MAX_IMAGE:
        raise invalid_request(
            f"{path}.image.source.base64: image exceeds 5 MB maximum: {size} bytes > {MAX_IMAGE} bytes"
        )


def _check_tool(tool: Fields, path: str, model: str, betas: frozenset[str]) -> None:
    kind = str(tool.get("type") or "custom")
    if kind.startswith("tool_search_tool_bm25"):
        raise invalid_request("BM25 tool search is not supported on Bedrock. Use tool_search_tool_regex instead.")
    if kind != "custom" and not kind.startswith(_TOOL_TYPE_PREFIXES):
        raise unexpected_type(path, kind, _TOOL_TYPES_IN_ERRORS)
    if kind.startswith("tool_search_tool_") and _BETA_TOOL_FIELDS["defer_loading"] not in betas:
        raise unexpected_type(path, kind, _TOOL_TYPES_IN_ERRORS)
    for name, flag in _BETA_TOOL_FIELDS.items():
        if name in tool and flag not in betas:
            raise unknown_field(f"{path}.{kind}.{name}")
    if "strict" in tool and not model.startswith(_STRUCTURED_OUTPUT_MODELS):
        raise unknown_field(f"{path}.{kind}.strict")


def _check_output_config(fields: Fields, model: str) -> None:
    value: object = fields.get("output_config")
    config = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if "format" in config and not model.startswith(_STRUCTURED_OUTPUT_MODELS):
        raise unknown_field("output_config.format")
    if "effort" not in config:
        return
    count = next((count for name, count in _EFFORT_COUNTS.items() if model.startswith(name)), None)
    if count is None:
        count = len(_EFFORTS) if generation(model) >= (4, 7) else 0
    if not count:
        raise unknown_field("output_config.effort")
    expect_one_of(config["effort"], _EFFORTS[:count], "output_config.effort")


def _check_thinking(fields: Fields, model: str) -> None:
    thinking: object = fields.get("thinking")
    kind = cast("dict[str, Any]", thinking).get("type") if isinstance(thinking, dict) else None
    if kind == "adaptive" and generation(model) < (4, 6):
        raise invalid_request("adaptive thinking is not supported on this model")
    if model.startswith(("claude-haiku-4-5", "claude-sonnet-4-5")) and {"temperature", "top_p"} <= set(fields):
        raise invalid_request("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")


def _check_context_edits(fields: Fields, betas: frozenset[str]) -> None:
    management: object = fields.get("context_management")
    edits = cast("dict[str, Any]", management).get("edits") if isinstance(management, dict) else None
    for n, edit in enumerate(objects(edits)):
        kind = str(edit.get("type"))
        flag = next((flag for prefix, flag in _BETA_EDITS.items() if kind.startswith(prefix)), None)
        if flag not in betas:
            expected = ("clear_tool_uses_20250919", "compact_20260112")
            raise unexpected_type(f"context_management.edits.{n}", kind, expected)
