"""Models and token counts of the stand-in, and fields that the newer API version forbids."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from bud_asgi.testing import Model, StandIn, model
from testing.raw_client import BODY, ask, wire

NEW = {"anthropic-version": "2026-10-21"}
THREE = [
    model("claude-sonnet-4-5-20250929", "2025-09-29", lifecycle="deprecated"),
    model("claude-opus-5", "2026-07-14", allowed_fallback_models=("claude-opus-4-8",)),
    Model(id="claude-3-opus", display_name="Claude 3 Opus", created_at="2024-02-29T00:00:00Z", lifecycle="retired"),
]
COUNTED = {name: value for name, value in BODY.items() if name != "max_tokens"}
COUNT = "POST /v1/messages/count_tokens HTTP/1.1"


@pytest.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn(models=THREE) as upstream:
        yield upstream


async def answer(upstream: StandIn, request: bytes) -> tuple[int, dict[str, Any]]:
    head, body, _ = await ask(upstream, request)
    return int(head[9:12]), json.loads(body)


async def get(upstream: StandIn, target: str, **headers: str | None) -> tuple[int, dict[str, Any]]:
    given = {"content-type": None, "content-length": None} | {n.replace("_", "-"): v for n, v in headers.items()}
    return await answer(upstream, wire(b"", start=f"GET {target} HTTP/1.1", headers=given))


async def listed(upstream: StandIn, query: str) -> tuple[list[str], bool]:
    status, body = await get(upstream, f"/v1/models?{query}")
    ids = [one["id"] for one in body["data"]]
    assert status == 200
    assert (body["first_id"], body["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids, body["has_more"]


async def test_a_listing_is_newest_first_with_all_fields_of_a_model(upstream: StandIn) -> None:
    status, body = await get(upstream, "/v1/models")
    assert status == 200
    newest, older = body["data"]
    assert list(newest) == [
        "type", "id", "display_name", "created_at", "lifecycle", "deprecated_at", "retires_at", "line",
        "max_input_tokens", "max_tokens", "capabilities",
    ]  # fmt: skip
    assert (newest["type"], newest["id"], newest["display_name"]) == ("model", "claude-opus-5", "Claude Opus 5")
    assert (newest["created_at"], newest["line"], newest["lifecycle"]) == ("2026-07-14T00:00:00Z", "opus", "active")
    assert (newest["max_input_tokens"], newest["max_tokens"]) == (1_000_000, 128_000)
    assert newest["capabilities"]["thinking"]["types"]["enabled"] == {"supported": False}
    assert (older["id"], older["lifecycle"]) == ("claude-sonnet-4-5-20250929", "deprecated")
    assert (body["has_more"], body["first_id"], body["last_id"]) == (False, newest["id"], older["id"])


async def test_pages_and_lifecycles(upstream: StandIn) -> None:
    old, new, gone = (one.id for one in THREE)
    assert await listed(upstream, "limit=1") == ([new], True)
    assert await listed(upstream, f"limit=1&after_id={new}") == ([old], False)
    assert await listed(upstream, f"after_id={old}") == ([], False)
    assert await listed(upstream, f"before_id={old}") == ([new], False)
    every = "lifecycle%5B%5D=active&lifecycle%5B%5D=retired&lifecycle[]=deprecated"
    assert await listed(upstream, every) == ([new, old, gone], False)
    assert await listed(upstream, f"{every}&limit=1&before_id={gone}") == ([old], True)
    assert await listed(upstream, "lifecycle%5B%5D=retired") == ([gone], False)


BAD = {
    "limit=0": "limit: Input should be greater than or equal to 1",
    "limit=1001": "limit: Input should be less than or equal to 1000",
    "limit=a": "limit: Input should be a valid integer, unable to parse string as an integer",
    "after_id=x": "after_id: `x` is not the id of a model",
    "before_id=x": "before_id: `x` is not the id of a model",
    "after_id=claude-opus-5&before_id=claude-opus-5": "before_id: may not be used together with after_id",
    "lifecycle[]=old": "lifecycle.0: Input should be 'active', 'deprecated' or 'retired'",
    "lifecycle[]=active" + 3 * "&lifecycle[]=retired": "lifecycle: List should have at most 3 items after validation, "
    "not 4",
}


@pytest.mark.parametrize("query", BAD)
async def test_bad_listings(upstream: StandIn, query: str) -> None:
    status, body = await get(upstream, f"/v1/models?{query}")
    assert (status, body["error"]) == (400, {"type": "invalid_request_error", "message": BAD[query]})
    assert upstream.refused[0].refusal == BAD[query]


async def test_one_model(upstream: StandIn) -> None:
    status, body = await get(upstream, "/v1/models/claude-sonnet-4-5")
    assert (status, body["id"], body["type"]) == (200, "claude-sonnet-4-5-20250929", "model")
    assert (await get(upstream, "/v1/models/claude%2Dopus%2D5"))[1]["id"] == "claude-opus-5"
    assert (await get(upstream, "/v1/models/claude-3-opus"))[1]["lifecycle"] == "retired"
    status, body = await get(upstream, "/v1/models/claude-7")
    assert (status, body["error"]) == (404, {"type": "not_found_error", "message": "model: claude-7"})


async def test_the_beta_form_lists_fallbacks(upstream: StandIn) -> None:
    for body in (
        (await get(upstream, "/v1/models/claude-opus-5?beta=true"))[1],
        (await get(upstream, "/v1/models", anthropic_beta="a-1"))[1]["data"][0],
    ):
        assert body["allowed_fallback_models"] == ["claude-opus-4-8"]


async def test_the_models_api_requires_key_and_version(upstream: StandIn) -> None:
    for path in ("/v1/models", "/v1/models/claude-opus-5"):
        assert (await get(upstream, path, x_api_key="other"))[0] == 401
        assert (await get(upstream, path, anthropic_version=None))[0] == 400
        assert (await get(upstream, path, anthropic_version="1"))[1]["error"]["message"] == (
            'anthropic-version: "1" is not a valid version'
        )
        assert (await answer(upstream, wire(start=f"POST {path} HTTP/1.1")))[0] == 405
    assert (await get(upstream, "/v1/models/a/b"))[1]["error"]["message"] == "Not found"
    assert (await get(upstream, "/v1/modelsx"))[0] == 404


async def test_only_models_that_are_there_answer(upstream: StandIn) -> None:
    assert (await answer(upstream, wire(model="claude-sonnet-4-5")))[0] == 200
    for name in ("claude-3-opus", "claude-opus-5-5"):  # retired; not there
        for request in (wire(model=name), wire(COUNTED | {"model": name}, start=COUNT)):
            status, body = await answer(upstream, request)
            assert (status, body["error"]["message"]) == (404, f"model: {name}")


async def test_by_default_it_lists_an_example_and_accepts_any_name() -> None:
    async with StandIn() as upstream:
        ids, _ = await listed(upstream, "limit=1000")
        assert "claude-haiku-4-5-20251001" in ids
        assert "claude-3-5-sonnet-20241022" not in ids
        assert (await answer(upstream, wire(model="claude-next")))[0] == 200
        assert (await answer(upstream, wire(model="claude-3-5-sonnet-20241022")))[0] == 404


async def test_the_models_api_works_with_strict_false() -> None:
    async with StandIn(strict=False, models=["claude-a"]) as upstream:
        assert await listed(upstream, "") == (["claude-a"], False)
        assert (await get(upstream, "/v1/models?limit=0"))[0] == 400
        assert (await get(upstream, "/v1/models/b"))[0] == 404


async def test_a_count_is_the_same_for_the_same_body(upstream: StandIn) -> None:
    status, body = await answer(upstream, wire(COUNTED, start=COUNT))
    assert (status, list(body)) == (200, ["input_tokens"])
    again = await answer(upstream, wire(COUNTED, start=COUNT.replace(" HTTP", "?beta=true HTTP")))
    assert again == (status, body)
    replied = (await answer(upstream, wire(BODY)))[1]
    assert replied["usage"]["input_tokens"] == body["input_tokens"]
    longer = (await answer(upstream, wire(COUNTED | {"system": "Be brief, please."}, start=COUNT)))[1]
    assert longer["input_tokens"] > body["input_tokens"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"messages": BODY["messages"]}, "model: Field required"),
    "no messages": ({"model": "claude-opus-5"}, "messages: Field required"),
    **{
        name: (COUNTED | {name: value}, f"{name}: Extra inputs are not permitted")
        for name, value in {"max_tokens": 1, "stream": False, "metadata": {}, "thread": {"type": "create"}}.items()
    },
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED.keys())
async def test_rejected_count_requests(upstream: StandIn, body: dict[str, Any], message: str) -> None:
    flags = {"anthropic-beta": "message-threads-2026-08-12"}
    status, replied = await answer(upstream, wire(body, start=COUNT, headers=flags))
    assert (status, replied["error"]) == (400, {"type": "invalid_request_error", "message": message})


async def test_a_count_takes_beta_fields_with_their_flags(upstream: StandIn) -> None:
    body = COUNTED | {"context_management": {"edits": []}}
    flags = {"anthropic-beta": "context-management-2025-06-27"}
    status, replied = await answer(upstream, wire(body, start=COUNT, headers=flags))
    assert (status, list(replied)) == (200, ["input_tokens", "context_management"])
    assert replied["context_management"] == {"original_input_tokens": replied["input_tokens"]}
    status, replied = await answer(upstream, wire(body, start=COUNT))
    assert replied["error"]["message"] == "context_management: Extra inputs are not permitted"


CITED = {"type": "text", "text": "Hi.", "citations": [{"type": "char_location"}]}
FOUND = {"type": "search_result", "source": "s", "title": "t", "content": [CITED]}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi."}}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "a", "input": {}}
GONE: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": 1}, "temperature: Extra"),
    "top_p": ({"top_p": 1}, "top_p: Extra"),
    "top_k": ({"top_k": None}, "top_k: Extra"),
    "a user's citations": (
        {"messages": [{"role": "user", "content": [CITED]}]}, "messages.0.content.0.text.citations: Extra"
    ),
    "citations in a search result": (
        {"messages": [{"role": "user", "content": [FOUND]}]},
        "messages.0.content.0.search_result.content.0.text.citations: Extra",
    ),
    "citations in a search result of a tool": (
        {
            "messages": [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": [CALL]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [FOUND]}]},
            ]
        },
        "messages.2.content.0.tool_result.content.0.search_result.content.0.text.citations: Extra",
    ),
    "a document of the assistant": (
        {
            "messages": [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": [DOCUMENT]},
                {"role": "user", "content": "And?"},
            ]
        },
        "messages.1.content.0: Input tag 'document' found using 'type' does not match",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), GONE.values(), ids=GONE.keys())
@pytest.mark.parametrize("start", ["POST /v1/messages HTTP/1.1", COUNT])
async def test_fields_that_the_new_version_forbids(
    upstream: StandIn, fields: dict[str, Any], message: str, start: str
) -> None:
    body = (COUNTED if start == COUNT else BODY) | fields | {"model": "claude-sonnet-4-5"}
    status, replied = await answer(upstream, wire(body, start=start, headers=NEW))
    assert (status, replied["error"]["type"]) == (400, "invalid_request_error")
    assert replied["error"]["message"].startswith(message)
    if start != COUNT:
        assert (await answer(upstream, wire(body, start=start)))[0] == 200


async def test_fields_that_the_new_version_allows(upstream: StandIn) -> None:
    cited_by_tool = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [CITED, DOCUMENT]}
    messages = [
        {"role": "user", "content": [{**CITED, "citations": []}, DOCUMENT]},
        {"role": "assistant", "content": [CITED, CALL]},
        {"role": "user", "content": [cited_by_tool]},
    ]
    assert (await answer(upstream, wire(messages=messages, headers=NEW)))[0] == 200


async def test_the_sdk_finds_its_way(upstream: StandIn) -> None:
    async with AsyncAnthropic(base_url=upstream.base_url, api_key=upstream.api_key, max_retries=0) as client:
        assert [one.id async for one in client.models.list(limit=1)] == ["claude-opus-5", "claude-sonnet-4-5-20250929"]
        retired = [one.lifecycle async for one in client.models.list(lifecycle=["retired"])]
        assert retired == ["retired"]
        found = await client.beta.models.retrieve("claude-opus-5", betas=["a-1"])
        assert found.allowed_fallback_models == ["claude-opus-4-8"]
        assert found.capabilities is not None
        assert found.capabilities.effort.xhigh is not None
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude-7")
        counted = await client.messages.count_tokens(model="claude-opus-5", messages=BODY["messages"])
        assert counted.input_tokens == 8
