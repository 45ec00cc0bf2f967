"""Tools: calls and results, streamed input, and the tool runner."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool, beta_tool
from cues import Cue, reply, said

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
INPUT = {"city": "Zürich", "days": [1, 2], "deep": {"a": None, "b": "\u2028"}}


def test_a_round_trip(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("tool_use", "get_weather", INPUT, text="I look it up."), reply("text", "It is sunny."))
    first = client.messages.create(**cue.ask(tools=[WEATHER]))
    assert first.stop_reason == "tool_use"
    words, call = first.content
    assert call.type == "tool_use"
    assert (words.type, call.name, call.input) == ("text", "get_weather", INPUT)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sun."}]}
    history = [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(**cue.ask(tools=[WEATHER], messages=history))
    assert said(second) == [("text", "It is sunny.")]
    sent = cue.sent(1)["messages"]
    assert sent[1]["content"][1]["input"] == INPUT
    assert sent[2]["content"] == [result]


def test_two_calls_at_once(client: anthropic.Anthropic) -> None:
    calls = [reply("ToolUseBlock", "get_weather", {"city": city}, f"toolu_{n}") for n, city in enumerate("ab")]
    message = client.messages.create(**Cue(reply("blocks", *calls)).ask(tools=[WEATHER]))
    assert [(call.id, call.input) for call in message.content if call.type == "tool_use"] == [
        ("toolu_0", {"city": "a"}),
        ("toolu_1", {"city": "b"}),
    ]


def test_streamed_input(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("tool_use", "get_weather", INPUT))
    with client.messages.stream(**cue.ask(tools=[WEATHER])) as stream:
        events: list[Any] = list(stream)
        message = stream.get_final_message()
    assert "".join(event.partial_json for event in events if event.type == "input_json")
    (call,) = message.content
    assert call.type == "tool_use"
    assert (call.input, message.stop_reason) == (INPUT, "tool_use")


async def test_streamed_input_async(async_client: anthropic.AsyncAnthropic) -> None:
    cue = Cue(reply("tool_use", "get_weather", {}))
    async with async_client.messages.stream(**cue.ask(tools=[WEATHER])) as stream:
        (call,) = (await stream.get_final_message()).content
    assert call.type == "tool_use"
    assert call.input == {}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_forced_tool(client: anthropic.Anthropic, choice: Any) -> None:
    message = client.messages.create(**Cue().ask(tools=[WEATHER], tool_choice=choice))
    (call,) = message.content
    assert call.type == "tool_use"
    assert call.input == {"city": "example"}


def test_the_runner(client: anthropic.Anthropic) -> None:
    asked: list[str] = []
    then = Cue(reply("text", "It is sunny."))

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return then.text

    cue = Cue(reply("tool_use", "get_weather", {"city": "Bern"}))
    last = client.beta.messages.tool_runner(tools=[get_weather], **cue.ask()).until_done()
    assert said(last) == [("text", "It is sunny.")]
    assert asked == ["Bern"]
    assert then.sent()["messages"][-1]["content"][0]["type"] == "tool_result"


def test_the_runner_streams(client: anthropic.Anthropic) -> None:
    then = Cue(reply("text", "It is sunny."))

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return then.text if city else ""

    cue = Cue(reply("tool_use", "get_weather", {"city": "Bern"}))
    runner: Any = client.beta.messages.tool_runner(tools=[get_weather], stream=True, **cue.ask())
    types = [[event.type for event in stream] for stream in runner]
    assert len(types) == 2
    assert all(kinds[-1] == "message_stop" for kinds in types)


async def test_the_runner_async(async_client: anthropic.AsyncAnthropic) -> None:
    then = Cue(reply("text", "It is sunny."))

    @beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather in a city."""
        return then.text if city else ""

    cue = Cue(reply("tool_use", "get_weather", {"city": "Bern"}))
    last = await async_client.beta.messages.tool_runner(tools=[get_weather], **cue.ask()).until_done()
    assert said(last) == [("text", "It is sunny.")]
