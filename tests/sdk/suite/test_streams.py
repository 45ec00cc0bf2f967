"""Streams: the helpers of `messages.stream`, and the raw events of `create(stream=True)`."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import anthropic
import pytest
from cues import Cue, reply, said

STORY = "One two three, four five six; seven."


def is_grammatical(types: list[str]) -> bool:
    """`message_start`, blocks of start, deltas and stop, `message_delta`, `message_stop`."""
    left = [kind for kind in types if kind != "content_block_delta"]
    blocks = left[1:-2]
    pairs = ["content_block_start", "content_block_stop"] * (len(blocks) // 2)
    return left == ["message_start", *pairs, "message_delta", "message_stop"]


def test_the_text_of_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**Cue(reply("text", STORY)).ask()) as stream:
        pieces = list(stream.text_stream)
    assert "".join(pieces) == STORY
    assert len(pieces) > 5


def test_a_stream_gathers_the_same_message(client: anthropic.Anthropic) -> None:
    usage = reply("Usage", 12, 34, 5, 6)
    cue = Cue(*[reply("thinking", "Let me see.", STORY, usage=usage)] * 2)
    whole: Any = client.messages.create(**cue.ask())
    with client.messages.stream(**cue.ask()) as stream:
        streamed: Any = stream.get_final_message()
        assert stream.get_final_text() == STORY
        assert stream.current_message_snapshot.id == streamed.id
    assert said(streamed) == said(whole) == [("thinking", "Let me see."), ("text", STORY)]
    for name in ("model", "role", "stop_reason", "stop_sequence"):
        assert getattr(streamed, name) == getattr(whole, name)
    assert streamed.usage.output_tokens == whole.usage.output_tokens == 34
    assert streamed.usage.input_tokens == whole.usage.input_tokens == 12
    assert streamed.usage.cache_read_input_tokens == 6


def test_the_events_of_the_helper(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**Cue(reply("text", STORY)).ask()) as stream:
        events: list[Any] = list(stream)
    types = [event.type for event in events]
    assert is_grammatical([kind for kind in types if kind != "text"])
    texts = [event for event in events if event.type == "text"]
    assert "".join(event.text for event in texts) == texts[-1].snapshot == STORY
    assert next(event for event in events if event.type == "content_block_stop").content_block.text == STORY
    assert events[-1].message.stop_reason == "end_turn"


def test_raw_events(client: anthropic.Anthropic) -> None:
    with client.messages.create(stream=True, **Cue(reply("text", STORY)).ask()) as stream:
        events: list[Any] = list(stream)
    assert is_grammatical([event.type for event in events])
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.text for delta in deltas) == STORY
    assert (events[0].message.content, events[0].message.stop_reason) == ([], None)
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens > 5


async def test_the_text_of_a_stream_async(async_client: anthropic.AsyncAnthropic) -> None:
    async with async_client.messages.stream(**Cue(reply("text", STORY)).ask()) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert "".join(pieces) == STORY == said(message)[0][1]
    assert len(pieces) > 5


async def test_the_events_of_the_helper_async(async_client: anthropic.AsyncAnthropic) -> None:
    async with async_client.messages.stream(**Cue(reply("text", STORY)).ask()) as stream:
        types = [event.type async for event in stream]
    assert is_grammatical([kind for kind in types if kind != "text"])


async def test_raw_events_async(async_client: anthropic.AsyncAnthropic) -> None:
    async with await async_client.messages.create(stream=True, **Cue(reply("text", STORY)).ask()) as stream:
        assert is_grammatical([event.type async for event in stream])


async def test_pieces_come_as_they_are_made(async_client: anthropic.AsyncAnthropic) -> None:
    moments: list[float] = []
    async with async_client.messages.stream(**Cue(reply("text", "One two three", delay=0.03)).ask()) as stream:
        async for _ in stream.text_stream:
            moments.append(time.monotonic())  # noqa: PERF401 - one by one, as they arrive
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert len([gap for gap in gaps if gap > 0.015]) > len(gaps) / 2


@pytest.mark.parametrize("name", ["one_byte_per_segment", "close_after"])
def test_a_stream_in_odd_shapes(client: anthropic.Anthropic, name: str) -> None:
    with client.messages.stream(**Cue(reply(name, reply=reply("text", STORY))).ask()) as stream:
        assert stream.get_final_text() == STORY


def test_a_stream_that_is_left(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**Cue(reply("text", STORY, delay=0.02)).ask()) as stream:
        assert next(iter(stream.text_stream)) == "One"
    message = client.messages.create(**Cue(reply("text", "Here I am.")).ask())
    assert said(message) == [("text", "Here I am.")]


async def test_a_stream_that_is_left_async(async_client: anthropic.AsyncAnthropic) -> None:
    stream = await async_client.messages.create(stream=True, **Cue(reply("text", STORY, delay=0.02)).ask())
    async for event in stream:
        assert event.type == "message_start"
        break
    await stream.close()
