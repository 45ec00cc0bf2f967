"""Requests adapted to a service with part of the API: a flag and its field are both sent or both left out."""

from __future__ import annotations

import json
import time
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.features import Adaptation, _usual, adapt
from bud_asgi.providers.compat.rules import Service, service_rules
from bud_asgi.providers.seam import ProviderRequest
from providers.cloud_requests import NEWER, OLDER, OLDEST, VERSION, adapted, call_of, request_of, sent_fields

SENT = [
    "compact-2026-01-12",
    "computer-use-2024-10-22",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "dev-full-thinking-2025-05-14",
    "effort-2025-11-24",
    "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14",
    "mid-conversation-output-config-2026-07-01",
    "mid-conversation-tool-changes-2026-07-01",
    "model-context-window-exceeded-2025-08-26",
    "output-128k-2025-02-19",
    "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18",
    "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
    "tool-search-tool-2025-10-19",
]
LEFT = [
    "advisor-tool-2026-03-01",
    "claude-code-20250219",
    "code-execution-2025-05-22",
    "extended-cache-ttl-2025-04-11",
    "fast-mode-2026-02-01",
    "files-api-2025-04-14",
    "mcp-servers-2025-12-04",
    "memory-2025-08-18",
    "oauth-2025-04-20",
    "per-turn-control-2026-07-01",
    "prompt-caching-2024-07-31",
    "prompt-caching-scope-2026-01-05",
    "skills-2025-10-02",
    "structured-outputs-2025-11-13",
    "thinking-token-count-2026-05-13",
    "web-fetch-2025-09-10",
    "an-unknown-flag-2027-01-01",
]


@pytest.mark.parametrize("flag", SENT)
def test_supported_flags_are_sent(flag: str) -> None:
    assert adapted(betas=flag) == Adaptation(
        frozenset({"anthropic_beta"}), {"anthropic_version": b'"bedrock-2023-05-31"'}, (flag,), ()
    )


@pytest.mark.parametrize("flag", LEFT)
def test_an_unsupported_flag_is_dropped_and_reported(flag: str) -> None:
    result = adapted(betas=f"effort-2025-11-24,{flag}")
    assert (result.betas, result.dropped) == (("effort-2025-11-24",), (flag,))


def test_flags_of_header_and_body_are_merged_in_order_without_duplicates() -> None:
    result = adapted(
        {"anthropic_beta": ["context-1m-2025-08-07", "unknown", " effort-2025-11-24"]},
        betas=" effort-2025-11-24 ,unknown,, compact-2026-01-12",
    )
    assert result.betas == ("effort-2025-11-24", "compact-2026-01-12", "context-1m-2025-08-07")
    assert result.dropped == ("unknown",)
    assert "anthropic_beta" in result.without


def test_the_flag_for_advanced_tool_use_is_sent_under_other_names() -> None:
    betas = "advanced-tool-use-2025-11-20,tool-search-tool-2025-10-19"
    assert adapted(betas=betas).betas == ("tool-search-tool-2025-10-19", "tool-examples-2025-10-29")
    assert adapted(betas=betas, service="vertex").betas == ("tool-search-tool-2025-10-19",)
    assert adapted(betas=betas).dropped == ()


def test_models_without_tool_search_do_not_get_its_flag() -> None:
    betas = "tool-search-tool-2025-10-19,advanced-tool-use-2025-11-20"
    assert adapted(betas=betas, model=OLDER).betas
    assert (adapted(betas=betas, model=OLDEST).betas, adapted(betas=betas, model=OLDEST).dropped) == (
        (),
        tuple(betas.split(",")),
    )
    assert adapted(betas=betas, model="an-unknown-model").betas


def test_a_flag_that_needs_a_field_is_dropped_without_it() -> None:
    flag = "dangerous-tool-use-2026-09-03"
    assert adapted(betas=flag).dropped == (flag,)
    assert adapted({"safeguards": {}}, betas=flag).betas == (flag,)
    assert adapted({"safeguards": {}}, betas=flag, drop_fields=["safeguards"]).betas == ()


@pytest.mark.parametrize(
    ("tool", "flags"),
    [
        ({"defer_loading": True}, ("tool-search-tool-2025-10-19",)),
        ({"type": "tool_search_tool_regex_20251119"}, ("tool-search-tool-2025-10-19",)),
        ({"input_examples": [{}]}, ("tool-examples-2025-10-29",)),
        ({"description": 'says "defer_loading" and "input_examples"'}, ()),
    ],
    ids=["deferred", "a search", "examples", "in a text only"],
)
def test_tools_that_need_a_flag_only_at_bedrock_get_it(tool: dict[str, Any], flags: tuple[str, ...]) -> None:
    fields = {"tools": [{"name": "a", "input_schema": {}, **tool}]}
    assert (adapted(fields).betas, adapted(fields).dropped) == (flags, ())
    assert adapted(fields, model=OLDEST).betas == ()
    assert adapted(fields, service="vertex").betas == ()


BAD_FLAGS: dict[str, dict[str, Any]] = {
    "a line end": {"anthropic_beta": ["a\r\nset-cookie: b"]},
    "a comma": {"anthropic_beta": ["a,b"]},
    "not ASCII": {"anthropic_beta": ["é"]},
    "too long": {"anthropic_beta": ["a" * 101]},
    "a string": {"anthropic_beta": "a"},
    "an object": {"anthropic_beta": [{}]},
    "too many": {"anthropic_beta": [f"a-{n}" for n in range(65)]},
    "far too many": {"anthropic_beta": ["a"] * 100_000},
}


@pytest.mark.parametrize("fields", BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_an_invalid_list_of_flags_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^anthropic.beta: "):
        adapted(fields)


def test_an_invalid_flag_in_the_header_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^anthropic-beta: 'a b' is not a valid value$"):
        adapted(betas="a b")


DROPPED: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "service_tier": ({"service_tier": "auto"}, "", ("service_tier",)),
    "speed": ({"speed": "fast"}, "fast-mode-2026-02-01", ("fast-mode-2026-02-01", "speed")),
    "speed alone": ({"speed": "standard"}, "", ("speed",)),
    "diagnostics": (
        {"diagnostics": {"previous_message_id": None}},
        "cache-diagnosis-2026-04-07",
        ("cache-diagnosis-2026-04-07", "diagnostics"),
    ),
    "a credit": (
        {"fallback_credit_token": "t"},
        "fallback-credit-2026-07-01",
        ("fallback-credit-2026-07-01", "fallback_credit_token"),
    ),
}


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
@pytest.mark.parametrize(("fields", "betas", "dropped"), DROPPED.values(), ids=DROPPED.keys())
def test_a_field_that_clients_can_do_without_is_dropped_with_its_flag(
    fields: dict[str, Any], betas: str, dropped: tuple[str, ...], service: Literal["bedrock", "vertex"]
) -> None:
    result = adapted(fields, betas=betas, service=service)
    assert (result.betas, result.dropped) == ((), dropped)
    assert set(fields) < result.without


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fallbacks": ({"fallbacks": "default"}, "server-side-fallback-2026-07-01"),
    "container": ({"container": "c"}, ""),
    "mcp_servers": ({"mcp_servers": []}, "mcp-client-2025-11-20"),
    "inference_geo": ({"inference_geo": "us"}, ""),
    "billing_policy": ({"billing_policy": {}}, "user-profiles-billing-2026-10-01"),
    "thread": ({"thread": {"type": "create"}}, "message-threads-2026-08-12"),
}


@pytest.mark.parametrize("service", ["bedrock", "vertex"])
@pytest.mark.parametrize(("fields", "betas"), REFUSED.values(), ids=REFUSED.keys())
def test_a_field_that_clients_depend_on_is_rejected_as_the_service_would(
    fields: dict[str, Any], betas: str, service: Literal["bedrock", "vertex"]
) -> None:
    (name,) = fields
    with pytest.raises(InvalidRequest) as refused:
        adapted(fields, betas=betas, service=service)
    assert str(refused.value) == f"{name}: Extra inputs are not permitted"
    assert (refused.value.status, refused.value.type) == (400, "invalid_request_error")


def test_a_thread_is_rejected_so_that_the_sdk_continues_without() -> None:
    with pytest.raises(InvalidRequest) as refused:
        adapted({"thread": {"type": "create"}}, betas="message-threads-2026-08-12")
    assert refused.value.details == {"error_code": "thread_unsupported_request", "unsupported": ["platform"]}


@pytest.mark.parametrize("name", ["thread", "fallbacks", "container", "service_tier", "cache_control", "output_format"])
def test_null_counts_as_absent_and_is_not_reported(name: str) -> None:
    result = adapted({name: None})
    assert name in result.without
    assert result.dropped == ()
    assert sent_fields({name: None}, result) == sent_fields({}, adapted())


def test_a_field_is_sent_with_its_flag() -> None:
    fields = {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}
    result = adapted(fields, betas="context-management-2025-06-27")
    assert (result.betas, result.dropped) == (("context-management-2025-06-27",), ())
    assert "context_management" not in result.without


def test_a_field_without_its_flag_is_sent_for_the_service_to_validate() -> None:
    assert adapted({"context_management": {"edits": []}}).without == {"anthropic_beta"}


def test_unknown_fields_are_sent() -> None:
    assert adapted({"an_unknown_field": 1}).without == {"anthropic_beta"}


def test_a_flag_that_the_operator_allows_is_sent_with_its_field() -> None:
    flag = "server-side-fallback-2026-07-01"
    result = adapted({"fallbacks": "default"}, betas=flag, allow_betas=[flag])
    assert (result.betas, result.dropped) == ((flag,), ())
    assert "fallbacks" not in result.without
    with pytest.raises(InvalidRequest, match="fallbacks"):
        adapted({"fallbacks": "default"}, allow_betas=["another"])


def test_a_field_that_the_operator_drops_is_dropped_with_its_flag() -> None:
    flag = "context-management-2025-06-27"
    result = adapted({"context_management": {}, "top_k": 1}, betas=flag, drop_fields=["context_management", "top_k"])
    assert (result.betas, result.dropped) == ((), (flag, "context_management", "top_k"))
    assert {"context_management", "top_k"} < result.without
    assert adapted({"thread": {}}, drop_fields=["thread"]).dropped == ("thread",)


def test_a_flag_can_be_removed_from_the_rules() -> None:
    result = adapted(betas="effort-2025-11-24,compact-2026-01-12", drop_betas=["effort-2025-11-24"])
    assert (result.betas, result.dropped) == (("compact-2026-01-12",), ("effort-2025-11-24",))


def test_the_rules_of_one_provider_do_not_affect_another() -> None:
    service_rules("bedrock").adjusted(allow_betas=["mine"], drop_fields=["top_k"])
    assert adapted({"top_k": 1}, betas="mine").dropped == ("mine",)


def test_vertex_accepts_fewer_flags_when_counting_tokens() -> None:
    betas = "context-management-2025-06-27,mid-conversation-tool-changes-2026-07-01,web-search-2025-03-05"
    fields: dict[str, Any] = {"context_management": {}}
    assert adapted(fields, betas=betas, service="vertex").dropped == ()
    result = adapted(fields, betas=betas, service="vertex", counting=True)
    assert result.betas == ("mid-conversation-tool-changes-2026-07-01",)
    assert result.dropped == ("context-management-2025-06-27", "web-search-2025-03-05", "context_management")
    assert adapted(betas="mine", service="vertex", counting=True, allow_betas=["mine"]).betas == ("mine",)


VERSIONS = [
    ("2023-06-01", NEWER, "bedrock", "bedrock-2023-05-31"),
    ("2026-10-21", NEWER, "bedrock", "2026-10-21"),
    ("2026-10-21", "claude-opus-4-7", "bedrock", "2026-10-21"),
    ("2026-10-21", "claude-opus-4-6", "bedrock", "bedrock-2023-05-31"),
    ("2026-10-21", "claude-haiku-4-5-20251001", "bedrock", "bedrock-2023-05-31"),
    ("2026-10-21", "claude-opus-5", "bedrock", "2026-10-21"),
    ("2026-10-21", "who-knows", "bedrock", "bedrock-2023-05-31"),
    ("2027-01-01", OLDER, "bedrock", "2027-01-01"),
    ("2023-06-01", NEWER, "vertex", "vertex-2023-10-16"),
    ("2026-10-21", OLDEST, "vertex", "2026-10-21"),
]


@pytest.mark.parametrize(("version", "model", "service", "sent"), VERSIONS)
def test_the_version_is_in_the_body_under_the_service_s_name(
    version: str, model: str, service: Literal["bedrock", "vertex"], sent: str
) -> None:
    call = ProviderRequest(request_of({}), {b"anthropic-version": version.encode()})
    assert json.loads(adapt(call, service_rules(service), model).changed["anthropic_version"]) == sent


def test_a_version_in_the_body_is_kept() -> None:
    assert "anthropic_version" not in adapted({"anthropic_version": "2026-10-21"}).changed
    assert adapted({"anthropic_version": None}).changed["anthropic_version"] == b'"bedrock-2023-05-31"'


@given(
    st.lists(st.sampled_from([*SENT, *LEFT])), st.lists(st.sampled_from(sorted({**DROPPED, "thinking": 1, "top_k": 1})))
)
@examples(50, 2_000)
def test_every_flag_is_either_sent_or_reported(flags: list[str], names: list[str]) -> None:
    fields = {key: value for name in names for key, value in DROPPED.get(name, ({name: None}, "", ()))[0].items()}
    result = adapted(fields, betas=",".join(flags))
    sent, left = set(result.betas), set(result.dropped)
    assert sent | (left - set(fields)) == set(flags)
    assert not sent & left
    assert len(result.betas) == len(sent)


def test_a_plain_request_is_adapted_quickly() -> None:
    call, rules = call_of(), service_rules("bedrock")
    began = time.thread_time()
    for _ in range(1000):
        adapt(call, rules, NEWER)
    assert time.thread_time() - began < 0.5
    assert call.headers[b"anthropic-version"] == VERSION


_MARKED = '[{"content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h","scope":"b"}}]}]'
_VALUES = {
    "anthropic_beta": ["null", '["effort-2025-11-24"]', "1"],
    "anthropic_version": ["null", '"another"'],
    "cache_control": ["null", '{"type":"ephemeral"}'],
    "context_management": ["{}", '{"edits":[{"type":"clear_thinking_1"},{"type":"compact_1"}]}'],
    "messages": ["[{}]", _MARKED, '[{"clear_at":1,"output_config":{"effort":"low"}}]'],
    "metadata": ["{}"],
    "of_no_service": ["1"],
    "output_config": ["{}", '{"effort":"low"}', '{"task_budget":{},"format":{}}'],
    "output_format": ["null", '{"type":"json_schema"}'],
    "service_tier": ["null", '"auto"'],
    "system": ['"scope"', _MARKED],
    "thinking": ['{"type":"adaptive"}', '{"block_binding":{}}'],
    "tools": [
        "[]",
        '[{"name":"a","input_schema":{}}]',
        '[{"strict":true}]',
        '[{"str\\u0069ct":true}]',
        '[{"defer_loading":true,"input_examples":[{}],"eager_input_streaming":true}]',
        '[{"name":"a","custom":{"defer_loading":true}}]',
    ],
}


_pairs = [(name, value) for name, values in _VALUES.items() for value in values]
_fields = st.lists(st.sampled_from(_pairs), max_size=3, unique_by=lambda pair: pair[0]).map(dict)


@pytest.mark.torture
@examples(150, 20_000)
@given(
    fields=_fields,
    betas=st.lists(st.sampled_from(SENT + LEFT), max_size=3),
    version=st.sampled_from(["2023-06-01", "2026-10-21", "", "another", "of no service, and very long " * 9]),
    model=st.sampled_from([NEWER, OLDER, OLDEST, "a-name-without-a-generation"]),
    service=st.sampled_from(["anthropic", "bedrock", "vertex"]),
    drop_fields=st.sampled_from([(), ("metadata",), ("tools.strict",), ("tools.strict", "system")]),
    counting=st.booleans(),
)
def test_an_adaptation_does_not_depend_on_what_is_remembered(
    fields: dict[str, str],
    betas: list[str],
    version: str,
    model: str,
    service: Service,
    drop_fields: tuple[str, ...],
    counting: bool,
) -> None:
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    request = MessagesRequest(body.encode(), model, None, stream=False, counting=counting)
    headers = {b"anthropic-version": version.encode(), b"anthropic-beta": ",".join(betas).encode()}
    rules = service_rules(service).adjusted(drop_fields=drop_fields)

    def outcome() -> Adaptation | str:
        try:
            return adapt(ProviderRequest(request, headers), rules, model)
        except InvalidRequest as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bud_asgi.providers.compat.features._usual", Mock(return_value=None))
        alone = outcome()
    assert outcome() == alone


def test_how_requests_are_usually_adapted_is_remembered_within_bounds() -> None:
    for number in range(300):
        adapted({"system": "a"}, betas=f"flag-{number}")
    known = _usual.cache_info()
    adapted({"system": "b"}, betas="flag-299")
    assert _usual.cache_info().hits == known.hits + 1
    assert known.currsize <= 128
    unknown = {f"unknown_{number}": 1 for number in range(30)}
    adapted(unknown)
    assert _usual.cache_info().misses == known.misses
