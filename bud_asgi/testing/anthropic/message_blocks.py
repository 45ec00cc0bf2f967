"""What the service refuses in `messages` and `system`: roles, blocks and their fields, tool pairing, cache marks.

Sources: "Messages", "Tool use", "Prompt caching"; wordings as observed.
"""

from __future__ import annotations

from typing import Any, cast

from bud_asgi.testing.anthropic.checks import Fields, a_list, a_string, an_object, no_others, one_of, required, tagged
from bud_asgi.testing.anthropic.refusals import invalid

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
"""The fields of the blocks that are judged closely; `!` stands after required ones."""
_NESTED = {
    "tool_result": ("text", "image", "search_result", "document", "tool_reference", "browser_state"),
    "search_result": ("text",),
}
"""The blocks with blocks in their `content`, and which."""
_OTHERS = [
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
_BETA_BLOCKS = {
    "compaction": "compact-",
    "mcp_tool_use": "mcp-client-",
    "mcp_tool_result": "mcp-client-",
    "mcp_tool_listing": "mcp-client-2026-09-15",
    "advisor_tool_result": "advisor-tool-",
    "fallback": "server-side-fallback-",
    "tool_addition": "mid-conversation-tool-changes-",
    "tool_removal": "mid-conversation-tool-changes-",
}
_UNMARKED = ("thinking", "redacted_thinking")
_MAX_MARKS = 4


def judge_system(given: object, version: str) -> None:
    """Refuse a system prompt that is neither a string nor text blocks."""
    if given is None or isinstance(given, str):
        return
    if not isinstance(given, list):
        raise invalid("system: Input should be a valid string")
    for n, value in enumerate(cast("list[object]", given)):
        _judge_block(an_object(value, f"system.{n}"), f"system.{n}", ("text",), version, role="system")


def judge_messages(
    given: object, version: str, betas: frozenset[str], *, prefill: bool, continued: bool = False
) -> None:
    """Refuse messages that the service would.

    `prefill` is whether the model goes on from an assistant message, `continued` whether earlier messages are held.
    """
    messages = [an_object(value, f"messages.{n}") for n, value in enumerate(a_list(given, "messages"))]
    if not messages:
        raise invalid("messages: at least one message is required")
    if len(messages) > 100_000:
        raise invalid(f"messages: List should have at most 100000 items after validation, not {len(messages)}")
    allowed = [*_FIELDS, *_OTHERS]
    allowed += [kind for kind, flag in _BETA_BLOCKS.items() if any(beta.startswith(flag) for beta in betas)]
    for n, message in enumerate(messages):
        _judge_message(message, f"messages.{n}", allowed, version, last=n == len(messages) - 1)
    _judge_pairing(messages, continued=continued)
    if messages[-1]["role"] == "assistant" and not prefill:
        raise invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )


def _judge_message(message: Fields, at: str, allowed: list[str], version: str, *, last: bool) -> None:
    role = one_of(required(message, "role", f"{at}."), ("user", "assistant", "system"), f"{at}.role")
    known = ("role", "content", "clear_at", "output_config") if role == "system" else ("role", "content")
    no_others(message, known, f"{at}.")
    if role == "system" and "output_config" in message and "content" not in message:
        return
    content = required(message, "content", f"{at}.")
    if not isinstance(content, str | list):
        raise invalid(f"{at}.content: Input should be a valid string")
    if not content and not (last and role == "assistant"):
        words = "all messages must have non-empty content except for the optional final assistant message"
        raise invalid(f"{at}: {words}")
    if isinstance(content, list):
        for n, value in enumerate(cast("list[object]", content)):
            where = f"{at}.content.{n}"
            _judge_block(an_object(value, where), where, allowed, version, role=role)


def _judge_block(block: Fields, at: str, allowed: list[str] | tuple[str, ...], version: str, *, role: str) -> None:
    """`role` is the message's; `tool_result` for what stands directly in one, where the version's rules differ."""
    strict = version == "2026-10-21"
    kinds = [kind for kind in allowed if not (strict and role == "assistant" and kind == "document")]
    kind = tagged(block, kinds, at)
    if kind not in _FIELDS:
        return
    fields = _FIELDS[kind]
    for name in fields:
        if name.endswith("!"):
            required(block, name[:-1], f"{at}.{kind}.")
    marks = () if kind in _UNMARKED else ("cache_control",)
    no_others(block, ("type", *marks, *(name.rstrip("!") for name in fields)), f"{at}.{kind}.")
    if kind == "text":
        if not a_string(block["text"], f"{at}.text.text"):
            raise invalid("messages: text content blocks must be non-empty")
        if strict and role == "user" and block.get("citations"):
            raise invalid(f"{at}.text.citations: Extra inputs are not permitted")
    if kind == "tool_use":
        an_object(block["input"], f"{at}.tool_use.input")
    if kind in _NESTED and isinstance(block.get("content"), list):
        inside = kind if kind == "tool_result" else "user" if role == "tool_result" else role
        for n, value in enumerate(cast("list[object]", block["content"])):
            where = f"{at}.{kind}.content.{n}"
            _judge_block(an_object(value, where), where, _NESTED[kind], version, role=inside)


def _judge_pairing(messages: list[Fields], *, continued: bool) -> None:
    """Each call of a tool is answered in the next message, and nothing else is. Of a held message nothing is known."""
    called: list[str] = []
    for n, message in enumerate(messages):
        answered = _ids(message, "tool_result", "tool_use_id")
        for identity in answered:
            if identity not in called and not (continued and n == 0):
                raise invalid(
                    f"messages.{n}: unexpected `tool_use_id` found in `tool_result` blocks: {identity}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
        if missing := [identity for identity in called if identity not in answered]:
            raise invalid(
                f"messages.{n - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        called = _ids(message, "tool_use", "id")


def _ids(message: Fields, kind: str, name: str) -> list[str]:
    content = message.get("content")
    blocks = cast("list[dict[str, Any]]", content) if isinstance(content, list) else []
    return [str(block[name]) for block in blocks if block.get("type") == kind]


def judge_cache_marks(fields: Fields) -> None:
    """Refuse more than four cache breakpoints, the automatic one included."""
    marked = [fields] if fields.get("cache_control") is not None else []
    parts: list[object] = [fields.get("system"), fields.get("tools")]
    parts.extend(message.get("content") for message in cast("list[dict[str, Any]]", fields["messages"]))
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts.extend(cast("list[object]", part))
        elif isinstance(part, dict):
            block = cast("dict[str, Any]", part)
            marked += [block] if block.get("cache_control") is not None else []
            parts.append(block.get("content") if block.get("type") == "tool_result" else None)
    if len(marked) > _MAX_MARKS:
        raise invalid(f"A maximum of {_MAX_MARKS} blocks with cache_control may be provided. Found {len(marked)}.")
