"""The Bedrock stand-in, used by AWS's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import ClientError, EventStreamError

from bud_asgi.testing import StandIn, Usage, text
from bud_asgi.testing.bedrock import (
    AwsKey,
    Bedrock,
    access_denied,
    aws_error,
    bad_checksum,
    exception_first,
    exception_mid_stream,
    unknown_event,
    unmodelled_error,
)
from testing.bedrock.signed_client import BODY, HAIKU, OPUS, without_settings

if TYPE_CHECKING:
    from types_aiobotocore_bedrock_runtime import BedrockRuntimeClient

    Client = BedrockRuntimeClient
else:
    Client = Any

SESSION = get_session()
"""Shared: the first client of a session loads the service model, which takes most of a second."""
SENT = json.dumps(BODY)
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123def456"
Served = tuple[StandIn, Client]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)


def client_for(upstream: StandIn, key: AwsKey | None, **options: Any) -> AbstractAsyncContextManager[Client]:
    given: dict[str, Any] = {
        "region_name": "us-east-1",
        "endpoint_url": upstream.base_url,
        "config": AioConfig(retries={"total_max_attempts": 1}),
    }
    if key:
        given |= {"aws_access_key_id": key.access_key, "aws_secret_access_key": key.secret_key}
        given |= {"aws_session_token": key.session_token}
    session = SESSION if key else get_session()  # a session keeps the API key that it once found
    return session.create_client("bedrock-runtime", **{**given, **options})


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    bedrock = Bedrock(profiles={PROFILE: "anthropic.claude-opus-4-8"})
    async with StandIn.of(bedrock) as upstream, client_for(upstream, bedrock.keys.issue_temporary()) as client:
        yield upstream, client


async def invoked(client: Client, model: str = OPUS, body: str = SENT) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the reply and its headers."""
    reply = await client.invoke_model(modelId=model, body=body)
    return json.loads(await reply["body"].read()), reply["ResponseMetadata"]["HTTPHeaders"]


async def streamed(client: Client, model: str = OPUS) -> list[dict[str, Any]]:
    """Return the events of a stream."""
    reply = await client.invoke_model_with_response_stream(modelId=model, body=SENT)
    assert reply["contentType"] == "application/json"
    found: list[dict[str, Any]] = []
    try:
        async for event in reply["body"]:
            chunk: Any = event
            found.append(json.loads(chunk["chunk"]["bytes"]))
    finally:
        reply["body"].close()
    return found


async def test_a_reply_and_its_headers(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(text("Hi.", usage=Usage(7, 9, cache_creation_input_tokens=3, cache_read_input_tokens=5)))
    message, headers = await invoked(client)
    assert message["content"] == [{"type": "text", "text": "Hi."}]
    assert message["model"] == "claude-opus-4-8"
    assert headers["x-amzn-requestid"] == upstream.requests[0].request_id
    counts = {name.removeprefix("x-amzn-bedrock-"): value for name, value in headers.items() if "count" in name}
    assert counts == {
        "input-token-count": "7",
        "output-token-count": "9",
        "cache-read-input-token-count": "5",
        "cache-write-input-token-count": "3",
    }


async def test_a_stream_is_the_events_of_a_message_and_its_metrics(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(text("Hi you.", usage=Usage(7, 9, cache_read_input_tokens=5)))
    events = await streamed(client)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[-1]["amazon-bedrock-invocationMetrics"] == {
        "inputTokenCount": 7,
        "outputTokenCount": 9,
        "invocationLatency": 1798,
        "firstByteLatency": 507,
        "cacheReadInputTokenCount": 5,
    }
    assert upstream.requests[0].path.endswith(b"/invoke-with-response-stream")


@pytest.mark.parametrize(
    "model",
    [
        OPUS,
        HAIKU,
        "global.anthropic.claude-opus-4-6-v1",
        "anthropic.claude-3-7-sonnet-20250219-v1:0",
        PROFILE,
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-6",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-7-sonnet-20250219-v1:0",
    ],
)
async def test_every_kind_of_identifier_is_accepted(served: Served, model: str) -> None:
    message, _ = await invoked(served[1], model)
    events = await streamed(served[1], model)
    assert message["model"] == events[0]["message"]["model"]
    assert b":" not in served[0].requests[0].path, "this client encodes what it can"
    assert served[0].refused == []


async def test_tokens_are_counted_as_usage_counts_them(served: Served) -> None:
    upstream, client = served
    counted = await client.count_tokens(
        modelId="anthropic.claude-haiku-4-5-20251001-v1:0", input={"invokeModel": {"body": SENT.encode()}}
    )
    assert counted["inputTokens"] == (await invoked(client))[0]["usage"]["input_tokens"] > 0
    assert upstream.requests[0].path == b"/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/count-tokens"


@pytest.mark.parametrize("model", [HAIKU, "anthropic.claude-opus-4-8"])
async def test_tokens_are_counted_for_older_models_by_their_base_ids_only(served: Served, model: str) -> None:
    with pytest.raises(ClientError, match=r"The provided model doesn't support counting tokens\."):
        await served[1].count_tokens(modelId=model, input={"invokeModel": {"body": SENT.encode()}})


async def test_an_api_key_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StandIn.of(Bedrock(api_keys=("bedrock-api-key-1",))) as upstream:
        for key in ("bedrock-api-key-1", "another"):
            monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", key)
            async with client_for(upstream, None) as client:
                if key != "another":
                    assert (await invoked(client))[0]["type"] == "message"
                    continue
                with pytest.raises(ClientError, match="make sure your API Key is valid") as raised:
                    await invoked(client)
                assert raised.value.response.get("Error", {}).get("Code") == "AccessDeniedException"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"aws_secret_access_key": "another"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIAUNKNOWN"}, "UnrecognizedClientException"),
        ({"aws_session_token": None}, "UnrecognizedClientException"),
        ({"region_name": "eu-west-1"}, "InvalidSignatureException"),
    ],
)
async def test_a_wrong_credential_is_rejected(wrong: dict[str, Any], code: str) -> None:
    bedrock = Bedrock()
    async with StandIn.of(bedrock) as upstream, client_for(upstream, bedrock.keys.issue_temporary(), **wrong) as client:
        for call in (invoked, streamed):
            with pytest.raises(ClientError) as raised:
                await call(client)
            assert raised.value.response.get("Error", {}).get("Code") == code
            assert raised.value.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403


async def test_errors_have_their_modelled_class(served: Served) -> None:
    upstream, client = served
    names = {
        "AccessDeniedException": client.exceptions.AccessDeniedException,
        "ModelErrorException": client.exceptions.ModelErrorException,
        "ModelNotReadyException": client.exceptions.ModelNotReadyException,
        "ModelTimeoutException": client.exceptions.ModelTimeoutException,
        "ServiceUnavailableException": client.exceptions.ServiceUnavailableException,
        "ThrottlingException": client.exceptions.ThrottlingException,
        "ValidationException": client.exceptions.ValidationException,
    }
    for name, modelled in names.items():
        upstream.always(aws_error(name, "No.", originalStatusCode=400))
        for call in (invoked, streamed):
            with pytest.raises(modelled, match=r"No\."):
                await call(client)
    upstream.always(access_denied())
    with pytest.raises(client.exceptions.AccessDeniedException, match="perform: bedrock:InvokeModel on resource"):
        await invoked(client)


async def test_exceptions_in_a_stream_have_their_names(served: Served) -> None:
    upstream, client = served
    replies = {
        "throttlingException": exception_first(),
        "modelStreamErrorException": exception_mid_stream(originalStatusCode=529, originalMessage="Overloaded"),
        "InternalFailure": unmodelled_error(),
    }
    for code, reply in replies.items():
        upstream.enqueue(reply)
        with pytest.raises(EventStreamError) as raised:
            await streamed(client)
        assert raised.value.response.get("Error", {}).get("Code") == code


async def test_a_wrong_checksum_is_detected_and_an_unknown_event_ignored(served: Served) -> None:
    upstream, client = served
    upstream.enqueue(bad_checksum(), unknown_event())
    with pytest.raises(ChecksumMismatch):
        await streamed(client)
    assert (await streamed(client))[-1]["type"] == "message_stop"
