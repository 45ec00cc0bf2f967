"""The newer SDK's tool runner wants a thread of the service; where there is none, it sends the whole conversation."""

from __future__ import annotations

import anthropic
from anthropic import beta_tool
from cues import Cue, reply, said


def test_the_runner_goes_on_without(client: anthropic.Anthropic) -> None:
    then = Cue(reply("text", "It is sunny."))

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return then.text if city else ""

    cue = Cue(reply("tool_use", "get_weather", {"city": "Bern"}))
    last = client.beta.messages.tool_runner(tools=[get_weather], **cue.ask()).until_done()
    assert said(last) == [("text", "It is sunny.")]
    assert "thread" not in cue.sent()
    after = then.sent()
    assert (len(after["messages"]), "thread" in after) == (3, False)
    assert (cue.asked(), then.asked()) == (1, 1)
