"""What a request needs that some services lack, and what it would lose at each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import BODY
from support.counts import examples

from bud_asgi.protocol.betas import MAX_BETAS
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.plain import PLAIN_FIELDS
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import NO_LOSS, Anthropic, Loss, Needs, needs_of, traits_of
from bud_asgi.providers.compat.needs import loss_of
from bud_asgi.providers.compat.rules import Service, known_rules, service_rules
from providers.cloud_requests import adapted, call_of

MODEL = "claude-sonnet-4-5"

CLAUDE_CODE = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    "mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,"
    "effort-2025-11-24,dangerous-tool-use-2026-09-03,thinking-display-updates-2026-08-18,afk-mode-2026-01-31"
)
"""The flags of Claude Code 2.1 in auto mode; others of its requests list fewer."""


def needs(fields: dict[str, Any] | None = None, betas: str = "", *, counting: bool = False) -> Needs | None:
    call = call_of(fields or {}, betas=betas, counting=counting)
    return needs_of(call.headers, call.request)


def lost(service: Service, fields: dict[str, Any], betas: str = "", model: str = MODEL, **adjusted: Any) -> Loss:
    call, needed = call_of(fields, betas=betas), needs(fields, betas)
    return (
        NO_LOSS if needed is None else loss_of(call.request, needed, service_rules(service).adjusted(**adjusted), model)
    )


NO_NEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing special": ({}, ""),
    "Claude Code": ({"context_management": {"edits": []}, "thinking": {"type": "adaptive"}}, CLAUDE_CODE),
    "fields that are dropped without harm": ({"service_tier": "auto", "diagnostics": {}, "speed": "fast"}, ""),
    "a field that is null": ({"mcp_servers": None, "container": None}, ""),
    "an unknown field and flag": ({"new_field": 1}, "new-flag-2031-01-01"),
    "an invalid flag": ({}, "context-1m-2025-08-07,a b"),
    "too many flags": ({}, ",".join(f"context-1m-{number}" for number in range(MAX_BETAS + 1))),
}


@pytest.mark.parametrize(("fields", "betas"), NO_NEEDS.values(), ids=NO_NEEDS.keys())
def test_most_requests_need_nothing_that_a_service_lacks(fields: dict[str, Any], betas: str) -> None:
    assert needs(fields, betas) is None


def test_fields_that_a_service_rejects_and_marked_flags_are_needed() -> None:
    found = needs({"mcp_servers": [], "container": "c", "anthropic_beta": ["files-api-1"]}, "a, context-1m-2025-08-07")
    assert found is not None
    assert (found.fields, found.betas) == (("container", "mcp_servers"), ("context-1m-2025-08-07", "files-api-1"))
    assert found.requested == ("a", "context-1m-2025-08-07", "files-api-1")


def test_a_count_of_tokens_needs_no_flag() -> None:
    assert needs({}, "context-1m-2025-08-07", counting=True) is None
    found = needs({"mcp_servers": []}, "context-1m-2025-08-07", counting=True)
    assert found is not None
    assert (found.fields, found.betas) == (("mcp_servers",), ())


MCP: dict[str, Any] = {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}]}

LOSSES: dict[str, tuple[Loss, Loss]] = {
    "a rejected field": (lost("bedrock", MCP), Loss(("mcp_servers",))),
    "a field that its flag enables there": (lost("vertex", {"compaction": {}}, "compact-2026-09-04"), NO_LOSS),
    "a field without its flag": (lost("bedrock", {"compaction": {}}, "compact-2026-09-04"), Loss(("compaction",))),
    "a flag": (lost("vertex", {}, "files-api-2025-04-14"), Loss((), ("files-api-2025-04-14",))),
    "a flag that one service has": (lost("bedrock", {}, "computer-use-2024-10-22"), NO_LOSS),
    "a flag that the other lacks": (
        lost("vertex", {}, "computer-use-2024-10-22"),
        Loss((), ("computer-use-2024-10-22",)),
    ),
    "a flag that both have": (lost("vertex", {}, "context-1m-2025-08-07"), NO_LOSS),
    "both": (lost("bedrock", MCP, "skills-2025-10-02"), Loss(("mcp_servers",), ("skills-2025-10-02",))),
    "what the operator allows": (lost("vertex", {}, "files-api-2", allow_betas=["files-api-*"]), NO_LOSS),
    "a flag that the operator drops": (
        lost("anthropic", {}, "context-1m-2,effort-2", drop_betas=["*"]),
        Loss((), ("context-1m-2",)),
    ),
    "a field that the operator drops": (lost("bedrock", MCP, drop_fields=["mcp_servers"]), Loss((), ("mcp_servers",))),
    "a harmless field that the operator drops": (
        lost("anthropic", {"metadata": {}}, "context-1m-2", drop_fields=["metadata"]),
        NO_LOSS,
    ),
}


@pytest.mark.parametrize(("found", "expected"), LOSSES.values(), ids=LOSSES.keys())
def test_what_is_lost(found: Loss, expected: Loss) -> None:
    assert found == expected


def test_no_body_that_counts_as_plain_has_a_field_that_a_service_rejects() -> None:
    rules = known_rules().services.values()
    rejected = {name for each in rules for name, rule in each.fields.items() if rule.if_unsupported == "reject"}
    assert len(rejected) > 5
    assert rejected.isdisjoint(PLAIN_FIELDS)


def test_no_needed_flag_stands_for_a_top_level_field_or_is_one_that_claude_code_always_lists() -> None:
    for flag in CLAUDE_CODE.split(","):
        assert needs({}, flag) is None
    for rules in known_rules().services.values():
        assert not any(rule.needs for name, rule in rules.betas.items() if needs({}, name))


def test_the_manual_lists_the_needed_flags() -> None:
    manual = (Path(__file__).parents[3] / "docs/routing.md").read_text()
    (row,) = re.findall(r"a beta without which the result is another: (.+?) \|", manual)
    assert re.findall(r"`(.+?)`", row) == list(known_rules().needed_betas)
    assert f"These lists are as of {known_rules().as_of}." in manual


def test_a_server_without_rules_loses_nothing() -> None:
    assert traits_of(Anthropic(api_key="k")).loss_of is None
    assert traits_of(Anthropic(api_key="k", drop_betas=["x"])).loss_of is not None


def test_a_plain_body_is_not_searched_for_fields() -> None:
    request = decode_request(BODY)
    assert request.is_plain
    assert needs_of({b"anthropic-beta": b"context-1m-2"}, request) is not None
    assert request.located is None


_fields = st.dictionaries(
    st.sampled_from(["billing_policy", "container", "compaction", "thread", "diagnostics", "metadata"]),
    st.sampled_from([None, {}, {"a": 1}]),
)
_flags = st.lists(
    st.sampled_from(["context-1m-2025-08-07", "files-api-2", "compact-2026-09-04", "effort-2025-11-24", "mcp-client-1"])
)


def left_out(service: Service, fields: dict[str, Any], betas: str, **adjusted: Any) -> tuple[set[str], str]:
    """What adapting a request leaves out, and the field for which it is rejected; empty if it is not."""
    try:
        return set(adapted(fields, betas=betas, model=MODEL, service=service, **adjusted).dropped), ""
    except InvalidRequest as error:
        return set(), str(error).partition(":")[0]


@given(
    st.sampled_from(["anthropic", "bedrock", "vertex"]),
    _fields,
    _flags,
    st.sampled_from([(), ("context-1m-*",), ("*",)]),
)
@examples(100, 2_000)
def test_the_loss_is_what_adapting_the_request_leaves_out_or_rejects(
    service: Service, fields: dict[str, Any], flags: list[str], dropped: tuple[str, ...]
) -> None:
    betas = ",".join(flags)
    levers: dict[str, Any] = {"drop_betas": dropped, "drop_fields": ("container",)}
    loss, needed = lost(service, fields, betas, **levers), needs(fields, betas)
    names, rejected = left_out(service, fields, betas, **levers)
    assert bool(rejected) is bool(loss.rejected)
    if rejected:
        assert rejected in loss.rejected
    else:
        assert set(loss.dropped) == names & set(() if needed is None else (*needed.fields, *needed.betas))
