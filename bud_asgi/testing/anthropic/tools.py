"""What the service refuses in `tools` and `tool_choice` ("Tool use", "Messages")."""

from __future__ import annotations

from bud_asgi.testing.anthropic.checks import (
    Fields,
    a_boolean,
    a_list,
    a_string,
    an_object,
    no_others,
    one_of,
    required,
    tagged,
)
from bud_asgi.testing.anthropic.refusals import invalid

_CUSTOM = [
    "type",
    "name",
    "description",
    "input_schema",
    "strict",
    "cache_control",
    "defer_loading",
    "allowed_callers",
    "input_examples",
    "eager_input_streaming",
]
_FREE = (
    "bash_20250124",
    "text_editor_20250728",
    "text_editor_20250429",
    "text_editor_20250124",
    "memory_20250818",
    "computer_toolset_20260801",
    "browser_toolset_20260801",
    "web_search_20250305",
    "web_search_20260209",
    "web_search_20260318",
    "web_fetch_20250910",
    "web_fetch_20260209",
    "web_fetch_20260309",
    "web_fetch_20260318",
    "code_execution_20250825",
    "code_execution_20260120",
    "code_execution_20260521",
    "tool_search_tool_regex_20251119",
    "tool_search_tool_bm25_20251119",
    "tool_search_tool_regex",
    "tool_search_tool_bm25",
)
"""The tool types that the service brings."""
_BETA_TOOLS = {
    "bash_20241022": "computer-use-2024-10-22",
    "text_editor_20241022": "computer-use-2024-10-22",
    "computer_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
    "code_execution_20250522": "code-execution-2025-05-22",
    "advisor_20260301": "advisor-tool-2026-03-01",
    "mcp_toolset": "mcp-client-",
}
"""More of them, with the beta flag (its start) that each needs."""


def judge_tools(given: object, betas: frozenset[str]) -> list[str]:
    """Refuse tools that the service would; the names of the rest."""
    if given is None:
        return []
    names: list[str] = []
    for n, value in enumerate(a_list(given, "tools")):
        tool = an_object(value, f"tools.{n}")
        if tool.get("type") in (None, "custom"):
            names.append(_judge_custom(tool, f"tools.{n}.custom"))
            continue
        paired = [kind for kind, flag in _BETA_TOOLS.items() if any(beta.startswith(flag) for beta in betas)]
        kind = tagged(tool, ["custom", *_FREE, *paired], f"tools.{n}")
        if "name" in tool:
            names.append(a_string(tool["name"], f"tools.{n}.{kind}.name"))
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")
    return names


def _judge_custom(tool: Fields, at: str) -> str:
    name = a_string(required(tool, "name", f"{at}."), f"{at}.name")
    if not 1 <= len(name) <= 128:
        raise invalid(f"{at}.name: String should have between 1 and 128 characters")
    schema = an_object(required(tool, "input_schema", f"{at}."), f"{at}.input_schema")
    one_of(required(schema, "type", f"{at}.input_schema."), ("object",), f"{at}.input_schema.type")
    if tool.get("description") is not None:
        a_string(tool["description"], f"{at}.description")
    no_others(tool, _CUSTOM, f"{at}.")
    return name


def judge_tool_choice(given: object, names: list[str]) -> None:
    """Refuse a choice that the service would."""
    if given is None:
        return
    choice = an_object(given, "tool_choice")
    kind = tagged(choice, ("auto", "any", "tool", "none"), "tool_choice")
    allowed = ["type", "name"] if kind == "tool" else ["type"]
    no_others(choice, allowed if kind == "none" else [*allowed, "disable_parallel_tool_use"], f"tool_choice.{kind}.")
    if "disable_parallel_tool_use" in choice:
        a_boolean(choice["disable_parallel_tool_use"], f"tool_choice.{kind}.disable_parallel_tool_use")
    if kind == "tool":
        name = a_string(required(choice, "name", "tool_choice.tool."), "tool_choice.tool.name")
        if name not in names:
            raise invalid(f"Tool '{name}' not found in provided tools")
    if kind in ("any", "tool") and not names:
        raise invalid("tool_choice may only be specified while providing tools")
