"""The default replies: repeatable, and made from the request instead of by a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bud_asgi.testing.anthropic.errors import Rejected
from bud_asgi.testing.anthropic.messages import (
    Block,
    Content,
    ParsedRequest,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    split_tokens,
)
from bud_asgi.testing.anthropic.models import MODELS, Model, find, info, page
from bud_asgi.testing.anthropic.models_request import is_models_request, model_in_path, parse_list_query, wants_beta
from bud_asgi.testing.server.received import Received, json_fields
from bud_asgi.testing.server.replies import Reply, error, json_body

_TOKENS_PER_MESSAGE = 4
_MAX_QUOTE = 120


def parse_request(received: Received, seed: int, signer: str = "") -> ParsedRequest:
    """Read from a request what its reply depends on. `signer` signs the thinking blocks in it."""
    fields = json_fields(received)
    return ParsedRequest(
        model=str(fields.get("model", "claude-stand-in")),
        stream=fields.get("stream") is True,
        input_tokens=count_tokens(fields),
        request_id=received.request_id,
        seed=f"{seed}:{received.number}",
        signer=signer,
    )


def count_tokens(fields: Mapping[str, Any]) -> int:
    """Count the tokens of a request: four characters are one token, and each message adds a few."""
    messages = fields.get("messages")
    count = len(cast("list[object]", messages)) if isinstance(messages, list) else 0
    counted = (fields.get(name) for name in ("system", "messages", "tools"))
    return _TOKENS_PER_MESSAGE * count + sum(_characters(value) for value in counted) // 4


def default_reply(received: Received, models: Sequence[Model] = MODELS) -> Reply:
    """Make the reply to a valid request for which the test has set no other."""
    if is_models_request(received):
        return _models_response(received, models)
    fields = json_fields(received)
    if received.path.endswith(b"/count_tokens"):
        return json_body(_token_count(fields))
    return Reply(body=default_content(fields))


def _models_response(received: Received, models: Sequence[Model]) -> Reply:
    beta, name = wants_beta(received), model_in_path(received)
    if name is not None:
        found = find(models, name)
        return json_body(info(found, beta=beta)) if found else error(404, "not_found_error", f"model: {name}")
    try:
        return json_body(page(models, parse_list_query(received, models), beta=beta))
    except Rejected as rejected:  # only with `strict=False`, where no check came first
        return rejected.rejection.reply


def _token_count(fields: Mapping[str, Any]) -> dict[str, Any]:
    count = count_tokens(fields)
    edited = {"context_management": {"original_input_tokens": count}} if fields.get("context_management") else {}
    return {"input_tokens": count, **edited}


def default_content(fields: Mapping[str, Any]) -> Content:
    """Echo the last user message, or call the tool that is forced; think first if thinking is on."""
    limit = fields.get("max_tokens")
    if limit == 0:
        return Content((), stop_reason="max_tokens")
    thinking = _thinking_blocks(fields)
    tool = _forced_tool(fields)
    if tool is not None:
        example = cast("dict[str, Any]", _example(tool.get("input_schema")))
        return Content((*thinking, ToolUseBlock(str(tool.get("name")), example)))
    text, stop_reason, sequence = _cut_at_stop_sequence(_reply_text(fields), fields)
    tokens = split_tokens(text)
    if isinstance(limit, int) and len(tokens) > limit:
        text, stop_reason, sequence = "".join(tokens[:limit]), "max_tokens", None
    return Content((*thinking, TextBlock(text)), stop_reason, sequence)


def _thinking_blocks(fields: Mapping[str, Any]) -> tuple[Block, ...]:
    thinking = fields.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "adaptive"):  # pyright: ignore[reportUnknownMemberType]
        return ()
    return (ThinkingBlock("" if thinking.get("display") == "omitted" else "A stand-in thinks: I echo what was said."),)  # pyright: ignore[reportUnknownMemberType]


def _forced_tool(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if not isinstance(choice, dict) or not isinstance(tools, list):
        return None
    forced = cast("dict[str, Any]", choice)
    named = [cast("dict[str, Any]", tool) for tool in cast("list[object]", tools) if isinstance(tool, dict)]
    if forced.get("type") == "any":
        return next(iter(named), None)
    if forced.get("type") == "tool":
        return next((tool for tool in named if tool.get("name") == forced.get("name")), None)
    return None


def _reply_text(fields: Mapping[str, Any]) -> str:
    wanted = fields.get("output_config")
    shape = cast("dict[str, Any]", wanted).get("format") if isinstance(wanted, dict) else None
    if isinstance(shape, dict):
        return json.dumps(_example(cast("dict[str, Any]", shape).get("schema")))
    last = " ".join(_last_user_text(fields.get("messages")).split())
    quoted = last if len(last) <= _MAX_QUOTE else last[:_MAX_QUOTE] + "..."
    return f'Hello from the stand-in! You said: "{quoted}".' if quoted else "Hello from the stand-in!"


def _last_user_text(messages: object) -> str:
    values = cast("list[object]", messages) if isinstance(messages, list) else []
    for message in reversed(values):
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if fields.get("role") == "user":
            return _plain_text(fields.get("content"))
    return ""


def _plain_text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = cast("list[object]", content) if isinstance(content, list) else []
    fields = [cast("dict[str, Any]", block) for block in blocks if isinstance(block, dict)]
    return " ".join(str(block["text"]) if "text" in block else _plain_text(block.get("content")) for block in fields)


def _cut_at_stop_sequence(text: str, fields: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Cut the text at its first stop sequence; returns the text, the stop reason and the sequence."""
    values = fields.get("stop_sequences")
    sequences = (
        [s for s in cast("list[object]", values) if isinstance(s, str) and s] if isinstance(values, list) else []
    )
    found = [(text.index(sequence), sequence) for sequence in sequences if sequence in text]
    if not found:
        return text, None, None
    at, sequence = min(found)
    return text[:at], "stop_sequence", sequence


def _example(schema: object) -> object:
    """Make a value that matches the types, enums and required fields of a JSON schema."""
    rules = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
    options = rules.get("enum")
    if isinstance(options, list) and options:
        return cast("list[object]", options)[0]
    kind = rules.get("type", "object" if "properties" in rules else "string")
    if kind == "object":
        properties = cast("dict[str, Any]", rules.get("properties") or {})
        names = cast("list[str]", rules.get("required") or list(properties))
        return {name: _example(properties.get(name)) for name in names}
    if kind == "array":
        return [_example(rules.get("items"))]
    simple: dict[object, object] = {"integer": 1, "number": 1, "boolean": True, "null": None}
    return simple.get(kind, "example") if isinstance(kind, str) else "example"


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, cast("dict[str, object]", value).values()))
    if isinstance(value, list):
        return sum(map(_characters, cast("list[object]", value)))
    return 0
