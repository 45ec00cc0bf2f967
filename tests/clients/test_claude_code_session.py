"""Claude Code works through a session behind a mounted and a standalone gateway, and its bytes stay whole."""

from __future__ import annotations

import json

import pytest
from claude_code import ClaudeCode, Script, tool_results
from clients_gateways import KEY, UPSTREAM_KEY
from clients_tap import Tap

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


def messages_of(upstream: ThreadedStandIn) -> list[Received]:
    return [one for one in upstream.requests if one.path == b"/v1/messages"]


def test_a_session_with_tool_calls(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    note = claude.work / "note.txt"
    upstream.always(
        Script(
            tool_use("Write", {"file_path": str(note), "content": "Grüezi \U0001f600\n"}, text="I write it down."),
            tool_use("Read", {"file_path": str(note)}),
            tool_use("Bash", {"command": "tr a-z A-Z < note.txt", "description": "Shout"}),
            text("All done."),
        )
    )
    claude(tap.base_url, prompt="Write a note.").assert_success("All done.")
    assert note.read_text() == "Grüezi \U0001f600\n"
    asked = messages_of(upstream)
    assert len(asked) == 4
    written, read, shouted = tool_results(asked[-1].json())
    assert "note.txt" in json.dumps(written["content"])
    assert "Grüezi" in json.dumps(read["content"], ensure_ascii=False)
    assert "GR" in json.dumps(shouted["content"])
    assert upstream.refused == []


def test_what_it_sent_is_what_went_up(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    upstream.always(Script(tool_use("Bash", {"command": "echo hello", "description": "Greet"}), text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    sent, asked = tap.sent(b"POST", b"/v1/messages"), messages_of(upstream)
    assert len(sent) == len(asked) == 2
    for ours, theirs in zip(sent, asked, strict=True):
        assert ours.target.endswith(b"/v1/messages?beta=true")
        assert theirs.body == ours.body
        for name in ("anthropic-version", "anthropic-beta"):
            assert ours.header(name)
            assert theirs.header(name) == ours.header(name)
        assert theirs.header("x-api-key") == UPSTREAM_KEY.encode()
        assert not any(KEY.encode() in value for _, value in theirs.headers)
        system = theirs.json()["system"]
        assert len(system) > 1
        assert system[0]["text"].startswith("x-anthropic-billing-header: ")


def test_fields_and_betas_that_we_never_heard_of(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    """In auto mode it sends `safeguards`, which some upstreams refuse; then it does without."""
    refusal = error(400, "invalid_request_error", "safeguards: Extra inputs are not permitted")
    script = Script(text("All done."))
    upstream.always(lambda one: refusal if b'"safeguards":' in one.body else script(one))
    claude(tap.base_url, "--permission-mode=auto", "--betas=never-seen-2027-01-01").assert_success("All done.")
    sent, asked = tap.sent(b"POST", b"/v1/messages"), messages_of(upstream)
    assert [one.body for one in asked] == [one.body for one in sent]
    assert [one.header("anthropic-beta") for one in asked] == [one.header("anthropic-beta") for one in sent]
    assert ["safeguards" in one.json() for one in asked] == [True, False]


def test_it_goes_on_after_an_overload(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(529, "overloaded_error", "Overloaded", headers={"retry-after": "1"}))
    upstream.enqueue(error(429, "rate_limit_error", "Slow down", headers={"retry-after": "1"}))
    upstream.always(Script(text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    assert len(messages_of(upstream)) == 3


BREAKS = {
    "before its head": reset_before_head(),
    "within an event": eof_mid_event(reply=text("Only half of this is ever told.")),
    "by an error event": error_mid_stream("overloaded_error", "Overloaded", after_events=4),
}


@pytest.mark.parametrize("how", BREAKS)
def test_it_goes_on_after_an_answer_that_broke(
    how: str, claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(BREAKS[how])
    upstream.always(Script(text("All done.")))
    claude(tap.base_url).assert_success("All done.")
    assert len(messages_of(upstream)) == 2


def test_a_prompt_that_is_too_long_is_told_in_the_upstreams_words(
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
    assert {one.target.partition(b"?")[2] for one in counted} == {b"beta=true"}
    assert sorted(one.body for one in upstream.requests) == sorted(one.body for one in counted)
    assert {one.path for one in upstream.requests} == {b"/v1/messages/count_tokens"}
    assert upstream.refused == []
