"""The Vertex AI stand-in, used by Anthropic's own client with tokens of the Google stand-in."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.lib.vertex import AnthropicVertex, AsyncAnthropicVertex
from anthropic.types import MessageParam, ToolParam
from google.oauth2 import service_account

from bud_asgi.testing import (
    Reply,
    StandIn,
    TextBlock,
    ThinkingBlock,
    ThreadedStandIn,
    ToolUseBlock,
    blocks,
    cut_before_message_stop,
    error,
    error_mid_stream,
    hang,
    text,
    tool_use,
)
from bud_asgi.testing.google import CLOUD_PLATFORM, Google, google_html
from bud_asgi.testing.vertex import Fault, Vertex, permission_denied, quota_exceeded, token_expired, unavailable

HELLO: list[MessageParam] = [{"role": "user", "content": "What is new?"}]
ASK: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 1000, "messages": HELLO}
WEATHER: ToolParam = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def request(**changes: Any) -> dict[str, Any]:
    """Return the usual request with changes."""
    return {**ASK, **changes}


def credentials_of(google: Google, base_url: str, folder: Path, scope: str = CLOUD_PLATFORM) -> Any:
    """Load credentials from a key file."""
    file = folder / "key.json"
    file.write_text(json.dumps(google.account.info(base_url)))
    return service_account.Credentials.from_service_account_file(str(file), scopes=[scope])


class Served:
    """Both stand-ins, and the client between them."""

    def __init__(self, google: Google, tokens: StandIn, vertex: StandIn, client: AsyncAnthropicVertex) -> None:
        self.google, self.tokens, self.vertex, self.client = google, tokens, vertex, client


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    google = Google()
    async with StandIn.of(google) as tokens, StandIn.of(Vertex(tokens=google.tokens)) as vertex:
        credentials = credentials_of(google, tokens.base_url, tmp_path)
        async with AsyncAnthropicVertex(
            region="global",
            project_id=google.project,
            base_url=f"{vertex.base_url}/v1",
            credentials=credentials,
            max_retries=0,
        ) as client:
            yield Served(google, tokens, vertex, client)


async def test_the_asynchronous_client_works(served: Served) -> None:
    client = served.client
    created = await client.messages.create(**ASK)
    async with client.messages.stream(**ASK) as stream:
        streamed = await stream.get_final_message()
    for message in (created, streamed):
        assert message.id.startswith("msg_vrtx_01")
        assert message.model == "claude-opus-5"
        (block,) = message.content
        assert block.type == "text"
        assert block.text == 'Hello from the stand-in! You said: "What is new?".'
    assert created.usage == streamed.usage
    counted = await client.messages.count_tokens(model="claude-opus-5", messages=HELLO)
    assert counted.input_tokens == created.usage.input_tokens
    parent = b"/v1/projects/bud-stand-in/locations/global/publishers/anthropic/models/"
    assert [request.target.removeprefix(parent) for request in served.vertex.requests] == [
        b"claude-opus-5:rawPredict",
        b"claude-opus-5:streamRawPredict",
        b"count-tokens:rawPredict",
    ]
    assert len(served.tokens.requests) == 1
    assert (served.tokens.refused, served.vertex.refused) == ([], [])


@pytest.mark.parametrize("model", ["claude-haiku-4-5@20251001", "claude-sonnet-4-6", "claude-opus-5-5"])
async def test_model_names_are_in_the_path(served: Served, model: str) -> None:
    created = await served.client.messages.create(**request(model=model))
    assert created.model == model.replace("@", "-")


async def test_betas_are_sent_as_a_header(served: Served) -> None:
    await served.client.beta.messages.create(**ASK, betas=["context-1m-2025-08-07"])
    with pytest.raises(anthropic.BadRequestError, match="`files-api-2025-04-14`"):
        await served.client.beta.messages.create(**ASK, betas=["context-1m-2025-08-07", "files-api-2025-04-14"])
    assert [request.header("anthropic-beta") for request in served.vertex.requests] == [
        b"context-1m-2025-08-07",
        b"context-1m-2025-08-07,files-api-2025-04-14",
    ]


REPLIES = {
    "text": text("Grüße, 世界  end\u2028of line"),
    "everything": blocks(ThinkingBlock("Hm."), TextBlock("So."), ToolUseBlock("weather", {"city": "Bern"})),
    "nothing": blocks(stop_reason="refusal"),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
async def test_a_set_reply_is_the_same_streamed_or_not(served: Served, reply: Reply) -> None:
    served.vertex.always(reply)
    created = await served.client.messages.create(**ASK)
    async with served.client.messages.stream(**ASK) as stream:
        streamed = await stream.get_final_message()
    assert _comparable(created) == _comparable(streamed)
    assert created.stop_reason == streamed.stop_reason
    assert len(created.content) == len(streamed.content)


def _comparable(message: Any) -> list[object]:
    return [getattr(block, "text", None) or getattr(block, "input", None) for block in message.content]


async def test_a_tool_runs_through_a_whole_conversation(served: Served) -> None:
    served.vertex.enqueue(tool_use("weather", {"city": "Bern"}, text="I look."), text("It is sunny."))
    async with served.client.messages.stream(**ASK, tools=[WEATHER]) as stream:
        called = await stream.get_final_message()
    block = called.content[1]
    assert block.type == "tool_use"
    assert block.id.startswith("toolu_vrtx_01")
    assert block.input == {"city": "Bern"}
    history: Any = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": block.id, "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]},
    ]
    final = await served.client.messages.create(**request(messages=history, tools=[WEATHER]))
    assert _comparable(final) == ["It is sunny."]
    assert served.vertex.refused == []


FAULTS: dict[str, tuple[Reply | Fault, type[anthropic.APIStatusError], str]] = {
    "quota": (quota_exceeded(), anthropic.RateLimitError, "Quota exceeded for aiplatform.googleapis.com/"),
    "expired": (token_expired(), anthropic.AuthenticationError, "ACCESS_TOKEN_EXPIRED"),
    "denied": (permission_denied(), anthropic.PermissionDeniedError, "//aiplatform.googleapis.com/projects/bud-stand"),
    "unavailable": (unavailable(), anthropic.InternalServerError, "UNAVAILABLE"),
    "overloaded": (error(529, "overloaded_error", "Overloaded"), anthropic.APIStatusError, "overloaded_error"),
    "a page": (google_html(502), anthropic.InternalServerError, "Error 502"),
}


@pytest.mark.parametrize(("fault", "expected", "expected_message"), FAULTS.values(), ids=FAULTS.keys())
async def test_each_fault_is_the_sdks_class(
    served: Served, fault: Reply | Fault, expected: type[anthropic.APIStatusError], expected_message: str
) -> None:
    served.vertex.always(fault)
    for stream in (False, True):
        with pytest.raises(expected, match=expected_message) as raised:
            await served.client.messages.create(**ASK, stream=stream)
        google = expected_message not in ("overloaded_error", "Error 502")
        assert isinstance(raised.value.body, list) is (google and stream)
        assert (raised.value.request_id is None) is (expected_message != "overloaded_error")


async def test_a_failing_stream_raises(served: Served) -> None:
    served.vertex.enqueue(cut_before_message_stop())
    with pytest.raises(Exception, match=r"incomplete chunked read|peer closed"):
        await _streamed(served)
    served.vertex.enqueue(error_mid_stream("overloaded_error", "Overloaded"))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await _streamed(served)
    served.vertex.enqueue(hang())
    with pytest.raises(anthropic.APITimeoutError):
        await served.client.with_options(timeout=0.2).messages.create(**ASK)
    assert (await served.vertex.wait_aborted()).replied == 0


async def _streamed(served: Served) -> None:
    async with served.client.messages.stream(**ASK) as stream:
        await stream.get_final_message()


async def test_an_expired_token_is_rejected(served: Served) -> None:
    await served.client.messages.create(**ASK)
    served.google.tokens.expire()
    with pytest.raises(anthropic.AuthenticationError, match="ACCESS_TOKEN_EXPIRED"):
        await served.client.messages.create(**ASK)


async def test_a_token_with_a_short_lifetime_is_refreshed(served: Served) -> None:
    served.google.lifetime = 200
    await served.client.messages.create(**ASK)
    await served.client.messages.create(**ASK)
    assert len(served.tokens.requests) == 2
    bearers = [request.header("authorization") for request in served.vertex.requests]
    assert bearers == [f"Bearer {token.value}".encode() for token in served.google.tokens.issued]


async def test_a_wrong_project_or_location_is_rejected(served: Served) -> None:
    with pytest.raises(anthropic.PermissionDeniedError, match="projects/elsewhere/locations/global"):
        await served.client.with_options(project_id="elsewhere").messages.create(**ASK)
    with pytest.raises(anthropic.NotFoundError, match="locations/us-east5/"):
        await served.client.with_options(region="us-east5").messages.create(**ASK)
    quota = served.client.with_options(default_headers={"x-goog-user-project": "elsewhere"})
    with pytest.raises(anthropic.PermissionDeniedError, match="USER_PROJECT_DENIED"):
        await quota.messages.create(**ASK)
    with pytest.raises(anthropic.AuthenticationError, match="ACCESS_TOKEN_TYPE_UNSUPPORTED"):
        await served.client.with_options(access_token="ya29.mine").messages.create(**ASK)
    assert len(served.vertex.refused) == 4


async def test_a_token_with_another_scope_is_rejected(served: Served, tmp_path: Path) -> None:
    narrow = "https://www.googleapis.com/auth/devstorage.read_only"
    credentials = credentials_of(served.google, served.tokens.base_url, tmp_path, narrow)
    with pytest.raises(anthropic.PermissionDeniedError, match="ACCESS_TOKEN_SCOPE_INSUFFICIENT"):
        await served.client.with_options(credentials=credentials).messages.create(**ASK)


@pytest.fixture
def in_threads() -> Iterator[tuple[Google, ThreadedStandIn, ThreadedStandIn]]:
    google = Google()
    vertex = Vertex(tokens=google.tokens, locations=("us-east5",))
    with StandIn.of(google).in_thread() as tokens, StandIn.of(vertex).in_thread() as upstream:
        yield google, tokens, upstream


def test_the_synchronous_client_finds_its_key_by_the_environment(
    in_threads: tuple[Google, ThreadedStandIn, ThreadedStandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    google, tokens, vertex = in_threads
    credentials_of(google, tokens.base_url, tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    request_fields = request(model="claude-sonnet-4-6")
    base_url = f"{vertex.base_url}/v1"
    with AnthropicVertex(region="us-east5", project_id=google.project, base_url=base_url, max_retries=0) as client:
        created = client.messages.create(**request_fields)
        with client.messages.stream(**request_fields) as stream:
            assert _comparable(stream.get_final_message()) == _comparable(created)
        assert client.messages.count_tokens(model="claude-opus-5", messages=HELLO).input_tokens > 0
        with pytest.raises(anthropic.NotFoundError, match="models/claude-opus-5` was not found"):
            client.messages.create(**ASK)
    assert len(tokens.requests) == 1
    assert [request.refusal is None for request in vertex.requests] == [True, True, True, False]
