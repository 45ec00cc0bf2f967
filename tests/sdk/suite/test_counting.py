"""`messages.count_tokens`, plain and beta."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from backends import OLDER
from cues import Cue, reply

WEATHER: Any = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def test_a_count_equals_the_usage_of_a_message(client: anthropic.Anthropic) -> None:
    cue = Cue()
    given: dict[str, Any] = {"system": "Be brief.", "tools": [WEATHER]}
    count = client.messages.count_tokens(**cue.ask_for_a_count(**given))
    message = client.messages.create(**cue.ask(**given))
    assert count.input_tokens == message.usage.input_tokens
    assert cue.sent() == {**given, "messages": cue.messages}


async def test_a_count_async(async_client: anthropic.AsyncAnthropic) -> None:
    count = await async_client.messages.count_tokens(**Cue().ask_for_a_count(thinking={"type": "disabled"}))
    assert count.input_tokens > 10


def test_a_count_in_the_beta_namespace(client: anthropic.Anthropic) -> None:
    cue = Cue()
    count = client.beta.messages.count_tokens(**cue.ask_for_a_count(extra_headers=cue.headers))
    assert count.input_tokens > 10
    assert cue.seen()["client"][0]["query"] == ("beta=true" if OLDER else "")


def test_a_count_that_is_refused(client: anthropic.Anthropic) -> None:
    cue = Cue(reply("error", 429, "rate_limit_error", "Slow down", headers={"retry-after": "7"}))
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.count_tokens(**cue.ask_for_a_count())
    assert raised.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_count_of_nothing(client: anthropic.Anthropic, missing: str) -> None:
    body = {name: value for name, value in Cue().ask_for_a_count().items() if name != missing}
    with pytest.raises(anthropic.BadRequestError, match=f"{missing}: Field required") as raised:
        client.post("/v1/messages/count_tokens", body=body, cast_to=object)
    assert raised.value.request_id == raised.value.response.headers["request-id"]


def test_a_count_of_an_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model: gpt-9"):
        client.messages.count_tokens(**Cue().ask_for_a_count(model="gpt-9"))
