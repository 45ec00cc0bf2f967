"""Checks of `messages` and `system`: roles, blocks and their fields, tool pairing, cache breakpoints.

Sources: "Messages", "Tool use", "Prompt caching"; wordings as observed.
"""

from __future__ import annotations

from typing import Any, cast

from bud_asgi.testing.anthropic.check_values import (
    Fields,
    expect_list,
    expect_object,
    expect_one_of,
    expect_string,
    expect_type,
    forbid_unknown,
    require,
    unknown_field,
)
from bud_asgi.testing.anthropic.errors import invalid_request

_FIELDS = {
    "text": ("text!", "citations"),
    "image": ("source!", "transformations"),
    "document": ("source!", "title", "context", "citations"),
    "search_result": ("source!", "title!", "content!", "citations"),
    "tool_use": ("id!", "name!", "input!", "caller", "toolset_name"),
    "tool_result": ("tool_use_id!", "content", "is_error", "toolset_name"),
    "thinking": ("thinking!", "signature!"),
    "redacted_thinking": ("data!",),
}
"""Block types whose fields are checked, with these fields; `!` marks required ones."""
_NESTED_TYPES = {
    "tool_result": ("text", "image", "search_result", "document", "tool_reference", "browser_state"),
    "search_result": ("text",),
}
"""Block types with blocks in their `content`, and the types allowed there."""
_UNCHECKED_TYPES = [
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "container_upload",
    "tool_reference",
    "browser_state",
]
_BETA_TYPES = {
    "compaction": "compact-",
    "mcp_tool_use": "mcp-client-",
    "mcp_tool_result": "mcp-client-",
    "mcp_tool_listing": "mcp-client-2026-09-15",
    "advisor_tool_result": "advisor-tool-",
    "fallback": "server-side-fallback-",
    "tool_addition": "mid-conversation-tool-changes-",
    "tool_removal": "mid-conversation-tool-changes-",
}
"""Block types with the beginning of the beta flag that each needs."""
_UNCACHEABLE_TYPES = ("thinking", "redacted_thinking")
_MAX_BREAKPOINTS = 4


def check_system(given: object, version: str) -> None:
    """Check that the system prompt is a string or a list of text blocks. Raises `Rejected`."""
    if given is None or isinstance(given, str):
        return
    if not isinstance(given, list):
        raise invalid_request("system: Input should be a valid string")
    for n, value in enumerate(cast("list[object]", given)):
        _check_block(expect_object(value, f"system.{n}"), f"system.{n}", ("text",), version, role="system")


def check_messages(
    given: object, version: str, betas: frozenset[str], *, prefill: bool, continued: bool = False
) -> None:
    """Check the messages. Raises `Rejected`.

    `prefill`: the model can continue a final assistant message. `continued`: these messages continue a thread that the
    service has stored.
    """
    messages = [expect_object(value, f"messages.{n}") for n, value in enumerate(expect_list(given, "messages"))]
    if not messages:
        raise invalid_request("messages: at least one message is required")
    if len(messages) > 100_000:
        raise invalid_request(f"messages: List should have at most 100000 items after validation, not {len(messages)}")
    allowed = [*_FIELDS, *_UNCHECKED_TYPES]
    allowed += [kind for kind, flag in _BETA_TYPES.items() if any(beta.startswith(flag) for beta in betas)]
    for n, message in enumerate(messages):
        _check_message(message, f"messages.{n}", allowed, version, last=n == len(messages) - 1)
    _check_pairing(messages, continued=continued)
    if messages[-1]["role"] == "assistant" and not prefill:
        raise invalid_request(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )


def _check_message(message: Fields, path: str, allowed: list[str], version: str, *, last: bool) -> None:
    role = expect_one_of(require(message, "role", f"{path}."), ("user", "assistant", "system"), f"{path}.role")
    known = ("role", "content", "clear_at", "output_config") if role == "system" else ("role", "content")
    forbid_unknown(message, known, f"{path}.")
    if role == "system" and "output_config" in message and "content" not in message:
        return
    content = require(message, "content", f"{path}.")
    if not isinstance(content, str | list):
        raise invalid_request(f"{path}.content: Input should be a valid string")
    if not content and not (last and role == "assistant"):
        reason = "all messages must have non-empty content except for the optional final assistant message"
        raise invalid_request(f"{path}: {reason}")
    if isinstance(content, list):
        for n, value in enumerate(cast("list[object]", content)):
            block_path = f"{path}.content.{n}"
            _check_block(expect_object(value, block_path), block_path, allowed, version, role=role)


def _check_block(block: Fields, path: str, allowed: list[str] | tuple[str, ...], version: str, *, role: str) -> None:
    """Check a block and those inside it.

    `role` is the message's, or `tool_result` directly inside one: version 2026-10-21 has other rules there.
    """
    strict = version == "2026-10-21"
    kinds = [kind for kind in allowed if not (strict and role == "assistant" and kind == "document")]
    kind = expect_type(block, kinds, path)
    if kind not in _FIELDS:
        return
    fields = _FIELDS[kind]
    for name in fields:
        if name.endswith("!"):
            require(block, name[:-1], f"{path}.{kind}.")
    cache = () if kind in _UNCACHEABLE_TYPES else ("cache_control",)
    forbid_unknown(block, ("type", *cache, *(name.rstrip("!") for name in fields)), f"{path}.{kind}.")
    if kind == "text":
        if not expect_string(block["text"], f"{path}.text.text"):
            raise invalid_request("messages: text content blocks must be non-empty")
        if strict and role == "user" and block.get("citations"):
            raise unknown_field(f"{path}.text.citations")
    if kind == "tool_use":
        expect_object(block["input"], f"{path}.tool_use.input")
    if kind in _NESTED_TYPES and isinstance(block.get("content"), list):
        inner_role = kind if kind == "tool_result" else "user" if role == "tool_result" else role
        for n, value in enumerate(cast("list[object]", block["content"])):
            inner_path = f"{path}.{kind}.content.{n}"
            _check_block(expect_object(value, inner_path), inner_path, _NESTED_TYPES[kind], version, role=inner_role)


def _check_pairing(messages: list[Fields], *, continued: bool) -> None:
    """Check that the results in each message are those of the tool calls in the message before it.

    In a continued thread, the calls before the first message are not known here.
    """
    called: list[str] = []
    for n, message in enumerate(messages):
        results = _ids(message, "tool_result", "tool_use_id")
        for result in results:
            if result not in called and not (continued and n == 0):
                raise invalid_request(
                    f"messages.{n}: unexpected `tool_use_id` found in `tool_result` blocks: {result}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
        if missing := [call for call in called if call not in results]:
            raise invalid_request(
                f"messages.{n - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        called = _ids(message, "tool_use", "id")


def _ids(message: Fields, kind: str, name: str) -> list[str]:
    content = message.get("content")
    blocks = cast("list[dict[str, Any]]", content) if isinstance(content, list) else []
    return [str(block[name]) for block in blocks if block.get("type") == kind]


def check_cache_breakpoints(fields: Fields) -> None:
    """Check that there are at most four cache breakpoints, the automatic one included. Raises `Rejected`."""
    breakpoints = [fields] if fields.get("cache_control") is not None else []
    parts: list[object] = [fields.get("system"), fields.get("tools")]
    parts.extend(message.get("content") for message in cast("list[dict[str, Any]]", fields["messages"]))
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts.extend(cast("list[object]", part))
        elif isinstance(part, dict):
            block = cast("dict[str, Any]", part)
            breakpoints += [block] if block.get("cache_control") is not None else []
            parts.append(block.get("content") if block.get("type") == "tool_result" else None)
    if len(breakpoints) > _MAX_BREAKPOINTS:
        raise invalid_request(
            f"A maximum of {_MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {len(breakpoints)}."
        )
