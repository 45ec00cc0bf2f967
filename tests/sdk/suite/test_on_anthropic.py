"""What holds with Anthropic's own service behind the gateway: headers, versions and betas go up as they came."""

from __future__ import annotations

import os
from typing import Any

import anthropic
import pytest
from anthropic import APIStatusError
from backends import BACKEND, OLDER, VERSION
from cues import Cue, reply, said

EDITS: Any = {"edits": [{"type": "clear_tool_uses_20250919"}]}
MANAGED = "context-management-2025-06-27"


def test_what_is_forwarded(client: anthropic.Anthropic) -> None:
    cue = Cue()
    client.messages.create(**cue.ask(extra_headers={**cue.headers, "anthropic-new": "1", "cookie": "a=b"}))
    (upstream,) = cue.seen()["upstream"]
    headers: dict[str, str] = upstream["headers"]
    assert upstream["target"] == "/v1/messages"
    assert (headers["anthropic-version"], headers["anthropic-new"]) == (VERSION, "1")
    assert headers["content-type"] == "application/json"
    private = ("x-stainless", "x-suite-case", "cookie", "user-agent: anthropic")
    assert [name for name in headers if name.startswith(private)] == []
    assert "suites-key" not in str(headers)


def test_fields_that_the_sdk_does_not_know(client: anthropic.Anthropic) -> None:
    cue = Cue()
    given = {"inference_geo": "eu", "diagnostics": {"previous_message_id": None}, "service_tier": "standard_only"}
    client.messages.create(**cue.ask(extra_body=given))
    sent = cue.sent()
    assert {name: sent[name] for name in given} == given


def test_an_unknown_version(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match='"2099-01-01" is not a valid version'):
        client.messages.create(**Cue().ask(extra_headers={"anthropic-version": "2099-01-01"}))


def test_the_barer_error_of_the_edge(client: anthropic.Anthropic) -> None:
    bare = {"error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}
    with pytest.raises(APIStatusError) as raised:
        client.messages.create(**Cue(reply("json_body", bare, status=413)).ask())
    assert (raised.value.status_code, raised.value.type, raised.value.body) == (413, "request_too_large", bare)
    assert str(raised.value.request_id).startswith("req_")


def test_betas(client: anthropic.Anthropic) -> None:
    cue = Cue()
    given: Any = {"betas": ["a-1", MANAGED, "b-2"], "context_management": EDITS}
    message = client.beta.messages.create(**cue.ask(extra_headers=cue.headers, **given))
    assert said(message)
    seen = cue.seen()
    assert seen["client"][0]["query"] == ("beta=true" if OLDER else "")
    assert seen["upstream"][0]["headers"]["anthropic-beta"] == f"a-1,{MANAGED},b-2"
    assert seen["upstream"][0]["body"]["context_management"] == EDITS


async def test_betas_streamed(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(reply("text", "Hello there"))
    given: Any = {"betas": [MANAGED], "context_management": EDITS}
    async with async_client.beta.messages.stream(**cue.ask(**given)) as stream:
        assert said(await stream.get_final_message()) == [("text", "Hello there")]
    assert cue.seen()["upstream"][0]["headers"]["anthropic-beta"].split(",") == [MANAGED]


def test_a_beta_field_without_its_flag(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="context_management: Extra inputs are not permitted"):
        client.beta.messages.create(**Cue().ask(context_management=EDITS))


def test_a_count_of_beta_fields(client: anthropic.Anthropic) -> None:
    cue = Cue()
    given: Any = {"betas": [MANAGED], "context_management": EDITS}
    count = client.beta.messages.count_tokens(model=BACKEND.model, messages=cue.messages, **given)
    assert count.context_management is not None
    assert count.context_management.original_input_tokens == count.input_tokens
    flags = cue.seen()["upstream"][0]["headers"]["anthropic-beta"].split(",")
    assert flags == [MANAGED, "token-counting-2024-11-01"]


def test_a_count_arrives_as_it_came(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("json_body", {"input_tokens": 4711, "new": {"field": 1}}))
    raw = client.messages.with_raw_response.count_tokens(**cue.ask_for_a_count())
    assert raw.parse().input_tokens == 4711
    assert raw.http_response.json() == {"input_tokens": 4711, "new": {"field": 1}}
    (upstream,) = cue.seen()["upstream"]
    assert (upstream["target"], upstream["headers"]["anthropic-version"]) == ("/v1/messages/count_tokens", VERSION)


def test_a_count_takes_no_limit(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: Extra inputs are not permitted"):
        client.messages.count_tokens(model=BACKEND.model, messages=Cue().messages, extra_body={"max_tokens": 1})


def test_sampling_by_version(client: anthropic.Anthropic) -> None:
    """The version that the SDK says decides, and is not changed on the way."""
    given = Cue().ask(extra_body={"temperature": 1})
    if OLDER:
        assert said(client.messages.create(**given))
    with pytest.raises(APIStatusError, match="temperature: Extra inputs are not permitted"):
        client.messages.create(extra_headers={"anthropic-version": "2026-10-21"}, **given)


@pytest.mark.parametrize("kind", ["api_key", "auth_token"])
def test_a_credential_of_ones_own(kind: str) -> None:
    """The gateway passes it through, in the header that it came in."""
    cue = Cue()
    given: dict[str, Any] = {"base_url": os.environ["SUITE_PASSING_URL"], kind: os.environ["SUITE_UPSTREAM_KEY"]}
    with anthropic.Anthropic(**given) as client:
        assert said(client.messages.create(**cue.ask()))
    headers = cue.seen()["upstream"][0]["headers"]
    assert ("x-api-key" in headers, "authorization" in headers) == (
        (True, False) if OLDER and kind == "api_key" else (False, True)
    )


def test_a_wrong_credential_of_ones_own() -> None:
    """What the upstream says of it is the client's to know."""
    with (
        anthropic.Anthropic(base_url=os.environ["SUITE_PASSING_URL"], api_key="sk-wrong") as client,
        pytest.raises(anthropic.AuthenticationError, match=r"invalid x-api-key|Invalid bearer token") as raised,
    ):
        client.messages.create(**Cue().ask())
    body: Any = raised.value.body
    assert body["request_id"] == raised.value.response.headers["upstream-request-id"]


def test_models_are_as_the_service_lists_them(client: anthropic.Anthropic) -> None:
    told: Any = client.models.retrieve("claude-opus-5").model_dump()
    assert told["display_name"] == "Claude Opus 5"
    assert told["created_at"].isoformat() == "2026-07-14T00:00:00+00:00"
    assert (told["line"], told["lifecycle"]) == ("opus", "active")
    assert (told["max_input_tokens"], told["max_tokens"]) == (1_000_000, 128_000)
    assert told["capabilities"]["effort"]["xhigh"] == {"supported": True}
    assert told["capabilities"]["thinking"]["types"]["enabled"] == {"supported": False}
    deprecated: Any = client.models.retrieve("claude-sonnet-4-5").model_dump()
    assert (deprecated["id"], deprecated["lifecycle"]) == ("claude-sonnet-4-5-20250929", "deprecated")
