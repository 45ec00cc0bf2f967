"""The few edits inside of fields that the clouds force.

Each is made only where the bytes say that there is something to do. Then the containers on the way to it are written
anew, and every other value in them stays as it came, byte for byte. What can't be read is left to the service to judge.

Vendor pages "Structured outputs", "Context editing", "Tool search tool", "Fine-grained tool streaming", "Task budgets".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from msgspec.json import encode

from bud_asgi.providers.compat.cache_control import move_automatic_mark, strip_scope
from bud_asgi.providers.compat.edit import MALFORMED, BodyEdit, Object, fields_of, is_object, items_of

EditName = Literal[
    "cache_control",
    "cache_control.scope",
    "context_management.clear_thinking",
    "output_config.task_budget",
    "output_format",
    "tools.custom",
    "tools.eager_input_streaming",
]
"""The edits that a service may need, named after what they are for."""

FINE_GRAINED = "fine-grained-tool-streaming-2025-05-14"
"""The flag that stands for `eager_input_streaming` where tools can't say it."""

_CUSTOM = re.compile(rb'"custom"[ \t\n\r]*+:')


def _hoist_custom(draft: BodyEdit) -> None:
    """`custom` of tools, in which Claude Code says `defer_loading`: that is said by the tool itself."""

    def edit(tool: Object) -> bool:
        custom = tool.pop("custom", None)
        if custom is None:
            return False
        inside = fields_of(custom) if is_object(custom) else {}
        if "defer_loading" in inside:
            tool.setdefault("defer_loading", inside.pop("defer_loading"))
        if inside:
            draft.note("tools.custom")
        return True

    if draft.says("tools", b'"custom"') and _CUSTOM.search(draft.value("tools") or b""):
        _edit_tools(draft, edit)


def _replace_eager_streaming(draft: BodyEdit) -> None:
    """`eager_input_streaming` of tools: a flag says the same for all of them."""

    def edit(tool: Object) -> bool:
        eager = tool.pop("eager_input_streaming", None)
        if eager is not None and bytes(eager) == b"true" and FINE_GRAINED not in draft.flags:
            draft.flags.append(FINE_GRAINED)
        return eager is not None

    if draft.says("tools", b'"eager_input_streaming"'):
        _edit_tools(draft, edit)


def _edit_tools(draft: BodyEdit, edit: Callable[[Object], bool]) -> None:
    tools = items_of(draft.value("tools") or b"[]")
    changed = False
    for n, item in enumerate(tools):
        if is_object(item):
            tool = fields_of(item)
            if edit(tool):
                tools[n] = msgspec.Raw(encode(tool))
                changed = True
    if changed:
        draft.changed["tools"] = encode(tools)


def _drop_clear_thinking(draft: BodyEdit) -> None:
    """The edit that clears thinking. Without any edit left the whole field goes."""
    if not draft.says("context_management", b'"clear_thinking_'):
        return
    managed = fields_of(draft.value("context_management") or b"{}")
    edits = items_of(managed.get("edits", b"[]"))
    kept = [edit for edit in edits if not _clears_thinking(edit)]
    if len(kept) == len(edits):
        return
    draft.note("context_management.clear_thinking")
    if kept:
        draft.changed["context_management"] = encode({**managed, "edits": kept})
    else:
        draft.without.add("context_management")


def _clears_thinking(edit: msgspec.Raw) -> bool:
    fields = fields_of(edit) if is_object(edit) else {}
    return bytes(fields.get("type", b"")).startswith(b'"clear_thinking_')


def _drop_task_budget(draft: BodyEdit) -> None:
    """`output_config.task_budget`: the flag that it goes with is not known."""
    if not draft.says("output_config", b'"task_budget"'):
        return
    config = fields_of(draft.value("output_config") or b"{}")
    if config.pop("task_budget", None) is not None:
        draft.changed["output_config"] = encode(config)
        draft.note("output_config.task_budget")


def _move_output_format(draft: BodyEdit) -> None:
    """`output_format` stands in `output_config` now, which the clouds alone take."""
    form = draft.value("output_format")
    if form is None:
        return
    config = draft.value("output_config") or b"{}"
    fields = fields_of(config) if config != b"null" else {}
    draft.without.add("output_format")
    if form != b"null":
        draft.changed["output_config"] = encode({"format": msgspec.Raw(form), **fields})


EDITS: Mapping[EditName, Callable[[BodyEdit], None]] = {
    "cache_control": move_automatic_mark,
    "cache_control.scope": strip_scope,
    "context_management.clear_thinking": _drop_clear_thinking,
    "output_config.task_budget": _drop_task_budget,
    "output_format": _move_output_format,
    "tools.custom": _hoist_custom,
    "tools.eager_input_streaming": _replace_eager_streaming,
}
"""What each edit does to a draft."""


def apply_edits(draft: BodyEdit, names: tuple[EditName, ...]) -> None:
    """Make the edits that a service needs, each as far as the field can be read."""
    for name in names:
        try:
            EDITS[name](draft)
        except MALFORMED:
            continue
