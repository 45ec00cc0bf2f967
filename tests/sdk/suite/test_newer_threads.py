"""The newer SDK's tool runner keeps its conversation in a thread of the service, and starts anew where that is lost."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import beta_tool
from cues import Cue, reply, said


def run(client: anthropic.Anthropic, then: Cue) -> Cue:
    """Ask, run a tool, and answer with `then`; the cue of the first request."""

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return then.text if city else ""

    cue = Cue(reply("tool_use", "get_weather", {"city": "Bern"}))
    last = client.beta.messages.tool_runner(tools=[get_weather], **cue.ask()).until_done()
    assert said(last) == [("text", "It is sunny.")]
    return cue


def test_only_what_is_new_is_sent(client: anthropic.Anthropic) -> None:
    then = Cue(reply("text", "It is sunny."))
    assert run(client, then).sent()["thread"] == {"type": "create"}
    after = then.sent()
    assert (len(after["messages"]), after["thread"]["type"]) == (1, "continue")
    assert after["thread"]["previous_message_id"].startswith("msg_")


@pytest.mark.parametrize(
    ("failure", "thread"),
    [
        (reply("error", 404, "not_found_error", "lost", details={"error_code": "thread_not_found"}), "create"),
        (
            reply(
                "error", 400, "invalid_request_error", "not this",
                details={"error_code": "thread_unsupported_request", "unsupported": ["tools"]},
            ),
            None,
        ),
    ],
    ids=["lost", "not supported"],
)  # fmt: skip
def test_a_thread_that_fails(client: anthropic.Anthropic, failure: dict[str, object], thread: str | None) -> None:
    then = Cue(failure, reply("text", "It is sunny."))
    run(client, then)
    again = then.sent(1)
    assert len(again["messages"]) == 3
    assert again.get("thread", {}).get("type") == thread
