"""The levers of an operator: fields and beta flags that are not sent, together with what belongs to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi import Anthropic, Bedrock, Secret, Vertex
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import InvalidRequest, RequestTooLarge
from bud_asgi.providers import Provider
from providers.cloud_requests import OLDER, adapted, call_of

CLEAR_TOOLS = {"type": "clear_tool_uses_20250919"}
COMPACT = {"type": "compact_20260112"}
CLEAR_THINKING = {"type": "clear_thinking_20251015"}
CONTEXT, COMPACTION = "context-management-2025-06-27", "compact-2026-01-12"
SCOPED = {"type": "ephemeral", "scope": "global"}
TOOL: dict[str, Any] = {"name": "t", "input_schema": {"type": "object"}}
KEYS: Any = {"access_key": Secret("AKIATEST"), "secret_key": Secret("secret")}


def _anthropic(**more: Any) -> Provider:
    return Anthropic(api_key=Secret("k"), **more)


def _server(**more: Any) -> Provider:
    return Anthropic(base_url="http://127.0.0.1:1", **more)


def _bedrock(**more: Any) -> Provider:
    return Bedrock(region="us-east-1", **KEYS, **more)


def _vertex(**more: Any) -> Provider:
    return Vertex(project="p", **more)


PROVIDERS: dict[str, Callable[..., Provider]] = {
    "anthropic": _anthropic,
    "another server": _server,
    "bedrock": _bedrock,
    "vertex": _vertex,
}


def sent(provider: Provider, fields: dict[str, Any], *, betas: str = "", counting: bool = False) -> Any:
    """Return the body that goes up, the flags that go up with it, and what is reported as dropped."""
    encoded = provider.encode(call_of(fields, betas=betas, counting=counting))
    body = encoded.request.body
    whole = body if isinstance(body, bytes) else b"".join(body)
    found = json.loads(whole)
    header = dict(encoded.request.headers).get(b"anthropic-beta", b"").decode()
    flags = found.pop("anthropic_beta", None) or (header.split(",") if header else [])
    return found, flags, encoded.dropped


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_a_nested_field_is_dropped_wherever_it_is_in_lists(make: Callable[..., Provider]) -> None:
    paths = ["tools.description", "messages.content.cache_control", "metadata"]
    text = {"type": "text", "text": "hi"}
    marked = {**text, "cache_control": {"type": "ephemeral"}}
    fields: dict[str, Any] = {
        "metadata": {"user_id": "u"},
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [text, marked]}],
        "tools": [{**TOOL, "description": "d"}, {**TOOL, "name": "u"}],
    }
    body, _, dropped = sent(make(drop_fields=paths), fields)
    assert body["messages"] == [{"role": "user", "content": "a"}, {"role": "user", "content": [text, text]}]
    assert body["tools"] == [TOOL, {**TOOL, "name": "u"}]
    assert "metadata" not in body
    assert set(dropped) == set(paths)


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_without_the_fields_that_are_dropped_a_request_is_sent_as_always(make: Callable[..., Provider]) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "system": "s"}
    levers = {"drop_fields": ["tools.strict", "output_config.format"], "drop_betas": ["fast-mode-*"]}
    assert sent(make(**levers), fields) == sent(make(), fields)


def test_a_nested_field_is_found_when_its_name_is_escaped() -> None:
    body = b'{"model":"m","max_tokens":1,"messages":[{}],"tools":[{"name":"a","str\\u0069ct":true}]}'
    result = adapted(body, service="anthropic", drop_fields=["tools.strict"])
    assert (result.changed["tools"], result.dropped) == (b'[{"name":"a"}]', ("tools.strict",))


def test_user_data_of_the_same_name_is_not_dropped() -> None:
    own = {"strict": True, "tools": [{"strict": True}]}
    fields: dict[str, Any] = {
        "messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": own}]}],
        "tools": [{**TOOL, "input_schema": {"type": "object", "properties": own}}],
    }
    result = adapted(fields, service="anthropic", drop_fields=["tools.strict"])
    assert (dict(result.changed), result.dropped) == ({}, ())


def test_a_body_too_large_to_find_the_dropped_field_is_refused() -> None:
    tools = b",".join([b'{"strict":true}'] * 20_000)
    body = b'{"model":"m","max_tokens":1,"messages":[{}],"tools":[%b]}' % tools
    with pytest.raises(RequestTooLarge, match=r"^tools: "):
        adapted(body, service="anthropic", drop_fields=["tools.strict"])


WRONG: dict[str, tuple[object, str]] = {
    "a str": ("thinking", "expected a list of request fields"),
    "a str in tuple's clothes": (("thinking"), "expected a list of request fields"),
    "a number": ([1], "expected a list of request fields"),
    "empty": ([""], "empty part"),
    "an empty part": (["tools..strict"], "empty part"),
    "a dot at the end": (["tools."], "empty part"),
    "an index": (["tools.0.strict"], "a list stands for all of its items"),
    "a star": (["tools.*.strict"], "a list stands for all of its items"),
    "brackets": (["tools[].strict"], "a list stands for all of its items"),
    "a space": (["tools. strict"], "not the path of a field"),
    "the model": (["model"], "a request is not valid without it"),
    "the messages": (["messages"], "a request is not valid without it"),
    "max_tokens": (["max_tokens"], "a request is not valid without it"),
    "the role": (["messages.role"], "a request is not valid without it"),
    "the stream": (["stream"], "the gateway needs it"),
    "the flags": (["anthropic_beta"], "drop_betas"),
    "inside a number": (["temperature.unit"], "temperature has no fields"),
    "inside the model": (["model.name"], "model has no fields"),
    "a typing error": (["output_confg.format"], "did you mean output_config.format"),
}


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
@pytest.mark.parametrize(("paths", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_path_that_can_mean_nothing_is_refused(make: Callable[..., Provider], paths: Any, problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        make(drop_fields=paths)
    assert refused.value.option == "drop_fields"
    assert problem in refused.value.problem


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"drop_betas": "effort-2025-11-24"}, "drop_betas"),
        ({"allow_betas": "*"}, "allow_betas"),
        ({"drop_betas": ["a b"]}, "drop_betas"),
        ({"drop_betas": [""]}, "drop_betas"),
        ({"drop_betas": ["a-1"], "allow_betas": ["a-1"]}, "drop_betas"),
    ],
)
def test_flags_that_can_mean_nothing_are_refused(
    make: Callable[..., Provider], options: dict[str, Any], option: str
) -> None:
    with pytest.raises(OptionError) as refused:
        make(**options)
    assert refused.value.option == option


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
@pytest.mark.parametrize("pattern", ["interleaved-thinking-2025-05-14", "interleaved-*", "inter*-2025-*"])
def test_a_dropped_flag_is_not_sent_and_is_reported(make: Callable[..., Provider], pattern: str) -> None:
    betas = "interleaved-thinking-2025-05-14,context-1m-2025-08-07"
    _, flags, dropped = sent(make(drop_betas=[pattern]), {}, betas=betas)
    assert (flags, dropped) == (["context-1m-2025-08-07"], ("interleaved-thinking-2025-05-14",))


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_of_two_patterns_the_longer_one_decides(make: Callable[..., Provider]) -> None:
    betas = "interleaved-thinking-2025-05-14,context-1m-2025-08-07,a-new-flag-2027-01-01"
    only = make(drop_betas=["*"], allow_betas=["context-1m-*"])
    assert sent(only, {}, betas=betas)[1] == ["context-1m-2025-08-07"]
    most = make(drop_betas=["interleaved-*"], allow_betas=["*"])
    assert sent(most, {}, betas=betas)[1] == ["context-1m-2025-08-07", "a-new-flag-2027-01-01"]


def test_a_renamed_flag_is_dropped_under_both_names() -> None:
    betas, tools = "advanced-tool-use-2025-11-20", {"tools": [{**TOOL, "defer_loading": True}]}
    body, flags, dropped = sent(PROVIDERS["bedrock"](drop_betas=["tool-search-tool-*"]), tools, betas=betas)
    assert (body["tools"], flags, dropped) == ([TOOL], ["tool-examples-2025-10-29"], ("tools.defer_loading",))


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_the_field_of_a_dropped_flag_is_dropped_too(make: Callable[..., Provider]) -> None:
    fields = {"context_management": {"edits": [CLEAR_TOOLS]}}
    body, flags, dropped = sent(make(drop_betas=["context-management-*"]), fields, betas=CONTEXT)
    assert "context_management" not in body
    assert (flags, set(dropped)) == ([], {CONTEXT, "context_management"})


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_of_two_edits_the_one_of_a_dropped_flag_is_dropped(make: Callable[..., Provider]) -> None:
    fields = {"context_management": {"edits": [CLEAR_TOOLS, COMPACT]}}
    provider = make(drop_betas=[COMPACTION])
    body, flags, dropped = sent(provider, fields, betas=f"{CONTEXT},{COMPACTION}")
    assert body["context_management"] == {"edits": [CLEAR_TOOLS]}
    assert (flags, dropped) == ([CONTEXT], (COMPACTION, "context_management.compact"))


@pytest.mark.parametrize("make", PROVIDERS.values(), ids=PROVIDERS.keys())
def test_the_flag_of_a_dropped_field_is_dropped_too(make: Callable[..., Provider]) -> None:
    fields = {"context_management": {"edits": [CLEAR_TOOLS]}}
    for path in ("context_management", "context_management.edits"):
        body, flags, dropped = sent(make(drop_fields=[path]), fields, betas=CONTEXT)
        assert "context_management" not in body
        assert (flags, dropped) == ([], (CONTEXT, path))


def test_the_flag_of_a_nested_field_stays_while_another_field_needs_it() -> None:
    scope, both = "prompt-caching-scope-2026-01-05", {"cache_control": SCOPED, "type": "text", "text": "x"}
    provider = PROVIDERS["anthropic"](drop_fields=["system.cache_control.scope"])
    fields: dict[str, Any] = {"system": [both], "tools": [{**TOOL, "cache_control": SCOPED}]}
    body, flags, dropped = sent(provider, fields, betas=scope)
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert (flags, dropped) == ([scope], ("system.cache_control.scope",))
    assert sent(provider, {"system": [both]}, betas=scope)[1:] == ([], (scope, "system.cache_control.scope"))


def test_an_emptied_field_and_its_flag_go_together() -> None:
    fields = {"context_management": {"edits": [CLEAR_THINKING]}}
    body, flags, dropped = sent(PROVIDERS["bedrock"](), fields, betas=f"{CONTEXT},context-1m-2025-08-07")
    assert "context_management" not in body
    assert (flags, dropped) == (["context-1m-2025-08-07"], (CONTEXT, "context_management.clear_thinking"))


def test_a_task_budget_goes_with_its_flag() -> None:
    fields = {"output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 9}}}
    flag = "task-budgets-2026-03-13"
    body, flags, dropped = sent(PROVIDERS["anthropic"](drop_betas=["task-budgets-*"]), fields, betas=flag)
    assert body["output_config"] == {"effort": "low"}
    assert (flags, dropped) == ([], (flag, "output_config.task_budget"))
    allowed = sent(PROVIDERS["bedrock"](allow_betas=["task-budgets-*"]), fields, betas=flag)
    assert allowed[0]["output_config"] == fields["output_config"]
    assert allowed[1] == [flag]


def test_a_field_that_clients_depend_on_is_refused_without_its_flag() -> None:
    fields, flag = {"thread": {"type": "create"}}, "message-threads-2026-08-12"
    with pytest.raises(InvalidRequest) as refused:
        sent(PROVIDERS["anthropic"](drop_betas=["message-threads-*"]), fields, betas=flag)
    assert refused.value.details == {"error_code": "thread_unsupported_request", "unsupported": ["platform"]}


def test_a_flag_that_a_model_refuses_is_not_sent_to_it() -> None:
    flag = "effort-2025-11-24"
    assert adapted(betas=flag, model="claude-opus-4-7").dropped == (flag,)
    assert adapted(betas=flag, model="claude-opus-4-8").betas == (flag,)


@pytest.mark.parametrize("make", [PROVIDERS[name] for name in ("anthropic", "vertex")])
def test_the_levers_apply_to_counting_tokens(make: Callable[..., Provider]) -> None:
    provider = make(drop_fields=["tools.description"])
    body, _, dropped = sent(provider, {"tools": [{**TOOL, "description": "d"}]}, counting=True)
    assert (body["tools"], dropped) == ([TOOL], ("tools.description",))


def test_the_levers_apply_to_counting_tokens_at_bedrock() -> None:
    fields: dict[str, Any] = {"tools": [{**TOOL, "description": "d"}]}
    result = adapted(fields, model=OLDER, counting=True, drop_fields=["tools.description"])
    assert json.loads(result.changed["tools"]) == [TOOL]


NAMES = st.sampled_from(["a", "b", "strict", "c"])
JSON = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), st.text('ab\\"é', max_size=3), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


def without(value: Any, path: list[str]) -> Any:
    """What dropping a path means, said plainly: lists are entered, but not lists within lists."""
    if isinstance(value, list):
        return [without(item, path) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    if len(path) == 1:
        return {name: inner for name, inner in value.items() if name != path[0]}
    return {**value, path[0]: without(value[path[0]], path[1:])}


@given(JSON, st.lists(NAMES, min_size=1, max_size=3))
@examples(50, 2_000)
def test_dropping_a_path_removes_it_and_nothing_else(value: Any, path: list[str]) -> None:
    fields = {"thing": value}
    result = adapted(fields, service="anthropic", drop_fields=[".".join(["thing", *path])])
    expected = without(value, path)
    if "thing" in result.without:
        assert expected == {}
    else:
        assert json.loads(result.changed["thing"]) == expected if "thing" in result.changed else value == expected
    assert bool(result.dropped) == (value != expected)
