"""`messages.create`: what comes back, and what goes up."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from backends import BACKEND
from cues import Cue, reply, said

UNICODE = 'Zürich 東京 🦜🏽 \u2028 \u2029 \x85 \x0b \x00 "quoted" \\u0041 \ufeff e\u0301 \U0010ffff </script>'


def test_a_message(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("text", "Hello there", usage=reply("Usage", 12, 34, 5, 6)))
    message = client.messages.create(**cue.ask())
    assert said(message) == [("text", "Hello there")]
    assert message.id.startswith(BACKEND.message_id)
    assert (message.type, message.role, message.model) == ("message", "assistant", BACKEND.model)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (12, 34)
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (5, 6)


async def test_a_message_async(async_client: anthropic.AsyncAnthropic) -> None:
    message = await async_client.messages.create(**Cue(reply("text", "Hello there")).ask())
    assert said(message) == [("text", "Hello there")]


def test_the_whole_conversation_is_forwarded(client: anthropic.Anthropic) -> None:
    cue = Cue()
    given = cue.ask(
        messages=[
            {"role": "assistant", "content": [{"type": "text", "text": "Go on."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi."}},
                ],
            },
        ],
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["\n\nHuman:"],
        metadata={"user_id": "u-1"},
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        tools=[{"name": "a", "description": "b", "input_schema": {"type": "object", "properties": {}}}],
    )
    client.messages.create(**given)
    assert cue.sent() == {name: value for name, value in given.items() if name != "model"}


def test_a_stop_sequence(client: anthropic.Anthropic) -> None:
    cue = Cue()
    message = client.messages.create(**cue.ask(stop_sequences=["stand-in"]))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "stand-in")


def test_a_cache_is_warmed_by_no_tokens_at_all(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**Cue().ask(max_tokens=0))
    assert (message.content, message.stop_reason) == ([], "max_tokens")


@pytest.mark.parametrize("streamed", [False, True])
def test_unicode_both_ways(client: anthropic.Anthropic, streamed: bool) -> None:
    cue = Cue(reply("text", UNICODE))
    given = cue.ask(messages=[{"role": "user", "content": UNICODE}])
    if streamed:
        with client.messages.stream(**given) as stream:
            pieces = "".join(stream.text_stream)
            message: Any = stream.get_final_message()
        assert pieces == UNICODE
    else:
        message = client.messages.create(**given)
    assert said(message) == [("text", UNICODE)]
    assert cue.sent()["messages"][1]["content"] == UNICODE


async def test_unicode_async(async_client: anthropic.AsyncAnthropic) -> None:
    async with async_client.messages.stream(**Cue(reply("text", UNICODE)).ask()) as stream:
        assert "".join([piece async for piece in stream.text_stream]) == UNICODE


@pytest.mark.parametrize("streamed", [False, True])
def test_a_big_body_and_a_big_answer(client: anthropic.Anthropic, streamed: bool) -> None:
    cue = Cue(reply("text", "an echo " * 800))
    big = "All work and no play. " * 70_000  # 1.5 MB
    given = cue.ask(messages=[{"role": "user", "content": big}])
    if streamed:
        with client.messages.stream(**given) as stream:
            answer = stream.get_final_text()
    else:
        answer = said(client.messages.create(**given))[0][1]
    assert answer == "an echo " * 800
    assert cue.sent()["messages"][1]["content"] == big


async def test_many_at_once(async_client: anthropic.AsyncAnthropic) -> None:
    async def one(number: int) -> str:
        message: Any = await async_client.messages.create(**Cue(reply("text", f"number {number}", delay=0.05)).ask())
        return said(message)[0][1]

    assert await asyncio.gather(*map(one, range(30))) == [f"number {number}" for number in range(30)]
