"""Edits inside fields: exactly what a cloud rejects is changed, and every other value keeps its bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.request import edited
from providers.cloud_requests import OLDER, adapted, request_of, sent_fields

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
BREAKPOINTS = {
    b'{"type":"ephemeral", "scope": "global" , "ttl":"1h"}': b'{"type":"ephemeral","ttl":"1h"}',
    b'{"scope":{"a":"scope"}}': b"{}",
    b'{ "type" : "ephemeral" }': b'{ "type" : "ephemeral" }',
    b'"scope"': b'"scope"',
    b"null": b"null",
}
VERSION = b'"bedrock-2023-05-31"'
Versions = tuple[bytes, bytes]
"""A value as received and as expected to be sent, up to whitespace between tokens."""


def tokens(value: bytes) -> list[bytes]:
    return TOKEN.findall(value)


@st.composite
def blocks(draw: st.DrawFn, depth: int) -> Versions:
    """Generate a block with values of any kind, with or without a breakpoint and blocks inside."""
    space = draw(st.sampled_from([b"", b" ", b"\n\t"]))
    pairs: list[tuple[bytes, Versions]] = []
    for n in range(draw(st.integers(0, 3))):
        value = draw(st.sampled_from(VALUES))
        pairs.append((b"input" if n == 0 else b"k%d" % n, (value, value)))
    if draw(st.booleans()):
        pairs.append((b"cache_control", draw(st.sampled_from(list(BREAKPOINTS.items())))))
    if depth and draw(st.booleans()):
        pairs.append((b"content", draw(lists_of(blocks(depth - 1)))))
    before, after = (b",".join(b'%b"%b" :%b%b' % (space, key, space, v[n]) for key, v in pairs) for n in (0, 1))
    return b"{%b}" % before, b"{%b}" % after


@st.composite
def lists_of(draw: st.DrawFn, items: st.SearchStrategy[Versions]) -> Versions:
    chosen = draw(st.lists(items, max_size=3))
    return b"[%b]" % b" ,".join(one for one, _ in chosen), b"[%b]" % b",".join(one for _, one in chosen)


@examples(60, 2_000)
@given(lists_of(blocks(1)), lists_of(blocks(0)))
def test_the_scope_of_every_breakpoint_is_removed_and_nothing_else(messages: Versions, tools: Versions) -> None:
    body = b'{"model":"m","max_tokens":1,"messages":[{},{"content":%b}],"tools":%b}'
    result = adapted(body % (messages[0], tools[0]))
    sent = edited(request_of(body % (messages[0], tools[0])), changed=result.changed).body
    assert tokens(sent) == tokens(body % (messages[1], tools[1]))[:-1] + tokens(b',"anthropic_version":%b}' % VERSION)
    touched = {
        name for name, value in (("messages", messages), ("tools", tools)) if tokens(value[0]) != tokens(value[1])
    }
    assert set(result.changed) == {"anthropic_version", *touched}
    assert result.dropped == (("cache_control.scope",) if touched else ())


def test_only_the_containers_of_a_scope_are_re_encoded() -> None:
    plain = b'{"role" : "user",  "content":[ {"type":"text"} ]}'
    block = b'{"type" : "tool_use","input":{ "scope" : 1e2}}'
    marked = b'{"type" : "text", "cache_control" : {"scope": "global","type" : "ephemeral"}}'
    messages = b'[%b, {"role":"user", "content":[%b ,%b]}]' % (plain, block, marked)
    result = adapted(b'{"model":"m","max_tokens":1,"system" : [ {"type" : "text"} ],"messages":%b}' % messages)
    assert result.changed["messages"] == (
        b'[%b,{"role":"user","content":[%b,{"type":"text","cache_control":{"type":"ephemeral"}}]}]' % (plain, block)
    )
    assert "system" not in result.changed


def test_user_data_is_not_edited() -> None:
    own = {"cache_control": {"scope": "mine"}}
    fields: dict[str, Any] = {
        "metadata": own,
        "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": own}]}],
        "tools": [{"name": "n", "input_schema": {"properties": own, "content": [own]}}],
    }
    assert adapted(fields).dropped == ()
    assert sent_fields(fields, adapted(fields)) == {**sent_fields({}, adapted()), **fields}


BREAKPOINT = {"type": "ephemeral", "ttl": "1h"}
TEXT = {"type": "text", "text": "hi"}
LAST: dict[str, tuple[Any, Any]] = {
    "a string": ("hi", [{**TEXT, "cache_control": BREAKPOINT}]),
    "a block": ([TEXT, TEXT], [TEXT, {**TEXT, "cache_control": BREAKPOINT}]),
    "a result": (
        [{"type": "tool_result", "tool_use_id": "t"}],
        [{"type": "tool_result", "tool_use_id": "t", "cache_control": BREAKPOINT}],
    ),
    "a block with a breakpoint": (
        [{**TEXT, "cache_control": {"type": "ephemeral"}}],
        [{**TEXT, "cache_control": {"type": "ephemeral"}}],
    ),
}


@pytest.mark.parametrize(("content", "marked"), LAST.values(), ids=LAST.keys())
def test_the_automatic_breakpoint_becomes_one_on_the_last_block(content: Any, marked: Any) -> None:
    fields: dict[str, Any] = {
        "cache_control": BREAKPOINT,
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": content}],
    }
    result = adapted(fields)
    sent = sent_fields(fields, result)
    assert sent["messages"] == [fields["messages"][0], {"role": "user", "content": marked}]
    assert "cache_control" not in sent
    assert result.dropped == ()


def test_the_automatic_breakpoint_moves_without_its_scope() -> None:
    fields = {"cache_control": {"type": "ephemeral", "scope": "global"}}
    result = adapted(fields)
    assert sent_fields(fields, result)["messages"][0]["content"] == [{**TEXT, "cache_control": {"type": "ephemeral"}}]
    assert "cache_control" not in sent_fields(fields, result)
    assert result.dropped == ("cache_control.scope",)


NEVER_CACHED: dict[str, Any] = {
    "empty": "",
    "an empty text": [{"type": "text", "text": ""}],
    "no block": [],
    "thinking": [{"type": "thinking", "thinking": "", "signature": ""}],
    "no object": [1],
    "null": None,
    "no type": [{}],
}


@pytest.mark.parametrize("content", NEVER_CACHED.values(), ids=NEVER_CACHED.keys())
def test_a_breakpoint_without_a_possible_place_is_dropped_and_reported(content: Any) -> None:
    fields = {"cache_control": BREAKPOINT, "messages": [{"role": "user", "content": content}]}
    result = adapted(fields)
    assert result.dropped == ("cache_control",)
    assert sent_fields(fields, result)["messages"] == fields["messages"]


def test_a_breakpoint_is_dropped_when_counting_tokens() -> None:
    result = adapted({"cache_control": BREAKPOINT}, counting=True)
    assert (result.dropped, set(result.changed)) == (("cache_control",), {"anthropic_version"})


TOOLS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "hoisted": ({"custom": {"defer_loading": True}}, {"defer_loading": True}, ("tool-search-tool-2025-10-19",), ()),
    "set already": (
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
def test_tools_are_sent_in_bedrock_s_form(
    more: dict[str, Any], sent: dict[str, Any], betas: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    tool: dict[str, Any] = {"name": "a", "input_schema": {"properties": {"custom": {"eager_input_streaming": True}}}}
    fields: dict[str, Any] = {"tools": [tool, {**tool, **more}]}
    result = adapted(fields, model=OLDER)
    assert sent_fields(fields, result)["tools"] == [tool, {**tool, **sent}]
    assert (result.betas, result.dropped) == (betas, dropped)
    assert "tools" not in adapted(fields, service="vertex").changed


def test_a_tool_without_edits_keeps_its_whitespace() -> None:
    plain = b'{ "name":"a","input_schema" : {"maximum":1E2} }'
    body = b'{"model":"m","max_tokens":1,"messages":[{}],"tools":[ %b , {"name" : "b","custom":{}}]}' % plain
    assert adapted(body).changed["tools"] == b'[%b,{"name":"b"}]' % plain


def test_only_the_edit_that_clears_thinking_is_removed() -> None:
    clear, tools = {"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}
    flag = "context-management-2025-06-27"
    fields: dict[str, Any] = {"context_management": {"edits": [clear, tools], "a": 1}}
    result = adapted(fields, betas=flag)
    assert sent_fields(fields, result)["context_management"] == {"edits": [tools], "a": 1}
    assert (result.betas, result.dropped) == ((flag,), ("context_management.clear_thinking",))
    alone: dict[str, Any] = {"context_management": {"edits": [clear]}}
    assert "context_management" not in sent_fields(alone, adapted(alone, betas=flag))
    assert adapted(alone, service="vertex", betas=flag).dropped == ()


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
def test_the_output_format_is_moved_and_a_task_budget_removed(service: Any) -> None:
    form = {"type": "json_schema", "schema": {"scope": 1}}
    fields: dict[str, Any] = {
        "output_format": form,
        "output_config": {"effort": "high", "task_budget": {"total": 20000}},
    }
    result = adapted(fields, betas="structured-outputs-2025-11-13,task-budgets-2026-03-13", service=service)
    sent = sent_fields(fields, result)
    assert sent["output_config"] == {"format": form, "effort": "high"}
    assert "output_format" not in sent
    assert result.dropped == (
        "structured-outputs-2025-11-13",
        "task-budgets-2026-03-13",
        "output_config.task_budget",
    )
    alone: dict[str, Any] = {"output_format": form}
    assert sent_fields(alone, adapted(alone, service=service))["output_config"] == {"format": form}
    both: dict[str, Any] = {"output_format": {}, "output_config": {"format": form}}
    assert sent_fields(both, adapted(both, service=service))["output_config"] == {"format": form}
    nothing: dict[str, Any] = {"output_format": form, "output_config": None}
    assert sent_fields(nothing, adapted(nothing, service=service))["output_config"] == {"format": form}


UNREADABLE = [
    b'"tools":["custom",[{"custom":{}}],null]',
    b'"context_management":{"edits":"clear_thinking_"}',
    b'"context_management":{"edits":["clear_thinking_"]}',
    b'"system":["scope",{"cache_control":"scope"}]',
]


@pytest.mark.parametrize("field", UNREADABLE)
def test_malformed_fields_are_sent_for_the_service_to_validate(field: bytes) -> None:
    result = adapted(b'{"model":"m","max_tokens":1,"messages":[{}],%b}' % field)
    assert (set(result.changed), result.without, result.dropped) == ({"anthropic_version"}, {"anthropic_beta"}, ())


def hostile(inside: bytes) -> bytes:
    return b'{"model":"m","max_tokens":1,"messages":[{"content":[{"cache_control":{"scope":1}}]}%b]}' % inside


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(b",1" * 9_000_000),
        lambda: hostile(b",{}" * 6_000_000),
        lambda: hostile(b',{"content":[{"cache_control":{"scope":1}}' * 200 + b"]}" * 200),
        lambda: hostile(b',{"cache_control":{"a' + b"a" * 10_000_000 + b'":1}}'),
        lambda: hostile(b',"cache_control"' + b',"cache_control"' * 600_000),
    ],
    ids=["numbers", "objects", "nested", "a long breakpoint", "many breakpoint names"],
)
def test_a_hostile_body_does_not_block_the_event_loop(make: Callable[[], bytes]) -> None:
    body = make()
    request_of(body)
    began = time.process_time()
    adapted(body)
    assert time.process_time() - began < 0.7
