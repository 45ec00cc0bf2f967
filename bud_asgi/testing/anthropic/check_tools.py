"""Checks of `tools` and `tool_choice` ("Tool use", "Messages")."""

from __future__ import annotations

from bud_asgi.testing.anthropic.check_values import (
    Fields,
    expect_boolean,
    expect_list,
    expect_object,
    expect_one_of,
    expect_string,
    expect_type,
    forbid_unknown,
    require,
)
from bud_asgi.testing.anthropic.errors import invalid_request

_CUSTOM_TOOL_FIELDS = [
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
_TOOL_TYPES = (
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
"""The types of the tools that Anthropic defines."""
_BETA_TOOL_TYPES = {
    "bash_20241022": "computer-use-2024-10-22",
    "text_editor_20241022": "computer-use-2024-10-22",
    "computer_20241022": "computer-use-2024-10-22",
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
    "code_execution_20250522": "code-execution-2025-05-22",
    "advisor_20260301": "advisor-tool-2026-03-01",
    "mcp_toolset": "mcp-client-",
}
"""Tool types with the beta flag, or its beginning, that each needs."""


def check_tools(given: object, betas: frozenset[str]) -> list[str]:
    """Check the tools and return their names. Raises `Rejected`."""
    if given is None:
        return []
    names: list[str] = []
    for n, value in enumerate(expect_list(given, "tools")):
        tool = expect_object(value, f"tools.{n}")
        if tool.get("type") in (None, "custom"):
            names.append(_check_custom(tool, f"tools.{n}.custom"))
            continue
        beta_types = [kind for kind, flag in _BETA_TOOL_TYPES.items() if any(beta.startswith(flag) for beta in betas)]
        kind = expect_type(tool, ["custom", *_TOOL_TYPES, *beta_types], f"tools.{n}")
        if "name" in tool:
            names.append(expect_string(tool["name"], f"tools.{n}.{kind}.name"))
    if len(set(names)) < len(names):
        raise invalid_request("tools: Tool names must be unique.")
    return names


def _check_custom(tool: Fields, path: str) -> str:
    name = expect_string(require(tool, "name", f"{path}."), f"{path}.name")
    if not 1 <= len(name) <= 128:
        raise invalid_request(f"{path}.name: String should have between 1 and 128 characters")
    schema = expect_object(require(tool, "input_schema", f"{path}."), f"{path}.input_schema")
    expect_one_of(require(schema, "type", f"{path}.input_schema."), ("object",), f"{path}.input_schema.type")
    if tool.get("description") is not None:
        expect_string(tool["description"], f"{path}.description")
    forbid_unknown(tool, _CUSTOM_TOOL_FIELDS, f"{path}.")
    return name


def check_tool_choice(given: object, names: list[str]) -> None:
    """Check the tool choice against the tools' names. Raises `Rejected`."""
    if given is None:
        return
    choice = expect_object(given, "tool_choice")
    kind = expect_type(choice, ("auto", "any", "tool", "none"), "tool_choice")
    allowed = ["type", "name"] if kind == "tool" else ["type"]
    forbid_unknown(
        choice, allowed if kind == "none" else [*allowed, "disable_parallel_tool_use"], f"tool_choice.{kind}."
    )
    if "disable_parallel_tool_use" in choice:
        expect_boolean(choice["disable_parallel_tool_use"], f"tool_choice.{kind}.disable_parallel_tool_use")
    if kind == "tool":
        name = expect_string(require(choice, "name", "tool_choice.tool."), "tool_choice.tool.name")
        if name not in names:
            raise invalid_request(f"Tool '{name}' not found in provided tools")
    if kind in ("any", "tool") and not names:
        raise invalid_request("tool_choice may only be specified while providing tools")
