"""Requests that need what a provider lacks, and state of one account, over real sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from support.calls import HEADERS
from support.gateway import Gateway, gateway

from bud_asgi import Anthropic, Bedrock, Route
from bud_asgi.testing import StandIn, ThreadedStandIn, error, text
from bud_asgi.testing import bedrock as aws

FILES = "files-api-2025-04-14"
MCP: dict[str, Any] = {
    "mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}],
    "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}],
}
MCP_BETA = "mcp-client-2025-11-20"
CLAUDE_CODE = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    "mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,effort-2025-11-24"
)
ROUTES = (
    Route("claude-haiku-4-5", ["aws", "one"]),
    Route("claude-sonnet-4-5", ["aws"]),
    Route("claude-opus-4-5", [["one", "two"], "aws"]),
    Route("claude-opus-4-6", ["one"], features=["context-1m-*", "metadata"]),
    Route("claude-opus-4-6", ["aws"]),
)


class Stage:
    """A gateway before Bedrock and two accounts at Anthropic."""

    def __init__(self, here: Gateway, upstreams: dict[str, ThreadedStandIn]) -> None:
        self.here, self.upstreams = here, upstreams

    def post(self, model: str, betas: str = "", session: str = "", **fields: Any) -> httpx.Response:
        more = {"anthropic-beta": betas, "x-claude-code-session-id": session}
        headers = {**HEADERS, **{name: value for name, value in more.items() if value}}
        return self.here.post({"model": model, **fields}, headers=headers)

    def tried(self) -> list[str]:
        """The providers that the latest request was sent to, in order."""
        return [attempt.target.provider for attempt in self.here.account().attempts]


@pytest.fixture
def stage() -> Generator[Stage]:
    service = aws.Bedrock()
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(StandIn(api_key=f"k-{name}").in_thread()) for name in ("one", "two")}
        upstreams["aws"] = stack.enter_context(StandIn.of(service).in_thread())
        for name, upstream in upstreams.items():
            upstream.always(text(name))
        key = service.keys.issue_temporary()
        providers = [
            Bedrock(
                name="aws",
                region=service.region,
                endpoint=upstreams["aws"].base_url,
                access_key=key.access_key,
                secret_key=key.secret_key,
                session_token=key.session_token,
            ),
            *(Anthropic(name=name, api_key=f"k-{name}", base_url=upstreams[name].base_url) for name in ("one", "two")),
        ]
        with gateway("", providers=providers, routes=ROUTES) as here:
            yield Stage(here, upstreams)
            here.assert_nothing_open()
        assert [upstream.refused for upstream in upstreams.values()] == [[], [], []]


def served_by(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["content"][0]["text"]


def test_a_request_goes_to_the_target_that_has_what_it_needs_though_it_is_the_second(stage: Stage) -> None:
    for fields, betas in ((MCP, MCP_BETA), ({}, f"{CLAUDE_CODE},{FILES}")):
        reply = stage.post("claude-haiku-4-5", betas, **fields)
        assert (served_by(reply), "bud-dropped" in reply.headers) == ("one", False)
        assert stage.tried() == ["one"]
        assert stage.upstreams["one"].requests[-1].header("anthropic-beta") == betas.encode()
    assert stage.upstreams["aws"].requests == []


def test_a_request_of_claude_code_stays_at_the_first_target_and_so_do_others_without_a_need(stage: Stage) -> None:
    fields = {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}, "metadata": {"user_id": "u"}}
    reply = stage.post("claude-haiku-4-5", CLAUDE_CODE, "session", **fields)
    assert served_by(reply) == "aws"
    assert "claude-code-20250219" in reply.headers["bud-dropped"]
    assert served_by(stage.post("claude-haiku-4-5", service_tier="auto")) == "aws"
    assert stage.upstreams["one"].requests == []


def test_the_other_target_is_tried_when_the_one_that_has_it_fails_and_while_it_is_down(stage: Stage) -> None:
    limited = error(429, "rate_limit_error", "Slow down", headers={"retry-after": "30"})
    stage.upstreams["one"].enqueue(limited)
    for attempts in (["one", "aws"], ["aws"]):
        reply = stage.post("claude-haiku-4-5", FILES)
        assert (served_by(reply), reply.headers["bud-dropped"]) == ("aws", FILES)
        assert stage.tried() == attempts


def test_a_target_that_rejects_a_field_is_not_tried_after_the_one_that_has_it(stage: Stage) -> None:
    stage.upstreams["one"].enqueue(error(529, "overloaded_error", "Overloaded"))
    reply = stage.post("claude-haiku-4-5", MCP_BETA, **MCP)
    assert (reply.status_code, reply.json()["error"]["message"]) == (529, "Overloaded")
    assert stage.tried() == ["one"]


def test_where_all_targets_lack_it_the_order_is_the_same(stage: Stage) -> None:
    reply = stage.post("claude-sonnet-4-5", FILES)
    assert (served_by(reply), reply.headers["bud-dropped"]) == ("aws", FILES)
    refused = stage.post("claude-sonnet-4-5", MCP_BETA, **MCP)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "mcp_servers: Extra inputs are not permitted",
    )


@pytest.mark.parametrize(
    ("betas", "fields", "served"),
    [
        ("", {}, "aws"),
        ("effort-2025-11-24", {}, "aws"),
        ("effort-2025-11-24,context-1m-2025-08-07", {}, "one"),
        ("", {"metadata": {"user_id": "u"}}, "one"),
        ("", {"metadata": None}, "aws"),
    ],
)
def test_a_route_is_for_the_requests_that_use_one_of_its_features(
    stage: Stage, betas: str, fields: dict[str, Any], served: str
) -> None:
    assert served_by(stage.post("claude-opus-4-6", betas, **fields)) == served


def test_state_of_one_account_follows_its_conversation_without_failover(stage: Stage) -> None:
    homes: Counter[str] = Counter()
    for session in range(16):
        home = served_by(stage.post("claude-opus-4-5", session=f"s{session}"))
        assert served_by(stage.post("claude-opus-4-5", session=f"s{session}", container="container_1")) == home
        homes[home] += 1
    assert len(homes) == 2
    home = served_by(stage.post("claude-opus-4-5", session="s0"))
    stage.upstreams[home].enqueue(error(529, "overloaded_error", "Overloaded"))
    assert stage.post("claude-opus-4-5", session="s0", container="container_1").status_code == 529
    assert stage.tried() == [home]
