"""Structured output: `messages.parse`, `output_config.format`, and the stream helper's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest
from cues import Cue, reply


@dataclass
class Order:
    item: str
    count: int
    notes: list[str]


ORDER = Order("tea", 2, ["hot", "\u2028"])
WRITTEN = json.dumps(ORDER.__dict__)


def test_parse(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("text", WRITTEN))
    message = client.messages.parse(output_format=Order, **cue.ask())
    assert message.parsed_output == ORDER
    shape = cue.sent()["output_config"]["format"]
    assert shape["type"] == "json_schema"
    assert sorted(shape["schema"]["properties"]) == ["count", "item", "notes"]


async def test_parse_async(async_client: anthropic.AsyncAnthropic) -> None:
    message = await async_client.messages.parse(output_format=Order, **Cue().ask())
    assert message.parsed_output == Order("example", 1, ["example"])


@pytest.mark.filterwarnings("ignore:The 'output_format'")
def test_parse_in_the_beta_namespace(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.parse(output_format=Order, **Cue(reply("text", WRITTEN)).ask())
    assert message.parsed_output == ORDER


def test_a_schema_by_hand(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    shape: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**Cue().ask(output_config=shape))
    (words,) = message.content
    assert words.type == "text"
    assert json.loads(words.text) == {"ok": True}


def test_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(output_format=Order, **Cue(reply("text", WRITTEN)).ask()) as stream:
        assert stream.get_final_message().parsed_output == ORDER
