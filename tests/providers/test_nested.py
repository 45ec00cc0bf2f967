"""The edits inside of fields: exactly what a cloud refuses goes, and every other value stays, byte for byte."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bud_asgi.protocol.request import splice

from .bridges import OLDER, bridged, fields_of, request_of

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
VALUES = [
    b"1.50",
    b"1E+2",
    b"-0.0",
    b"12345678901234567890123",
    b'"\\u00e9\\/"',
    b'"\xe2\x80\xa8"',
    b"null",
    b'"\\"cache_control\\": {\\"scope\\": 1}"',
    b'{"cache_control" : {"scope":1} }',
    b'{"content":[ {"cache_control":{"scope":1}}]}',
    b'[ {"scope" : 2} ,\t3]',
]
MARKS = {
    b'{"type":"ephemeral", "scope": "global" , "ttl":"1h"}': b'{"type":"ephemeral","ttl":"1h"}',
    b'{"scope":{"a":"scope"}}': b"{}",
    b'{ "type" : "ephemeral" }': b'{ "type" : "ephemeral" }',
    b'"scope"': b'"scope"',
    b"null": b"null",
}
VERSION = b'"bedrock-2023-05-31"'
Versions = tuple[bytes, bytes]
"""A value as it comes, and as it must be sent but for the spaces between tokens."""


def tokens(value: bytes) -> list[bytes]:
    return TOKEN.findall(value)


@st.composite
def blocks(draw: st.DrawFn, depth: int) -> Versions:
    """A block: with values of any kind, perhaps a mark, perhaps blocks inside."""
    space = draw(st.sampled_from([b"", b" ", b"\n\t"]))
    pairs: list[tuple[bytes, Versions]] = []
    for n in range(draw(st.integers(0, 3))):
        value = draw(st.sampled_from(VALUES))
        pairs.append((b"input" if n == 0 else b"k%d" % n, (value, value)))
    if draw(st.booleans()):
        pairs.append((b"cache_control", draw(st.sampled_from(list(MARKS.items())))))
    if depth and draw(st.booleans()):
        pairs.append((b"content", draw(lists_of(blocks(depth - 1)))))
    before, after = (b",".join(b'%b"%b" :%b%b' % (space, key, space, v[n]) for key, v in pairs) for n in (0, 1))
    return b"{%b}" % before, b"{%b}" % after


@st.composite
def lists_of(draw: st.DrawFn, items: st.SearchStrategy[Versions]) -> Versions:
    chosen = draw(st.lists(items, max_size=3))
    return b"[%b]" % b" ,".join(one for one, _ in chosen), b"[%b]" % b",".join(one for _, one in chosen)


@settings(max_examples=150)
@given(lists_of(blocks(1)), lists_of(blocks(1)))
def test_a_scope_goes_from_every_mark_of_a_block_and_nothing_else_does(messages: Versions, tools: Versions) -> None:
    body = b'{"model":"m","max_tokens":1,"messages":[{},{"content":%b}],"tools":%b}'
    result = bridged(body % (messages[0], tools[0]))
    sent = b"".join(splice(request_of(body % (messages[0], tools[0])), changed=result.changed))
    assert tokens(sent) == tokens(body % (messages[1], tools[1]))[:-1] + tokens(b',"anthropic_version":%b}' % VERSION)
    touched = {
        name for name, value in (("messages", messages), ("tools", tools)) if tokens(value[0]) != tokens(value[1])
    }
    assert set(result.changed) == {"anthropic_version", *touched}
    assert result.dropped == (("cache_control.scope",) if touched else ())


def test_only_what_lies_on_the_way_to_a_scope_is_written_anew() -> None:
    plain = b'{"role" : "user",  "content":[ {"type":"text"} ]}'
    block = b'{"type" : "tool_use","input":{ "scope" : 1e2}}'
    marked = b'{"type" : "text", "cache_control" : {"scope": "global","type" : "ephemeral"}}'
    messages = b'[%b, {"role":"user", "content":[%b ,%b]}]' % (plain, block, marked)
    result = bridged(b'{"model":"m","max_tokens":1,"system" : [ {"type" : "text"} ],"messages":%b}' % messages)
    assert result.changed["messages"] == (
        b'[%b,{"role":"user","content":[%b,{"type":"text","cache_control":{"type":"ephemeral"}}]}]' % (plain, block)
    )
    assert "system" not in result.changed


def test_what_is_somebody_s_own_is_not_looked_into() -> None:
    own = {"cache_control": {"scope": "mine"}}
    fields: dict[str, Any] = {
        "metadata": own,
        "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": own}]}],
        "tools": [{"name": "n", "input_schema": {"properties": own, "content": [own]}}],
    }
    assert bridged(fields).dropped == ()
    assert fields_of(fields, bridged(fields)) == {**fields_of({}, bridged()), **fields}


def test_vertex_gets_the_automatic_breakpoint_without_its_scope() -> None:
    result = bridged({"cache_control": {"type": "ephemeral", "scope": "global"}}, service="vertex")
    assert result.changed["cache_control"] == b'{"type":"ephemeral"}'
    assert result.dropped == ("cache_control.scope",)


MARK = {"type": "ephemeral", "ttl": "1h"}
TEXT = {"type": "text", "text": "hi"}
LAST: dict[str, tuple[Any, Any]] = {
    "a string": ("hi", [{**TEXT, "cache_control": MARK}]),
    "a block": ([TEXT, TEXT], [TEXT, {**TEXT, "cache_control": MARK}]),
    "a result": (
        [{"type": "tool_result", "tool_use_id": "t"}],
        [{"type": "tool_result", "tool_use_id": "t", "cache_control": MARK}],
    ),
    "a marked block": (
        [{**TEXT, "cache_control": {"type": "ephemeral"}}],
        [{**TEXT, "cache_control": {"type": "ephemeral"}}],
    ),
}


@pytest.mark.parametrize(("content", "marked"), LAST.values(), ids=LAST.keys())
def test_the_automatic_breakpoint_becomes_one_on_the_last_block(content: Any, marked: Any) -> None:
    fields: dict[str, Any] = {
        "cache_control": MARK,
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": content}],
    }
    result = bridged(fields)
    sent = fields_of(fields, result)
    assert sent["messages"] == [fields["messages"][0], {"role": "user", "content": marked}]
    assert "cache_control" not in sent
    assert result.dropped == ()


def test_the_automatic_breakpoint_moves_without_its_scope() -> None:
    fields = {"cache_control": {"type": "ephemeral", "scope": "global"}}
    result = bridged(fields)
    assert fields_of(fields, result)["messages"][0]["content"] == [{**TEXT, "cache_control": {"type": "ephemeral"}}]
    assert "cache_control" not in fields_of(fields, result)
    assert result.dropped == ("cache_control.scope",)


UNMARKED: dict[str, Any] = {
    "empty": "",
    "an empty text": [{"type": "text", "text": ""}],
    "no block": [],
    "thinking": [{"type": "thinking", "thinking": "", "signature": ""}],
    "no object": [1],
    "null": None,
    "no type": [{}],
}


@pytest.mark.parametrize("content", UNMARKED.values(), ids=UNMARKED.keys())
def test_a_breakpoint_that_can_stand_nowhere_is_left_out_and_named(content: Any) -> None:
    fields = {"cache_control": MARK, "messages": [{"role": "user", "content": content}]}
    result = bridged(fields)
    assert result.dropped == ("cache_control",)
    assert fields_of(fields, result)["messages"] == fields["messages"]


def test_a_breakpoint_counts_for_nothing_where_tokens_are_counted() -> None:
    result = bridged({"cache_control": MARK}, counting=True)
    assert (result.dropped, set(result.changed)) == (("cache_control",), {"anthropic_version"})


TOOLS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "hoisted": ({"custom": {"defer_loading": True}}, {"defer_loading": True}, ("tool-search-tool-2025-10-19",), ()),
    "said already": (
        {"custom": {"defer_loading": True}, "defer_loading": False},
        {"defer_loading": False},
        ("tool-search-tool-2025-10-19",),
        (),
    ),
    "something else": ({"custom": {"a": 1}}, {}, (), ("tools.custom",)),
    "null": ({"custom": None}, {}, (), ()),
    "eager": ({"eager_input_streaming": True}, {}, ("fine-grained-tool-streaming-2025-05-14",), ()),
    "not eager": ({"eager_input_streaming": False}, {}, (), ()),
    "the type": ({"type": "custom"}, {"type": "custom"}, (), ()),
}


@pytest.mark.parametrize(("more", "sent", "betas", "dropped"), TOOLS.values(), ids=TOOLS.keys())
def test_tools_say_it_as_bedrock_hears_it(
    more: dict[str, Any], sent: dict[str, Any], betas: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    tool: dict[str, Any] = {"name": "a", "input_schema": {"properties": {"custom": {"eager_input_streaming": True}}}}
    fields: dict[str, Any] = {"tools": [tool, {**tool, **more}]}
    result = bridged(fields, model=OLDER)
    assert fields_of(fields, result)["tools"] == [tool, {**tool, **sent}]
    assert (result.betas, result.dropped) == (betas, dropped)
    assert "tools" not in bridged(fields, service="vertex").changed


def test_a_tool_that_needs_no_edit_keeps_its_spaces() -> None:
    plain = b'{ "name":"a","input_schema" : {"maximum":1E2} }'
    body = b'{"model":"m","max_tokens":1,"messages":[{}],"tools":[ %b , {"name" : "b","custom":{}}]}' % plain
    assert bridged(body).changed["tools"] == b'[%b,{"name":"b"}]' % plain


def test_thinking_is_not_cleared_and_other_edits_stay() -> None:
    clear, tools = {"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}
    flag = "context-management-2025-06-27"
    fields: dict[str, Any] = {"context_management": {"edits": [clear, tools], "a": 1}}
    result = bridged(fields, betas=flag)
    assert fields_of(fields, result)["context_management"] == {"edits": [tools], "a": 1}
    assert (result.betas, result.dropped) == ((flag,), ("context_management.clear_thinking",))
    alone: dict[str, Any] = {"context_management": {"edits": [clear]}}
    assert "context_management" not in fields_of(alone, bridged(alone, betas=flag))
    assert bridged(alone, service="vertex", betas=flag).dropped == ()


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
def test_the_output_s_format_moves_and_a_task_budget_goes(service: Any) -> None:
    form = {"type": "json_schema", "schema": {"scope": 1}}
    fields: dict[str, Any] = {
        "output_format": form,
        "output_config": {"effort": "high", "task_budget": {"total": 20000}},
    }
    result = bridged(fields, betas="structured-outputs-2025-11-13,task-budgets-2026-03-13", service=service)
    sent = fields_of(fields, result)
    assert sent["output_config"] == {"format": form, "effort": "high"}
    assert "output_format" not in sent
    assert result.dropped == (
        "structured-outputs-2025-11-13",
        "task-budgets-2026-03-13",
        "output_config.task_budget",
    )
    alone: dict[str, Any] = {"output_format": form}
    assert fields_of(alone, bridged(alone, service=service))["output_config"] == {"format": form}
    both: dict[str, Any] = {"output_format": {}, "output_config": {"format": form}}
    assert fields_of(both, bridged(both, service=service))["output_config"] == {"format": form}
    nothing: dict[str, Any] = {"output_format": form, "output_config": None}
    assert fields_of(nothing, bridged(nothing, service=service))["output_config"] == {"format": form}


UNREADABLE = [
    b'"tools":["custom",[{"custom":{}}],null]',
    b'"context_management":{"edits":"clear_thinking_"}',
    b'"context_management":{"edits":["clear_thinking_"]}',
    b'"system":["scope",{"cache_control":"scope"}]',
]


@pytest.mark.parametrize("field", UNREADABLE)
def test_what_is_not_as_it_should_be_is_the_service_s_to_judge(field: bytes) -> None:
    result = bridged(b'{"model":"m","max_tokens":1,"messages":[{}],%b}' % field)
    assert (set(result.changed), result.without, result.dropped) == ({"anthropic_version"}, {"anthropic_beta"}, ())


def hostile(inside: bytes) -> bytes:
    return b'{"model":"m","max_tokens":1,"messages":[{"content":[{"cache_control":{"scope":1}}]}%b]}' % inside


@pytest.mark.parametrize(
    "body",
    [
        hostile(b",1" * 9_000_000),
        hostile(b",{}" * 6_000_000),
        hostile(b',{"content":[{"cache_control":{"scope":1}}' * 200 + b"]}" * 200),
        hostile(b',{"cache_control":{"a' + b"a" * 10_000_000 + b'":1}}'),
        hostile(b',"cache_control"' + b',"cache_control"' * 600_000),
    ],
    ids=["numbers", "objects", "nested", "a long mark", "the name of a mark"],
)
def test_a_hostile_body_does_not_hold_the_loop(body: bytes) -> None:
    request_of(body)
    began = time.process_time()
    bridged(body)
    assert time.process_time() - began < 0.7
