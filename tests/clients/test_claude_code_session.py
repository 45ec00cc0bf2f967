"""Sessions of Claude Code with a mounted and a standalone gateway; requests are forwarded byte for byte."""

from __future__ import annotations

import json

import pytest
from claude_code import ClaudeCode, Script, tool_results
from clients_tap import Tap
from support.calls import KEY, UPSTREAM_KEY

from bud_asgi.testing import (
    Received,
    ThreadedStandIn,
    eof_mid_event,
    error,
    error_mid_stream,
    reset_before_head,
    text,
    tool_use,
)


def messages_requests(upstream: ThreadedStandIn) -> list[Received]:
    return [request for request in upstream.requests if request.path == b"/v1/messages"]


def test_a_session_with_tool_calls(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    note = claude.work / "note.txt"
    upstream.always(
        Script(
            tool_use("Write", {"file_path": str(note), "content": "Grüezi \U0001f600\n"}, text="I will write it down."),
            tool_use("Read", {"file_path": str(note)}),
            tool_use("Bash", {"command": "tr a-z A-Z < note.txt", "description": "Shout"}),
            text("All done."),
        )
    )
    claude(tap.base_url, prompt="Write a note.").assert_success("All done.")
    assert note.read_text() == "Grüezi \U0001f600\n"
    received = messages_requests(upstream)
    assert len(received) == 4
    written, read, shouted = tool_results(received[-1].json())
    assert "note.txt" in json.dumps(written["content"])
    assert "Grüezi" in json.dumps(read["content"], ensure_ascii=False)
    assert "GR" in json.dumps(shouted["content"])
    assert upstream.refused == []


def test_the_upstream_receives_what_the_client_sent(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    upstream.always(Script(tool_use("Bash", {"command": "echo hello", "description": "Greet"}), text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    sent, received = tap.sent(b"POST", b"/v1/messages"), messages_requests(upstream)
    assert len(sent) == len(received) == 2
    for client, gateway in zip(sent, received, strict=True):
        assert client.target.endswith(b"/v1/messages?beta=true")
        assert gateway.body == client.body
        for name in ("anthropic-version", "anthropic-beta"):
            assert client.header(name)
            assert gateway.header(name) == client.header(name)
        assert gateway.header("x-api-key") == UPSTREAM_KEY.encode()
        assert not any(KEY.encode() in value for _, value in gateway.headers)
        system = gateway.json()["system"]
        assert len(system) > 1
        assert system[0]["text"].startswith("x-anthropic-billing-header: ")


def test_unknown_fields_and_betas_are_forwarded(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    """In auto mode it sends `safeguards`, and retries without if the upstream rejects the field."""
    rejection = error(400, "invalid_request_error", "safeguards: Extra inputs are not permitted")
    script = Script(text("All done."))
    upstream.always(lambda request: rejection if b'"safeguards":' in request.body else script(request))
    claude(tap.base_url, "--permission-mode=auto", "--betas=never-seen-2027-01-01").assert_success("All done.")
    sent, received = tap.sent(b"POST", b"/v1/messages"), messages_requests(upstream)
    assert [request.body for request in received] == [request.body for request in sent]
    betas = [[request.header("anthropic-beta") for request in requests] for requests in (sent, received)]
    assert betas[0] == betas[1]
    assert ["safeguards" in request.json() for request in received] == [True, False]


def test_a_session_goes_on_after_an_overload(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(529, "overloaded_error", "Overloaded", headers={"retry-after": "1"}))
    upstream.enqueue(error(429, "rate_limit_error", "Slow down", headers={"retry-after": "1"}))
    upstream.always(Script(text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    assert len(messages_requests(upstream)) == 3


BROKEN = {
    "before the head": reset_before_head(),
    "within an event": eof_mid_event(reply=text("Only half of this is sent.")),
    "by an error event": error_mid_stream("overloaded_error", "Overloaded", after_events=4),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_session_goes_on_after_a_broken_reply(
    how: str, claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(BROKEN[how])
    upstream.always(Script(text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    assert len(messages_requests(upstream)) == 2


def test_the_upstreams_error_for_a_long_prompt_reaches_the_user(
    claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn
) -> None:
    upstream.always(error(400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"))
    session = claude(tap.base_url)
    assert session.result["is_error"]
    assert "Prompt is too long" in session.result["result"]


def test_count_tokens(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    session = claude(tap.base_url, prompt="/context")
    assert not session.result["is_error"]
    counted = tap.sent(b"POST", b"/v1/messages/count_tokens")
    assert len(counted) > 10
    assert {request.target.partition(b"?")[2] for request in counted} == {b"beta=true"}
    assert sorted(request.body for request in upstream.requests) == sorted(request.body for request in counted)
    assert {request.path for request in upstream.requests} == {b"/v1/messages/count_tokens"}
    assert upstream.refused == []
