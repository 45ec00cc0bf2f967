"""What Claude models have on Anthropic's own API and not on Bedrock's InvokeModel, refused in the model's words.

Sources: "Claude on Amazon Bedrock", "Anthropic Claude Messages API" of Bedrock, "Features overview"; wordings as
observed, else those of the Messages API.
"""

from __future__ import annotations

from typing import Any, cast

from bud_asgi.testing.anthropic.checks import Fields, no_others
from bud_asgi.testing.anthropic.content_blocks import blocks, objects
from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.anthropic.refusals import Refused, invalid

_FIELDS = (
    "anthropic_beta anthropic_version context_management max_tokens messages metadata output_config safeguards "
    "stop_sequences system temperature thinking tool_choice tools top_k top_p user_profile_id"
)
"""The top-level fields that it knows. `model` and `stream` aren't among them."""

MAX_IMAGE = 5 << 20
"""The largest image, in characters of its base64."""

_SOURCES = {"image": ("base64",), "document": ("base64", "content", "text")}
_TOOLS = ("bash_", "computer_2", "memory_", "text_editor_", "tool_search_tool_regex")
"""How the tool types that there are begin."""
_STRUCTURED = ("claude-haiku-4-5", "claude-opus-4-5", "claude-opus-4-6", "claude-sonnet-4-5", "claude-sonnet-4-6")
_EFFORTS = {"claude-opus-4-5": 3, "claude-opus-4-6": 4, "claude-sonnet-4-6": 4}
"""How many of the efforts (low, medium, high, max, xhigh) a model knows; later ones know all, others none."""
_EFFORT = ("low", "medium", "high", "max", "xhigh")
_PAIRED_TOOL_FIELDS = {
    "defer_loading": "tool-search-tool-2025-10-19",
    "input_examples": "tool-examples-2025-10-29",
    "allowed_callers": None,
    "eager_input_streaming": None,
}
"""Fields of a tool, with the beta flag that each needs; without one it isn't taken at all."""
_EDITS = {"compact_": "compact-2026-01-12", "clear_tool_uses_": "context-management-2025-06-27"}


def judge_features(fields: Fields, model: str, betas: frozenset[str]) -> None:
    """Refuse what Bedrock does not have, for this model or at all. Raises `Refused`."""
    no_others(fields, _FIELDS.split())
    if "safeguards" in fields and "dangerous-tool-use-2026-09-03" not in betas:
        raise _extra("safeguards")
    for at, block in blocks(fields):
        _judge_mark(block, at, model)
        _judge_source(block, at)
    for n, tool in enumerate(objects(fields.get("tools"))):
        _judge_mark(tool, f"tools.{n}", model)
        _judge_tool(tool, f"tools.{n}", model, betas)
    for n, message in enumerate(objects(fields.get("messages"))):
        if message.get("role") == "system" and generation(model) < (4, 8):
            raise invalid(f"messages.{n}.role: Input should be 'user' or 'assistant'")
    _judge_output(fields, model)
    _judge_thinking(fields, model)
    _judge_edits(fields, betas)


def _judge_mark(block: Fields, at: str, model: str) -> None:
    mark: object = block.get("cache_control")
    given = cast("dict[str, Any]", mark) if isinstance(mark, dict) else {}
    if "scope" in given:
        raise _extra(f"{at}.cache_control.ephemeral.scope")
    if "ttl" in given and generation(model) < (4, 5):
        raise _extra(f"{at}.cache_control.ephemeral.ttl")


def _judge_source(block: Fields, at: str) -> None:
    kind, source = str(block.get("type")), block.get("source")
    if kind not in _SOURCES or not isinstance(source, dict):
        return
    given = cast("dict[str, Any]", source)
    if given.get("type") not in _SOURCES[kind]:
        raise _no_tag(f"{at}.{kind}.source", given.get("type"), _SOURCES[kind])
    size = len(str(given.get("data", "")))
    if kind == "image" and size > MAX_IMAGE:
        raise invalid(f"{at}.image.source.base64: image exceeds 5 MB maximum: {size} bytes > {MAX_IMAGE} bytes")


def _judge_tool(tool: Fields, at: str, model: str, betas: frozenset[str]) -> None:
    kind = str(tool.get("type") or "custom")
    if kind.startswith("tool_search_tool_bm25"):
        raise invalid("BM25 tool search is not supported on Bedrock. Use tool_search_tool_regex instead.")
    searches = kind.startswith("tool_search_tool_")
    if kind != "custom" and not kind.startswith(_TOOLS):
        raise _no_tag(at, kind, ("bash_20250124", "custom", "memory_20250818", "text_editor_20250728"))
    if searches and _PAIRED_TOOL_FIELDS["defer_loading"] not in betas:
        raise _no_tag(at, kind, ("bash_20250124", "custom", "memory_20250818", "text_editor_20250728"))
    for name, flag in _PAIRED_TOOL_FIELDS.items():
        if name in tool and flag not in betas:
            raise _extra(f"{at}.{kind}.{name}")
    if "strict" in tool and not model.startswith(_STRUCTURED):
        raise _extra(f"{at}.{kind}.strict")


def _judge_output(fields: Fields, model: str) -> None:
    config: object = fields.get("output_config")
    given = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    if "format" in given and not model.startswith(_STRUCTURED):
        raise _extra("output_config.format")
    if "effort" not in given:
        return
    named = next((count for name, count in _EFFORTS.items() if model.startswith(name)), 0)
    known = _EFFORT[: named or (len(_EFFORT) if generation(model) >= (4, 7) else 0)]
    if not known:
        raise _extra("output_config.effort")
    if given["effort"] not in known:
        *most, last = [f"'{effort}'" for effort in known]
        raise invalid(f"output_config.effort: Input should be {', '.join(most)} or {last}")


def _judge_thinking(fields: Fields, model: str) -> None:
    thinking: object = fields.get("thinking")
    kind = cast("dict[str, Any]", thinking).get("type") if isinstance(thinking, dict) else None
    if kind == "adaptive" and generation(model) < (4, 6):
        raise invalid("adaptive thinking is not supported on this model")
    if model.startswith(("claude-haiku-4-5", "claude-sonnet-4-5")) and {"temperature", "top_p"} <= set(fields):
        raise invalid("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")


def _judge_edits(fields: Fields, betas: frozenset[str]) -> None:
    managed: object = fields.get("context_management")
    edits = cast("dict[str, Any]", managed).get("edits") if isinstance(managed, dict) else None
    for n, edit in enumerate(objects(edits)):
        kind = str(edit.get("type"))
        flag = next((flag for start, flag in _EDITS.items() if kind.startswith(start)), None)
        if flag not in betas:
            raise _no_tag(f"context_management.edits.{n}", kind, ("clear_tool_uses_20250919", "compact_20260112"))


def _extra(at: str) -> Refused:
    return invalid(f"{at}: Extra inputs are not permitted")


def _no_tag(at: str, tag: object, known: tuple[str, ...]) -> Refused:
    names = ", ".join(f"'{name}'" for name in known)
    words = f"Input tag '{tag}' found using 'type' does not match any of the expected tags: {names}"
    return invalid(f"{at}: {words}")
