"""The stand-in, used by Anthropic's own SDK."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, MessageParam, ToolParam

from bud_asgi.testing import (
    StandIn,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    Usage,
    blocks,
    cut_before_message_stop,
    error,
    error_first_event,
    error_mid_stream,
    text,
    thinking,
    tool_use,
)
from testing import sdk_messages
from testing.sdk_messages import create_and_stream

HELLO: list[MessageParam] = [{"role": "user", "content": "What is new?"}]
WEATHER: ToolParam = {
    "name": "weather",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "days", "unit"],
    },
}
Served = tuple[StandIn, AsyncAnthropic]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with (
        StandIn() as upstream,
        AsyncAnthropic(base_url=upstream.base_url, api_key=upstream.api_key, max_retries=0) as client,
    ):
        yield upstream, client


async def both(client: AsyncAnthropic, **options: Any) -> tuple[Message, Message]:
    return await create_and_stream(client, {"model": "claude-opus-5", "max_tokens": 1000, "messages": HELLO} | options)


comparable = partial(sdk_messages.comparable, tool_id_prefix="toolu_01")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adaptive thinking": {"thinking": {"type": "adaptive"}},
    "omitted thinking": {"thinking": {"type": "adaptive", "display": "omitted"}},
    "enabled thinking": {"model": "claude-haiku-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}}
    | {"max_tokens": 2000},
    "a forced tool": {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
    "any tool": {"tools": [WEATHER], "tool_choice": {"type": "any"}},
    "a tool not forced": {"tools": [WEATHER]},
    "few tokens": {"max_tokens": 3},
    "a stop sequence": {"stop_sequences": ["You"]},
    "a schema": {"output_config": {"format": {"type": "json_schema", "schema": WEATHER["input_schema"]}}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_a_streamed_message_equals_a_created_one(served: Served, options: dict[str, Any]) -> None:
    created, streamed = await both(served[1], **options)
    assert comparable(created) == comparable(streamed)
    assert created.id != streamed.id


REPLIES = {
    "text": text("Grüße, 世界  end\u2028of line\x85"),
    "no text": text(""),
    "thinking": thinking("Let me see.", "There."),
    "a tool": tool_use("weather", {"city": "Zürich", "days": [1, 2, {"deep": None}]}, text="I look."),
    "a tool without input": tool_use("now", {}),
    "two tools": blocks(ToolUseBlock("a", {"x": 1}), ToolUseBlock("b", {"y": "}"})),
    "everything": blocks(ThinkingBlock(""), TextBlock("So."), ToolUseBlock("a", {}), stop_reason="pause_turn"),
    "nothing": blocks(stop_reason="refusal"),
    "usage": text("Hi.", usage=Usage(7, 9, cache_creation_input_tokens=3, cache_read_input_tokens=5)),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_a_set_reply_is_the_same_streamed_or_not(served: Served, reply: Any) -> None:
    upstream, client = served
    upstream.always(reply)
    created, streamed = await both(client)
    assert comparable(created) == comparable(streamed)


async def test_the_default_reply_echoes_the_last_user_message(served: Served) -> None:
    created, _ = await both(served[1], messages=[*HELLO, {"role": "assistant", "content": "No."}, *HELLO])
    assert [block.text for block in created.content if block.type == "text"] == [
        'Hello from the stand-in! You said: "What is new?".'
    ]
    assert created.stop_reason == "end_turn"
    assert created.usage.service_tier == "standard"


async def test_stop_reasons_are_right(served: Served) -> None:
    assert (await both(served[1], **OPTIONS["few tokens"]))[0].stop_reason == "max_tokens"
    stopped, _ = await both(served[1], **OPTIONS["a stop sequence"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "You")
    assert (await both(served[1], **OPTIONS["any tool"]))[0].stop_reason == "tool_use"
    nothing = await served[1].messages.create(model="claude-opus-5", max_tokens=0, messages=HELLO)
    assert (nothing.content, nothing.stop_reason, nothing.usage.output_tokens) == ([], "max_tokens", 0)


async def test_a_forced_tool_gets_an_input_that_fits_its_schema(served: Served) -> None:
    created, streamed = await both(served[1], **OPTIONS["a forced tool"])
    for message in (created, streamed):
        (block,) = message.content
        assert block.type == "tool_use"
        assert block.input == {"city": "example", "days": 1, "unit": "celsius"}


async def test_a_tool_runs_through_a_whole_conversation(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(tool_use("weather", {"city": "Bern"}), text("It is sunny."))
    called = await client.messages.create(model="claude-opus-5", max_tokens=99, messages=HELLO, tools=[WEATHER])
    (block,) = called.content
    assert block.type == "tool_use"
    history: Any = [
        *HELLO,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True)]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]},
    ]
    error_of = await client.messages.create(model="claude-opus-5", max_tokens=99, messages=history, tools=[WEATHER])
    assert [part.text for part in error_of.content if part.type == "text"] == ["It is sunny."]
    assert upstream.refused == []


async def test_usage_is_as_set(served: Served) -> None:
    upstream, client = served
    upstream.always(REPLIES["usage"])
    for message in await both(client):
        usage = message.usage
        assert (usage.input_tokens, usage.output_tokens) == (7, 9)
        assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (3, 5)


async def test_tokens_are_counted_as_usage_counts_them(served: Served) -> None:
    counted = await served[1].messages.count_tokens(model="claude-opus-5", messages=HELLO)
    created, streamed = await both(served[1])
    assert counted.input_tokens == created.usage.input_tokens == streamed.usage.input_tokens > 0


ERRORS = [
    (400, "invalid_request_error", anthropic.BadRequestError),
    (401, "authentication_error", anthropic.AuthenticationError),
    (403, "permission_error", anthropic.PermissionDeniedError),
    (404, "not_found_error", anthropic.NotFoundError),
    (409, "conflict_error", anthropic.ConflictError),
    (413, "request_too_large", anthropic.APIStatusError),
    (429, "rate_limit_error", anthropic.RateLimitError),
    (500, "api_error", anthropic.InternalServerError),
    (504, "timeout_error", anthropic.APIStatusError),
    (529, "overloaded_error", anthropic.APIStatusError),
]


@pytest.mark.parametrize(("status", "kind", "expected"), ERRORS)
async def test_each_error_is_the_sdks_class(
    served: Served, status: int, kind: str, expected: type[anthropic.APIStatusError]
) -> None:
    upstream, client = served
    upstream.always(error(status, kind, "No.", details={"error_code": "x"}, headers={"retry-after": "7"}))
    for stream in (False, True):
        with pytest.raises(expected) as raised:
            await client.messages.create(model="claude-opus-5", max_tokens=9, messages=HELLO, stream=stream)
        assert raised.value.status_code == status
        assert raised.value.request_id == upstream.requests[-1].request_id
        assert raised.value.response.headers["retry-after"] == "7"
        assert raised.value.body == {
            "type": "error",
            "error": {"type": kind, "message": "No.", "details": {"error_code": "x"}},
            "request_id": raised.value.request_id,
        }


async def test_an_error_event_raises(served: Served) -> None:
    upstream, client = served
    for reply in (error_first_event("overloaded_error", "Overloaded"), error_mid_stream(after_events=4)):
        upstream.enqueue(reply)
        with pytest.raises(anthropic.APIStatusError, match="Overloaded") as raised:
            async with client.messages.stream(model="claude-opus-5", max_tokens=9, messages=HELLO) as stream:
                await stream.get_final_message()
        assert raised.value.request_id == upstream.requests[-1].request_id


async def test_a_stream_cut_before_message_stop_is_incomplete(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(cut_before_message_stop())
    with pytest.raises(Exception, match=r"incomplete chunked read|peer closed"):
        async with client.messages.stream(model="claude-opus-5", max_tokens=9, messages=HELLO) as stream:
            await stream.get_final_message()


async def test_rejections_reach_the_sdk(served: Served) -> None:
    upstream, client = served
    with pytest.raises(anthropic.AuthenticationError, match="Invalid bearer token"):
        await client.with_options(api_key="sk-ant-other").messages.create(
            model="claude-opus-5", max_tokens=9, messages=HELLO
        )
    with pytest.raises(anthropic.NotFoundError, match="model: claude-does-not-exist"):
        await client.messages.create(model="claude-does-not-exist", max_tokens=9, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="mcp_servers: Extra inputs are not permitted"):
        await client.messages.create(
            model="claude-opus-5", max_tokens=9, messages=HELLO, extra_body={"mcp_servers": []}
        )
    assert [request.refusal for request in upstream.refused] == [
        "Invalid bearer token",
        "model: claude-does-not-exist",
        "mcp_servers: Extra inputs are not permitted",
    ]


@pytest.fixture
def client_of_thread() -> Iterator[Anthropic]:
    with (
        StandIn().in_thread() as upstream,
        Anthropic(base_url=upstream.base_url, api_key=upstream.api_key, max_retries=0) as client,
    ):
        yield client


def test_the_synchronous_client_gets_the_same_replies(client_of_thread: Anthropic) -> None:
    client = client_of_thread
    created = client.messages.create(model="claude-opus-5", max_tokens=1000, messages=HELLO)
    with client.messages.stream(model="claude-opus-5", max_tokens=1000, messages=HELLO) as stream:
        streamed = stream.get_final_message()
    assert comparable(created) == comparable(streamed)
    assert client.messages.count_tokens(model="claude-opus-5", messages=HELLO).input_tokens > 0
