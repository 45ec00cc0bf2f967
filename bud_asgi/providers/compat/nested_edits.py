"""The few edits inside fields that the clouds require.

An edit is made only if the bytes contain what it looks for. It re-encodes the containers on the path to the change;
every other value keeps its bytes. Fields that cannot be parsed are sent unchanged, for the service to validate.

Vendor pages "Structured outputs", "Context editing", "Tool search tool", "Fine-grained tool streaming", "Task budgets".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec.json import encode

from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.providers.compat.cache_control import move_automatic_breakpoint, strip_scope
from bud_asgi.providers.compat.edit import BodyEdit, Object, is_object, parse_list, parse_object

EditName = Literal[
    "cache_control",
    "cache_control.scope",
    "context_management.clear_thinking",
    "output_config.task_budget",
    "output_format",
    "tools.custom",
    "tools.eager_input_streaming",
]
"""The edits that a service may need, each named after the field it changes."""

FINE_GRAINED = "fine-grained-tool-streaming-2025-05-14"
"""The beta flag equivalent to `eager_input_streaming`, for services whose tools do not have that field."""

_CUSTOM = re.compile(rb'"custom"[ \t\n\r]*+:')


def _hoist_custom(body: BodyEdit) -> None:
    """Move `defer_loading` out of `custom`, where Claude Code puts it, into the tool itself."""

    def edit(tool: Object) -> bool:
        custom = tool.pop("custom", None)
        if custom is None:
            return False
        inside = parse_object(custom) if is_object(custom) else {}
        if "defer_loading" in inside:
            tool.setdefault("defer_loading", inside.pop("defer_loading"))
        if inside:
            body.mark_dropped("tools.custom")
        return True

    if body.contains("tools", b'"custom"') and _CUSTOM.search(body.value("tools") or b""):
        _edit_tools(body, edit)


def _replace_eager_streaming(body: BodyEdit) -> None:
    """Replace `eager_input_streaming` of tools with the beta flag, which applies to all tools."""

    def edit(tool: Object) -> bool:
        eager = tool.pop("eager_input_streaming", None)
        if eager is not None and bytes(eager) == b"true" and FINE_GRAINED not in body.flags:
            body.flags.append(FINE_GRAINED)
        return eager is not None

    if body.contains("tools", b'"eager_input_streaming"'):
        _edit_tools(body, edit)


def _edit_tools(body: BodyEdit, edit: Callable[[Object], bool]) -> None:
    tools = parse_list(body.value("tools") or b"[]")
    changed = False
    for n, item in enumerate(tools):
        if is_object(item):
            tool = parse_object(item)
            if edit(tool):
                tools[n] = msgspec.Raw(encode(tool))
                changed = True
    if changed:
        body.changed["tools"] = encode(tools)


def _drop_clear_thinking(body: BodyEdit) -> None:
    """Remove the edit that clears thinking, and the whole field if no other edit remains."""
    if not body.contains("context_management", b'"clear_thinking_'):
        return
    management = parse_object(body.value("context_management") or b"{}")
    edits = parse_list(management.get("edits", b"[]"))
    kept = [edit for edit in edits if not _clears_thinking(edit)]
    if len(kept) == len(edits):
        return
    body.mark_dropped("context_management.clear_thinking")
    if kept:
        body.changed["context_management"] = encode({**management, "edits": kept})
    else:
        body.without.add("context_management")


def _clears_thinking(edit: msgspec.Raw) -> bool:
    fields = parse_object(edit) if is_object(edit) else {}
    return bytes(fields.get("type", b"")).startswith(b'"clear_thinking_')


def _drop_task_budget(body: BodyEdit) -> None:
    """Remove `output_config.task_budget`: the clouds do not accept its beta flag."""
    if not body.contains("output_config", b'"task_budget"'):
        return
    config = parse_object(body.value("output_config") or b"{}")
    if config.pop("task_budget", None) is not None:
        body.changed["output_config"] = encode(config)
        body.mark_dropped("output_config.task_budget")


def _move_output_format(body: BodyEdit) -> None:
    """Move `output_format` into `output_config`, the only place where the clouds accept it."""
    output_format = body.value("output_format")
    if output_format is None:
        return
    config = body.value("output_config") or b"{}"
    fields = parse_object(config) if config != b"null" else {}
    body.without.add("output_format")
    if output_format != b"null":
        body.changed["output_config"] = encode({"format": msgspec.Raw(output_format), **fields})


EDITS: Mapping[EditName, Callable[[BodyEdit], None]] = {
    "cache_control": move_automatic_breakpoint,
    "cache_control.scope": strip_scope,
    "context_management.clear_thinking": _drop_clear_thinking,
    "output_config.task_budget": _drop_task_budget,
    "output_format": _move_output_format,
    "tools.custom": _hoist_custom,
    "tools.eager_input_streaming": _replace_eager_streaming,
}
"""The function that makes each edit."""


def apply_edits(body: BodyEdit, names: tuple[EditName, ...]) -> None:
    """Make the edits that a service needs. A field that cannot be parsed is left as it is."""
    for name in names:
        with suppress(*MALFORMED_JSON):
            EDITS[name](body)
