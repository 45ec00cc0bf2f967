"""The official SDK, sync and async, against the mounted app: it must not be able to tell it from the real service."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam
from gateway import KEY, MODEL, Gateway

from bud_asgi.testing import ThreadedStandIn, error, text, thinking, tool_use

SAY_HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
def client(here: Gateway) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=here.base_url, api_key=KEY, max_retries=0) as one:
        yield one


@pytest.fixture
async def async_client(here: Gateway) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=here.base_url, auth_token=KEY, max_retries=0) as one:
        yield one


def ask(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 64, "messages": SAY_HELLO, **more}


def said_by(message: anthropic.types.Message) -> list[tuple[str, str]]:
    """What the blocks say; the classes differ between a parsed stream and a whole message."""
    return [(block.type, str(getattr(block, block.type))) for block in message.content]


def test_a_message_with_its_request_ids(client: anthropic.Anthropic, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("Hello there"))
    raw = client.messages.with_raw_response.create(**ask())
    message = raw.parse()
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello there"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0
    assert raw.headers["request-id"] == message._request_id
    assert raw.headers["upstream-request-id"] == upstream.requests[0].request_id


def test_a_stream_is_the_same_message(client: anthropic.Anthropic, upstream: ThreadedStandIn) -> None:
    upstream.always(thinking("Let me see.", "Hello there"))
    whole = client.messages.create(**ask())
    with client.messages.stream(**ask()) as stream:
        names = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert said_by(streamed) == said_by(whole)
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"


def test_tools(client: anthropic.Anthropic, upstream: ThreadedStandIn) -> None:
    upstream.always(tool_use("get_weather", {"city": "Paris", "days": [1, 2]}))
    with client.messages.stream(**ask(tools=[WEATHER])) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    call = next(block for block in message.content if block.type == "tool_use")
    assert call.input == {"city": "Paris", "days": [1, 2]}


def test_betas_go_up(client: anthropic.Anthropic, upstream: ThreadedStandIn) -> None:
    client.beta.messages.create(**ask(betas=["a-1", "b-2"]))
    assert upstream.requests[0].header("anthropic-beta") == b"a-1,b-2"
    assert upstream.requests[0].header("anthropic-version") == b"2026-10-21"


STATUSES: dict[int, tuple[str, type[anthropic.APIStatusError]]] = {
    400: ("invalid_request_error", anthropic.BadRequestError),
    404: ("not_found_error", anthropic.NotFoundError),
    413: ("request_too_large", anthropic.APIStatusError),
    429: ("rate_limit_error", anthropic.RateLimitError),
    500: ("api_error", anthropic.InternalServerError),
    529: ("overloaded_error", anthropic.InternalServerError),
}


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_its_own_error(client: anthropic.Anthropic, upstream: ThreadedStandIn, status: int) -> None:
    kind, cls = STATUSES[status]
    upstream.enqueue(error(status, kind, "as the service says it"))
    with pytest.raises(cls) as raised:
        client.messages.create(**ask())
    assert raised.value.status_code == status
    assert raised.value.body == {
        "type": "error",
        "error": {"type": kind, "message": "as the service says it"},
        "request_id": upstream.requests[0].request_id,
    }
    assert raised.value.request_id == raised.value.response.headers["request-id"]


def test_no_key_is_an_authentication_error(here: Gateway) -> None:
    with (
        anthropic.Anthropic(base_url=here.base_url, api_key="sk-wrong", max_retries=2) as client,
        pytest.raises(anthropic.AuthenticationError) as raised,
    ):
        client.messages.create(**ask())
    assert raised.value.response.headers["x-should-retry"] == "false"
    here.account()
    assert len(here.settled) == 1  # it did not try again


def test_it_retries_what_can_be_retried(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(529, "overloaded_error", "Overloaded", headers={"retry-after-ms": "1"}), text("at last"))
    with anthropic.Anthropic(base_url=here.base_url, api_key=KEY, max_retries=1) as client:
        message = client.messages.create(**ask())
    assert message.content[0].type == "text"
    assert message.content[0].text == "at last"


async def test_async_message_and_stream(async_client: anthropic.AsyncAnthropic, upstream: ThreadedStandIn) -> None:
    upstream.always(text("Hello there"))
    message = await async_client.messages.create(**ask())
    pieces: list[str] = []
    async with async_client.messages.stream(**ask()) as stream:
        async for piece in stream.text_stream:
            pieces.append(piece)  # noqa: PERF401 - one by one, as they arrive
        streamed = await stream.get_final_message()
    assert said_by(streamed) == said_by(message)
    assert "".join(pieces) == "Hello there"
    assert len(pieces) > 1


async def test_async_events_arrive_one_by_one(
    async_client: anthropic.AsyncAnthropic, upstream: ThreadedStandIn
) -> None:
    upstream.enqueue(text("one two three four five six", delay=0.05))
    moments: list[float] = []
    async with async_client.messages.stream(**ask()) as stream:
        async for _ in stream.text_stream:
            moments.append(time.monotonic())  # noqa: PERF401
    assert moments[-1] - moments[0] > 0.2
