"""The default answers: friendly, repeatable, and shaped by the request, without a model behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bud_asgi.testing.anthropic.messages import Asked, Block, Content, TextBlock, ThinkingBlock, ToolUseBlock, tokens_of
from bud_asgi.testing.anthropic.models import MODELS, Model, find, info, page
from bud_asgi.testing.anthropic.models_request import asked_beta, is_models, listing_of, named_model
from bud_asgi.testing.anthropic.refusals import Refused
from bud_asgi.testing.server.received import Received, fields_of
from bud_asgi.testing.server.replies import Reply, error, json_body

_PER_MESSAGE = 4
_QUOTED = 120


def asked_of(received: Received, seed: int) -> Asked:
    """What of the request shapes the answer."""
    fields = fields_of(received)
    return Asked(
        model=str(fields.get("model", "claude-stand-in")),
        stream=fields.get("stream") is True,
        input_tokens=count_tokens(fields),
        request_id=received.request_id,
        seed=f"{seed}:{received.number}",
    )


def count_tokens(fields: Mapping[str, Any]) -> int:
    """How many tokens a request has here: four characters each, and some for each message. The same every time."""
    messages = fields.get("messages")
    count = len(cast("list[object]", messages)) if isinstance(messages, list) else 0
    counted = (fields.get(name) for name in ("system", "messages", "tools"))
    return _PER_MESSAGE * count + sum(_characters(value) for value in counted) // 4


def default_reply(received: Received, models: Sequence[Model] = MODELS) -> Reply:
    """The answer that every valid request gets unless a test says otherwise."""
    if is_models(received):
        return _models_reply(received, models)
    fields = fields_of(received)
    if received.path.endswith(b"/count_tokens"):
        return json_body(_counted(fields))
    return Reply(body=default_content(fields))


def _models_reply(received: Received, models: Sequence[Model]) -> Reply:
    beta, name = asked_beta(received), named_model(received)
    if name is not None:
        found = find(models, name)
        return json_body(info(found, beta=beta)) if found else error(404, "not_found_error", f"model: {name}")
    try:
        return json_body(page(models, listing_of(received, models), beta=beta))
    except Refused as refused:  # only without a judge (`strict=False`)
        return Reply(status=refused.status, body=refused.failure)


def _counted(fields: Mapping[str, Any]) -> dict[str, Any]:
    count = count_tokens(fields)
    managed = {"context_management": {"original_input_tokens": count}} if fields.get("context_management") else {}
    return {"input_tokens": count, **managed}


def default_content(fields: Mapping[str, Any]) -> Content:
    """Echo the last user message; call the tool that is forced; think first if thinking is on."""
    limit = fields.get("max_tokens")
    if limit == 0:
        return Content((), stop_reason="max_tokens")
    thoughts = _thoughts(fields)
    tool = _forced_tool(fields)
    if tool is not None:
        schema = tool.get("input_schema")
        called = ToolUseBlock(str(tool.get("name")), cast("dict[str, Any]", _example(schema)))
        return Content((*thoughts, called))
    said, reason, sequence = _stopped(_said(fields), fields)
    tokens = tokens_of(said)
    if isinstance(limit, int) and len(tokens) > limit:
        said, reason, sequence = "".join(tokens[:limit]), "max_tokens", None
    return Content((*thoughts, TextBlock(said)), reason, sequence)


def _thoughts(fields: Mapping[str, Any]) -> tuple[Block, ...]:
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


def _said(fields: Mapping[str, Any]) -> str:
    wanted = fields.get("output_config")
    shape = cast("dict[str, Any]", wanted).get("format") if isinstance(wanted, dict) else None
    if isinstance(shape, dict):
        return json.dumps(_example(cast("dict[str, Any]", shape).get("schema")))
    last = " ".join(_last_user_text(fields.get("messages")).split())
    quoted = last if len(last) <= _QUOTED else last[:_QUOTED] + "..."
    return f'Hello from the stand-in! You said: "{quoted}".' if quoted else "Hello from the stand-in!"


def _last_user_text(messages: object) -> str:
    given = cast("list[object]", messages) if isinstance(messages, list) else []
    for message in reversed(given):
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if fields.get("role") == "user":
            return _text_of(fields.get("content"))
    return ""


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = cast("list[object]", content) if isinstance(content, list) else []
    fields = [cast("dict[str, Any]", block) for block in blocks if isinstance(block, dict)]
    return " ".join(str(block["text"]) if "text" in block else _text_of(block.get("content")) for block in fields)


def _stopped(said: str, fields: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The text up to the first stop sequence in it, with the stop reason and the sequence."""
    given = fields.get("stop_sequences")
    sequences = [s for s in cast("list[object]", given) if isinstance(s, str) and s] if isinstance(given, list) else []
    found = [(said.index(sequence), sequence) for sequence in sequences if sequence in said]
    if not found:
        return said, None, None
    at, sequence = min(found)
    return said[:at], "stop_sequence", sequence


def _example(schema: object) -> object:
    """A value that fits a JSON schema, as far as its types, enums and required fields say."""
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
