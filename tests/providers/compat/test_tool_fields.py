"""Fields of tools and breakpoints that a cloud lacks, by service and model: nothing that has no effect causes a 400."""

from __future__ import annotations

from typing import Any

import pytest

from bud_asgi.providers.compat.rules import Service
from providers.cloud_requests import NEWER, OLDER, OLDEST, adapted, sent_fields

TOOL: dict[str, Any] = {"name": "t", "input_schema": {"type": "object"}}
NEUTRAL = [None, False, [], {}, ""]
STRUCTURED = [
    "claude-haiku-4-5",
    "claude-opus-4-5-20251101",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "claude-sonnet-4-6",
]
UNSTRUCTURED = ["claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5-5", OLDEST]


def tools(result: Any, fields: dict[str, Any]) -> Any:
    return sent_fields(fields, result)["tools"]


@pytest.mark.parametrize("value", NEUTRAL)
@pytest.mark.parametrize(
    ("service", "model"), [*(("bedrock", model) for model in UNSTRUCTURED), ("vertex", NEWER), ("vertex", OLDER)]
)
@pytest.mark.parametrize("name", ["strict", "allowed_callers"])
def test_a_value_without_effect_is_left_out_silently(service: Service, model: str, name: str, value: Any) -> None:
    fields: dict[str, Any] = {"tools": [{**TOOL, name: value}, TOOL]}
    result = adapted(fields, service=service, model=model)
    assert (tools(result, fields), result.dropped) == ([TOOL, TOOL], ())


@pytest.mark.parametrize(
    ("service", "model"), [*(("bedrock", model) for model in UNSTRUCTURED), ("vertex", NEWER), ("vertex", OLDER)]
)
def test_strict_is_dropped_and_reported_where_it_is_refused(service: Service, model: str) -> None:
    fields: dict[str, Any] = {"tools": [{**TOOL, "strict": True}, {**TOOL, "name": "u", "strict": False}]}
    result = adapted(fields, service=service, model=model)
    assert tools(result, fields) == [TOOL, {**TOOL, "name": "u"}]
    assert result.dropped == ("tools.strict",)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("model", [*STRUCTURED, "my-own-profile"])
def test_strict_is_sent_to_bedrock_s_models_that_have_it(model: str, value: Any) -> None:
    result = adapted({"tools": [{**TOOL, "strict": value}]}, model=model)
    assert (set(result.changed), result.dropped) == ({"anthropic_version"}, ())


FIELDS: dict[str, tuple[Service, str, dict[str, Any], tuple[str, ...]]] = {
    "a caller that is the default": ("vertex", NEWER, {"allowed_callers": ["direct"]}, ()),
    "another caller": ("vertex", NEWER, {"allowed_callers": ["code_execution_20260120"]}, ("tools.allowed_callers",)),
    "another caller at Bedrock": (
        "bedrock",
        NEWER,
        {"allowed_callers": ["direct", "code_execution_20260120"]},
        ("tools.allowed_callers",),
    ),
    "deferred": ("bedrock", OLDEST, {"defer_loading": True}, ("tools.defer_loading",)),
    "not deferred": ("bedrock", OLDEST, {"defer_loading": False}, ()),
    "deferred by Claude Code": ("bedrock", OLDEST, {"custom": {"defer_loading": True}}, ("tools.defer_loading",)),
    "not deferred by Claude Code": ("bedrock", OLDEST, {"custom": {"defer_loading": False}}, ()),
    "an empty custom": ("bedrock", OLDEST, {"custom": {}}, ()),
    "examples": ("bedrock", OLDEST, {"input_examples": [{"a": 1}]}, ("tools.input_examples",)),
    "no examples": ("bedrock", OLDEST, {"input_examples": []}, ()),
    "a lifetime": (
        "bedrock",
        OLDEST,
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ("cache_control.ttl",),
    ),
}


@pytest.mark.parametrize(("service", "model", "more", "dropped"), FIELDS.values(), ids=FIELDS.keys())
def test_a_field_of_a_tool_that_a_model_lacks(
    service: Service, model: str, more: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    fields: dict[str, Any] = {"tools": [{**TOOL, **more}]}
    result = adapted(fields, service=service, model=model)
    expected = {**TOOL, "cache_control": {"type": "ephemeral"}} if "cache_control" in more else TOOL
    assert (tools(result, fields), result.dropped, result.betas) == ([expected], dropped, ())


def test_the_default_lifetime_is_left_out_silently() -> None:
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "5m"}}]
    }
    result = adapted(fields, model=OLDEST)
    assert sent_fields(fields, result)["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert result.dropped == ()
    assert "system" not in adapted(fields, model=OLDER).changed


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
def test_an_output_format_or_effort_of_null_is_left_out(service: Service) -> None:
    fields: dict[str, Any] = {"output_config": {"effort": None}}
    assert "output_config" in adapted(fields, service=service, model=OLDER).without
    assert adapted({"output_config": {"effort": "low"}}, service=service, model=OLDER).without == {"anthropic_beta"}


def test_eager_streaming_without_its_flag_is_reported() -> None:
    fields: dict[str, Any] = {"tools": [{**TOOL, "eager_input_streaming": True}]}
    result = adapted(fields, drop_betas=["fine-grained-*"])
    assert (tools(result, fields), result.betas, result.dropped) == ([TOOL], (), ("tools.eager_input_streaming",))


BREAKPOINT = {"type": "ephemeral"}
PLAIN = {"type": "text", "text": "a"}
THINKING = {"type": "thinking", "thinking": "", "signature": "s"}
PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an earlier block": (
        {"messages": [{"role": "user", "content": [PLAIN, THINKING]}]},
        {"messages": [{"role": "user", "content": [{**PLAIN, "cache_control": BREAKPOINT}, THINKING]}]},
    ),
    "an earlier message": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [THINKING]}]},
        {
            "messages": [
                {"role": "user", "content": [{**PLAIN, "cache_control": BREAKPOINT}]},
                {"role": "assistant", "content": [THINKING]},
            ]
        },
    ),
    "the system prompt": (
        {"messages": [{"role": "user", "content": ""}], "system": "a", "tools": [TOOL]},
        {
            "messages": [{"role": "user", "content": ""}],
            "system": [{**PLAIN, "cache_control": BREAKPOINT}],
            "tools": [TOOL],
        },
    ),
    "the tools": (
        {"messages": [{"role": "user", "content": ""}], "tools": [TOOL, TOOL]},
        {"messages": [{"role": "user", "content": ""}], "tools": [TOOL, {**TOOL, "cache_control": BREAKPOINT}]},
    ),
    "a block with a null": (
        {"messages": [{"role": "user", "content": [{**PLAIN, "cache_control": None}]}]},
        {"messages": [{"role": "user", "content": [{**PLAIN, "cache_control": BREAKPOINT}]}]},
    ),
}


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
@pytest.mark.parametrize(("given", "marked"), PLACES.values(), ids=PLACES.keys())
def test_the_automatic_breakpoint_goes_to_the_last_place_that_can_have_it(
    service: Service, given: dict[str, Any], marked: dict[str, Any]
) -> None:
    fields = {**given, "cache_control": BREAKPOINT}
    result = adapted(fields, service=service)
    body = sent_fields(fields, result)
    assert {name: body[name] for name in marked} == marked
    assert "cache_control" not in body
    assert result.dropped == ()
