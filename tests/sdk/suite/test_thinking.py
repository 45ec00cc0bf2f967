"""Thinking: with a budget and without, streamed, left out, and sent back."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from backends import BACKEND
from cues import Cue, reply, said

BUDGET: Any = {"type": "enabled", "budget_tokens": 1024}
ADAPTIVE: Any = {"type": "adaptive"}


def test_a_budget(client: anthropic.Anthropic) -> None:
    cue = Cue()
    message = client.messages.create(**cue.ask(thinking=BUDGET))
    thought, words = message.content
    assert thought.type == "thinking"
    assert (thought.thinking, words.type) == ("A stand-in thinks: I echo what was said.", "text")
    assert len(thought.signature) > 20
    assert cue.sent()["thinking"] == BUDGET


def test_as_it_likes(client: anthropic.Anthropic) -> None:
    more: Any = {"thinking": ADAPTIVE, "output_config": {"effort": "low"}}
    message = client.messages.create(**Cue().ask(model=BACKEND.adaptive_model, **more))
    assert [block.type for block in message.content] == ["thinking", "text"]


def test_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**Cue(reply("thinking", "Let me see.", "Yes.")).ask(thinking=BUDGET)) as stream:
        events: list[Any] = list(stream)
        thought: Any = stream.get_final_message().content[0]
    assert "".join(event.thinking for event in events if event.type == "thinking") == "Let me see."
    assert [event.signature for event in events if event.type == "signature"] == [thought.signature]


async def test_streamed_async(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(reply("thinking", "Let me see.", "Yes."))
    async with async_client.messages.stream(**cue.ask(thinking=BUDGET)) as stream:
        message = await stream.get_final_message()
    assert said(message) == [("thinking", "Let me see."), ("text", "Yes.")]


@pytest.mark.parametrize("streamed", [False, True])
def test_left_out(client: anthropic.Anthropic, streamed: bool) -> None:
    given = Cue(reply("thinking", "", "Yes.")).ask()
    if streamed:
        with client.messages.stream(**given) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(**given)
    assert said(message) == [("thinking", ""), ("text", "Yes.")]
    assert len(message.content[0].signature) > 20


def test_sent_back(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("thinking", "Let me see.", "Yes."))
    first = client.messages.create(**cue.ask(thinking=BUDGET))
    history = [{"role": "assistant", "content": first.content}, {"role": "user", "content": "And?"}]
    client.messages.create(**cue.ask(thinking=BUDGET, messages=history))
    sent = cue.sent(1)["messages"][1]["content"][0]
    thought: Any = first.content[0]
    assert sent == {"type": "thinking", "thinking": "Let me see.", "signature": thought.signature}
