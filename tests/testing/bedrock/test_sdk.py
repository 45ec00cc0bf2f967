"""The Bedrock stand-in, used by Anthropic's own client for Bedrock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anthropic
import pytest
from anthropic.lib.bedrock import AnthropicBedrock, AsyncAnthropicBedrock
from anthropic.types import Message, MessageParam, ToolParam

from bud_asgi.testing import Reply, StandIn, ToolUseBlock, Usage, blocks, error_mid_stream, text, thinking, tool_use
from bud_asgi.testing.bedrock import (
    AwsKey,
    Bedrock,
    access_denied,
    aws_error,
    bad_checksum,
    exception_first,
    exception_mid_stream,
    metrics_apart,
    model_error,
    unknown_event,
    unmodelled_error,
)
from testing import sdk_messages
from testing.bedrock.signed_client import HAIKU, OPUS, without_settings
from testing.sdk_messages import create_and_stream

HELLO: list[MessageParam] = [{"role": "user", "content": "What is new?"}]
WEATHER: ToolParam = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
Served = tuple[StandIn, AsyncAnthropicBedrock]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)


def client_for(upstream: StandIn, key: AwsKey, **options: Any) -> AsyncAnthropicBedrock:
    given: dict[str, Any] = {
        "base_url": upstream.base_url,
        "aws_access_key": key.access_key,
        "aws_secret_key": key.secret_key,
        "aws_session_token": key.session_token,
        "aws_region": "us-east-1",
        "max_retries": 0,
    }
    return AsyncAnthropicBedrock(**{**given, **options})


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    bedrock = Bedrock()
    async with StandIn.of(bedrock) as upstream, client_for(upstream, bedrock.keys.issue()) as client:
        yield upstream, client


async def both(client: AsyncAnthropicBedrock, **options: Any) -> tuple[Message, Message]:
    return await create_and_stream(client, {"model": OPUS, "max_tokens": 1000, "messages": HELLO} | options)


async def gathered(client: AsyncAnthropicBedrock) -> Message:
    async with client.messages.stream(model=OPUS, max_tokens=99, messages=HELLO) as stream:
        return await stream.get_final_message()


comparable = partial(sdk_messages.comparable, tool_id_prefix="toolu_bdrk_01")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "an older model": {"model": HAIKU, "extra_body": {"anthropic_version": "bedrock-2023-05-31"}},
    "adaptive thinking": {"thinking": {"type": "adaptive"}},
    "a forced tool": {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
    "few tokens": {"max_tokens": 3},
    "a beta flag": {"extra_headers": {"anthropic-beta": "context-1m-2025-08-07"}},
}
REPLIES = {
    "text": text("Grüße, 世界  end\u2028of line\x85"),
    "no text": text(""),
    "thinking": thinking("Let me see.", "There."),
    "a tool": tool_use("weather", {"city": "Zürich", "days": [1, 2, {"deep": None}]}, text="I look."),
    "two tools": blocks(ToolUseBlock("a", {"x": 1}), ToolUseBlock("b", {"y": "}"})),
    "nothing": blocks(stop_reason="refusal"),
    "usage": text("Hi.", usage=Usage(7, 9, cache_creation_input_tokens=3, cache_read_input_tokens=5)),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_a_streamed_message_equals_a_created_one(served: Served, options: dict[str, Any]) -> None:
    created, streamed = await both(served[1], **options)
    assert comparable(created) == comparable(streamed)
    assert created.id.startswith("msg_bdrk_01")
    assert created.id != streamed.id
    assert served[0].refused == []


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_a_set_reply_is_the_same_streamed_or_not(served: Served, reply: Reply) -> None:
    upstream, client = served
    upstream.always(reply)
    created, streamed = await both(client)
    assert comparable(created) == comparable(streamed)


async def test_the_reply_has_anthropics_name_of_the_model(served: Served) -> None:
    old = {"model": HAIKU, "extra_body": {"anthropic_version": "bedrock-2023-05-31"}}
    assert [message.model for message in await both(served[1])] == ["claude-opus-4-8"] * 2
    assert [message.model for message in await both(served[1], **old)] == ["claude-haiku-4-5-20251001"] * 2
    assert [request.path for request in served[0].requests[1:3]] == [
        b"/model/us.anthropic.claude-opus-4-8/invoke-with-response-stream",
        b"/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
    ]


async def test_usage_and_stop_reasons_are_as_set(served: Served) -> None:
    upstream, client = served
    upstream.always(REPLIES["usage"])
    for message in await both(client):
        assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 9)
        assert (message.usage.cache_creation_input_tokens, message.usage.cache_read_input_tokens) == (3, 5)
        assert message.stop_reason == "end_turn"


async def test_a_tool_runs_through_a_whole_conversation(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(tool_use("weather", {"city": "Bern"}), text("It is sunny."))
    called = await client.messages.create(model=OPUS, max_tokens=99, messages=HELLO, tools=[WEATHER])
    (block,) = called.content
    assert block.type == "tool_use"
    history: Any = [
        *HELLO,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True)]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]},
    ]
    answer = await client.messages.create(model=OPUS, max_tokens=99, messages=history, tools=[WEATHER])
    assert [part.text for part in answer.content if part.type == "text"] == ["It is sunny."]
    assert upstream.refused == []


async def test_temporary_keys_and_api_keys_are_accepted() -> None:
    bedrock = Bedrock(api_keys=("bedrock-api-key-1",))
    async with StandIn.of(bedrock) as upstream:
        async with client_for(upstream, bedrock.keys.issue_temporary()) as client:
            assert comparable((await both(client))[0]) == comparable((await both(client))[1])
        async with AsyncAnthropicBedrock(
            base_url=upstream.base_url, api_key="bedrock-api-key-1", aws_region="us-east-1", max_retries=0
        ) as client:
            await both(client)
        assert upstream.requests[-1].header("authorization") == b"Bearer bedrock-api-key-1"
        assert upstream.requests[0].header("x-amz-security-token") is not None
        assert upstream.refused == []


@pytest.mark.parametrize(
    ("wrong", "expected_message"),
    [
        ({"aws_secret_key": "another"}, "signature we calculated does not match"),
        ({"aws_access_key": "AKIAUNKNOWN"}, "security token included in the request is invalid"),
        ({"aws_session_token": None}, "security token included in the request is invalid"),
        ({"aws_session_token": "another"}, "security token included in the request is invalid"),
        ({"aws_region": "eu-west-1"}, "scoped to a valid region, not 'eu-west-1'"),
    ],
)
async def test_a_wrong_credential_is_rejected(wrong: dict[str, Any], expected_message: str) -> None:
    bedrock = Bedrock()
    async with (
        StandIn.of(bedrock) as upstream,
        client_for(upstream, bedrock.keys.issue_temporary(), **wrong) as client,
    ):
        for stream in (False, True):
            with pytest.raises(anthropic.PermissionDeniedError, match=expected_message):
                await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO, stream=stream)
        assert len(upstream.refused) == 2


@pytest.mark.parametrize(
    ("minutes", "expected_message"), [(5.2, "Signature expired: "), (-5.2, "Signature not yet current: ")]
)
async def test_a_clock_more_than_five_minutes_off_is_rejected(minutes: float, expected_message: str) -> None:
    for off, refused in ((minutes, True), (minutes * 0.9, False)):
        bedrock = Bedrock(clock=lambda off=off: datetime.now(UTC) + timedelta(minutes=off))
        async with StandIn.of(bedrock) as upstream, client_for(upstream, bedrock.keys.issue()) as client:
            if not refused:
                await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO)
                continue
            with pytest.raises(anthropic.PermissionDeniedError, match=expected_message):
                await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO)


async def test_expired_credentials_and_a_wrong_api_key_are_rejected() -> None:
    bedrock = Bedrock()
    async with StandIn.of(bedrock) as upstream:
        async with client_for(upstream, bedrock.keys.issue_temporary()) as client:
            await both(client)
            bedrock.keys.expire()
            with pytest.raises(anthropic.PermissionDeniedError, match="included in the request is expired"):
                await both(client)
        async with AsyncAnthropicBedrock(
            base_url=upstream.base_url, api_key="another", aws_region="us-east-1", max_retries=0
        ) as client:
            with pytest.raises(anthropic.PermissionDeniedError, match="make sure your API Key is valid"):
                await both(client)


ERRORS = [
    ("ValidationException", 400, anthropic.BadRequestError),
    ("ServiceQuotaExceededException", 400, anthropic.BadRequestError),
    ("AccessDeniedException", 403, anthropic.PermissionDeniedError),
    ("ExpiredTokenException", 403, anthropic.PermissionDeniedError),
    ("ResourceNotFoundException", 404, anthropic.NotFoundError),
    ("ModelTimeoutException", 408, anthropic.APIStatusError),
    ("ThrottlingException", 429, anthropic.RateLimitError),
    ("ModelNotReadyException", 429, anthropic.RateLimitError),
    ("InternalServerException", 500, anthropic.InternalServerError),
    ("ServiceUnavailableException", 503, anthropic.InternalServerError),
]


@pytest.mark.parametrize(("name", "status", "expected"), ERRORS)
async def test_each_error_is_the_sdks_class(
    served: Served, name: str, status: int, expected: type[anthropic.APIStatusError]
) -> None:
    upstream, client = served
    upstream.always(aws_error(name, "No."))
    for stream in (False, True):
        with pytest.raises(expected, match=r"No\.") as raised:
            await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO, stream=stream)
        assert (raised.value.status_code, raised.value.body) == (status, {"message": "No."})
        assert raised.value.response.headers["x-amzn-errortype"].startswith(f"{name}:http://internal.amazon.com/")
        assert raised.value.response.headers["x-amzn-requestid"] == upstream.requests[-1].request_id


async def test_errors_contain_accounts_and_arns(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(access_denied(), model_error(400, "prompt is too long"))
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO)
    assert denied.value.body == {
        "Message": "User: arn:aws:sts::123456789012:assumed-role/stand-in/session is not authorized to perform: "
        "bedrock:InvokeModel on resource: arn:aws:bedrock:us-east-1:123456789012:inference-profile/"
        "us.anthropic.claude-opus-4-8 because no identity-based policy allows the bedrock:InvokeModel action"
    }
    with pytest.raises(anthropic.APIStatusError) as failed:
        await client.messages.create(model=OPUS, max_tokens=9, messages=HELLO)
    body: Any = failed.value.body
    assert (failed.value.status_code, body["originalStatusCode"]) == (424, 400)
    assert ":123456789012:" in body["resourceName"]


EXCEPTIONS = {
    "first": (exception_first(), "throttlingException"),
    "in the middle": (exception_mid_stream("modelTimeoutException"), "modelTimeoutException"),
    "by the common word": (error_mid_stream("overloaded_error", "Busy."), "serviceUnavailableException"),
}


@pytest.mark.parametrize(("reply", "name"), EXCEPTIONS.values(), ids=EXCEPTIONS.keys())
async def test_an_exception_in_the_stream_raises(served: Served, reply: Reply, name: str) -> None:
    upstream, client = served
    upstream.enqueue(reply)
    with pytest.raises(anthropic.APIStatusError) as raised:
        await gathered(client)
    body: Any = raised.value.body
    assert body["error"]["type"] == name


async def test_an_unmodelled_error_and_a_broken_checksum_raise(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(unmodelled_error(), bad_checksum(), bad_checksum(prelude=True))
    with pytest.raises(anthropic.APIStatusError, match="An internal error"):
        await gathered(client)
    for _ in range(2):
        with pytest.raises(Exception, match="Checksum mismatch"):
            await gathered(client)


@pytest.mark.parametrize("reply", [unknown_event(), metrics_apart(), metrics_apart(first=True)])
async def test_unknown_events_are_ignored(served: Served, reply: Reply) -> None:
    served[0].enqueue(reply)
    message = await gathered(served[1])
    assert message.stop_reason == "end_turn"
    assert next(block.text for block in message.content if block.type == "text").endswith("it does not mind.")


def test_the_synchronous_client_gets_the_same_replies() -> None:
    bedrock = Bedrock()
    key = bedrock.keys.issue_temporary()
    with (
        StandIn.of(bedrock).in_thread() as upstream,
        AnthropicBedrock(
            base_url=upstream.base_url,
            aws_access_key=key.access_key,
            aws_secret_key=key.secret_key,
            aws_session_token=key.session_token,
            aws_region="us-east-1",
            max_retries=0,
        ) as client,
    ):
        created = client.messages.create(model=OPUS, max_tokens=1000, messages=HELLO, tools=[WEATHER])
        with client.messages.stream(model=OPUS, max_tokens=1000, messages=HELLO, tools=[WEATHER]) as stream:
            assert comparable(stream.get_final_message()) == comparable(created)
        upstream.enqueue(aws_error("ThrottlingException"))
        with pytest.raises(anthropic.RateLimitError, match="Too many tokens"):
            client.messages.create(model=OPUS, max_tokens=1000, messages=HELLO)
        assert upstream.refused == []
