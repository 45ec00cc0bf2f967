"""Requests that the Vertex AI stand-in rejects, in each of its three error formats."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bud_asgi.testing import StandIn
from bud_asgi.testing.google import CLOUD_PLATFORM, Tokens
from bud_asgi.testing.vertex import Vertex
from testing.vertex.raw_client import COUNT, CREATE, MODEL, PARENT, RESOURCE, STREAM, VertexClient, without


@pytest.fixture
async def vertex() -> AsyncIterator[VertexClient]:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, locations=("global", "us-east5"))) as upstream:
        yield VertexClient(upstream, tokens)


COUNTED = without("max_tokens", model=MODEL)
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
MARKED = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "scope": "global"}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}


def with_blocks(*blocks: object) -> dict[str, Any]:
    return without(messages=[{"role": "user", "content": list(blocks)}])


INVALID: dict[str, tuple[str, dict[str, Any], str]] = {
    "no version": (CREATE, without("anthropic_version"), "anthropic_version: Field required"),
    "a header's version": (
        CREATE,
        without(anthropic_version="2023-06-01"),
        "anthropic_version: Input should be 'vertex-2023-10-16' or '2026-10-21'",
    ),
    "the model twice": (CREATE, without(model=MODEL), "model: Extra inputs are not permitted"),
    "an unknown field": (CREATE, without(colour="red"), "colour: Extra inputs are not permitted"),
    "a first-party field": (CREATE, without(inference_geo="eu"), "inference_geo: Extra inputs are not permitted"),
    "no limit": (CREATE, without("max_tokens"), "max_tokens: Field required"),
    "stream in the body of the other method": (
        CREATE,
        without(stream=True),
        "stream: Input should be false for rawPredict",
    ),
    "no stream of the stream's method": (STREAM, without(), "stream: Input should be true for streamRawPredict"),
    "sampling in the new version": (
        CREATE,
        without(anthropic_version="2026-10-21", temperature=1),
        "temperature: Extra inputs are not permitted",
    ),
    "a scoped mark": (
        CREATE,
        with_blocks(MARKED),
        "messages.0.content.0.cache_control.ephemeral.scope: Extra inputs are not permitted",
    ),
    "a scoped mark in system": (
        CREATE,
        without(system=[MARKED]),
        "system.0.cache_control.ephemeral.scope: Extra inputs are not permitted",
    ),
    "a scoped mark on a tool": (
        CREATE,
        without(tools=[{"name": "a", "input_schema": {"type": "object"}, "cache_control": MARKED["cache_control"]}]),
        "tools.0.cache_control.ephemeral.scope: Extra inputs are not permitted",
    ),
    "an image elsewhere": (
        CREATE,
        with_blocks(IMAGE),
        (
            "messages.0.content.0.image.source: Input tag 'url' found using 'type' does not match any of the expected "
            "tags: 'base64'"
        ),
    ),
    "an image elsewhere in a result": (
        CREATE,
        with_blocks(RESULT),
        (
            "messages.0.content.0.tool_result.content.0.image.source: Input tag 'url' found using 'type' does not "
            "match any of the expected tags: 'base64'"
        ),
    ),
    "a tool that there is not": (
        CREATE,
        without(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]),
        (
            "tools.0: Input tag 'web_fetch_20250910' found using 'type' does not match any of the expected tags: "
            "'bash_20250124', 'custom', 'web_search_20250305'"
        ),
    ),
    "effort of a model without": (
        f"{PARENT}/claude-haiku-4-5@20251001:rawPredict",
        without(output_config={"effort": "low"}),
        "output_config.effort: Extra inputs are not permitted",
    ),
    "a header-only flag in the body": (
        CREATE,
        without(anthropic_beta=["inline-tools-2026-09-15"]),
        (
            "Unexpected value(s) `inline-tools-2026-09-15` for the `anthropic-beta` header. Please consult our "
            "documentation at docs.claude.com or try again without the header."
        ),
    ),
    "counting without a model": (COUNT, without("max_tokens"), "model: Field required"),
    "counting for an alias": (
        COUNT,
        without("max_tokens", model="claude-sonnet-4-6@default"),
        "claude-sonnet-4-6@default is not supported for token counting",
    ),
    "counting with a limit": (COUNT, without(model=MODEL), "max_tokens: Extra inputs are not permitted"),
}


@pytest.mark.parametrize(("target", "fields", "expected_message"), INVALID.values(), ids=INVALID.keys())
async def test_a_wrong_body_gets_anthropics_envelope(
    vertex: VertexClient, target: str, fields: dict[str, Any], expected_message: str
) -> None:
    status, head, answer = await vertex(target, fields)
    assert (status, answer["type"]) == (400, "error")
    assert answer["error"] == {"type": "invalid_request_error", "message": expected_message}
    assert answer["request_id"].startswith("req_vrtx_01")
    assert f"request-id: {answer['request_id']}\r\n" in head
    assert vertex.upstream.requests[0].refusal == expected_message


async def test_unknown_beta_flags_are_named_in_the_error(vertex: VertexClient) -> None:
    flags = "context-1m-2025-08-07, b-1,a-1"
    _, _, answer = await vertex(headers={"anthropic-beta": flags})
    assert answer["error"]["message"].startswith("Unexpected value(s) `a-1`, `b-1` for the `anthropic-beta` header.")
    known = without(anthropic_beta=["tool-search-tool-2025-10-19"])
    assert (await vertex(fields=known, headers={"anthropic-beta": "context-1m-2025-08-07"}))[0] == 200
    older = f"{PARENT}/claude-opus-4-1@20250805:rawPredict"
    assert "`tool-search-tool-2025-10-19`" in (await vertex(older, known))[2]["error"]["message"]
    assert (await vertex(COUNT, COUNTED, headers={"anthropic-beta": "context-1m-2025-08-07"}))[0] == 400
    assert (await vertex(COUNT, COUNTED, headers={"anthropic-beta": "effort-2025-11-24"}))[0] == 200


UNKNOWN_MODELS = ["claude-does-not-exist", "claude-haiku-4-5-20251001", "anthropic.claude-opus-5", "gemini-3"]


@pytest.mark.parametrize("method", ["rawPredict", "streamRawPredict"])
@pytest.mark.parametrize("model", UNKNOWN_MODELS)
async def test_an_unknown_model_is_googles_error_and_an_array_where_it_streams(
    vertex: VertexClient, model: str, method: str
) -> None:
    status, head, answer = await vertex(f"{PARENT}/{model}:{method}", without(stream=method == "streamRawPredict"))
    (error,) = answer if method == "streamRawPredict" else [answer]
    assert (status, error["error"]["code"], error["error"]["status"]) == (404, 404, "NOT_FOUND")
    resource = f"projects/bud-stand-in/locations/global/publishers/anthropic/models/{model}"
    assert error["error"]["message"].startswith(f"Publisher Model `{resource}` was not found or your project does not")
    assert "request-id" not in head


@pytest.mark.parametrize("model", ["claude-haiku-4-5@20251001", "claude-sonnet-4-6@default", "claude-opus-4-1"])
async def test_names_of_older_models_have_their_date_after_an_at_sign(vertex: VertexClient, model: str) -> None:
    for name in (model, model.replace("@", "%40")):
        status, _, answer = await vertex(f"{PARENT}/{name}:rawPredict")
        assert (status, answer["model"]) == (200, model.replace("@default", "").replace("@", "-"))


async def test_only_configured_models_are_known() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, models=("claude-opus-4-8",), betas=("a-1",))) as upstream:
        vertex = VertexClient(upstream, tokens)
        assert (await vertex())[0] == 404
        assert (await vertex(f"{PARENT}/claude-opus-4-8:rawPredict", headers={"anthropic-beta": "a-1"}))[0] == 200
        status, _, answer = await vertex(COUNT, COUNTED)
        assert status == 404
        assert f"/models/{MODEL}` was not found" in answer["error"]["message"]


async def test_regions_have_no_newer_models(vertex: VertexClient) -> None:
    regional = PARENT.replace("global", "us-east5")
    assert (await vertex(f"{regional}/claude-sonnet-4-6:rawPredict"))[0] == 200
    assert (await vertex(f"{regional}/claude-opus-4-7:rawPredict"))[0] == 404
    assert (await vertex(f"{regional}/count-tokens:rawPredict", COUNTED))[0] == 200
    status, _, answer = await vertex(CREATE.replace("global", "europe-west1"))
    assert (status, answer["error"]["status"]) == (404, "NOT_FOUND")


async def test_tokens_are_counted_in_counting_locations() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, counting_locations=("us-east5",))) as upstream:
        vertex = VertexClient(upstream, tokens)
        assert (await vertex(COUNT, COUNTED))[0] == 404
        status, _, answer = await vertex(COUNT.replace("global", "us-east5"), COUNTED)
        assert (status, answer) == (200, {"input_tokens": 8})


async def test_another_project_is_denied(vertex: VertexClient) -> None:
    assert (await vertex(CREATE.replace("bud-stand-in", "123456789012")))[0] == 200
    status, _, answer = await vertex(CREATE.replace("bud-stand-in", "another-one"))
    assert status == 403
    resource = RESOURCE.replace("bud-stand-in", "another-one")
    assert answer["error"] == {
        "code": 403,
        "message": f"Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/"
        f"{resource}' (or it may not exist).",
        "status": "PERMISSION_DENIED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "IAM_PERMISSION_DENIED",
                "domain": "aiplatform.googleapis.com",
                "metadata": {"resource": resource, "permission": "aiplatform.endpoints.predict"},
            }
        ],
    }


async def test_a_quota_project_must_be_one_that_the_caller_may_use(vertex: VertexClient) -> None:
    assert (await vertex(headers={"x-goog-user-project": "bud-stand-in"}))[0] == 200
    status, _, answer = await vertex(headers={"x-goog-user-project": "another-one"})
    assert (status, answer["error"]["details"][0]["reason"]) == (403, "USER_PROJECT_DENIED")
    assert "use project another-one." in answer["error"]["message"]


async def test_only_callers_with_the_role_are_served() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, callers=("someone else",))) as upstream:
        vertex = VertexClient(upstream, tokens)
        assert (await vertex())[2]["error"]["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
        vertex.token = tokens.issue("someone else").value
        assert (await vertex())[0] == 200


CREDENTIALS: dict[str, tuple[dict[str, str | None], str]] = {
    "none": ({"authorization": None}, "CREDENTIALS_MISSING"),
    "not issued": ({"authorization": "Bearer ya29.other"}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    "another scheme": ({"authorization": "Basic eA=="}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    "Anthropic's too": ({"x-api-key": "sk-ant-client"}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
}


@pytest.mark.parametrize(("headers", "reason"), CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_a_wrong_credential_is_401(vertex: VertexClient, headers: dict[str, str | None], reason: str) -> None:
    status, head, answer = await vertex(headers=headers)
    assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert answer["error"]["details"][0]["reason"] == reason
    assert "\r\nwww-authenticate: Bearer" in head
    assert vertex.token not in json.dumps(answer)


async def test_expiry_and_scopes_of_a_token_are_checked(vertex: VertexClient) -> None:
    assert (await vertex())[0] == 200
    vertex.tokens.expire()
    status, _, answer = await vertex()
    assert (status, answer["error"]["details"][0]["reason"]) == (401, "ACCESS_TOKEN_EXPIRED")
    vertex.token = vertex.tokens.issue("someone", (f"{CLOUD_PLATFORM}.read-only",)).value
    status, _, answer = await vertex()
    assert (status, answer["error"]["details"][0]["reason"]) == (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/messages"),
        ("GET", CREATE),
        ("POST", CREATE.replace("/v1", "", 1)),
        ("POST", CREATE.replace(":", "%3A")),
        ("POST", f"{PARENT}/{MODEL}:predict"),
        ("GET", PARENT),
    ],
)
async def test_an_unknown_path_gets_an_html_page(vertex: VertexClient, method: str, target: str) -> None:
    status, head, page = await vertex(target, method=method)
    assert status == 404
    assert "\r\ncontent-type: text/html; charset=UTF-8" in head
    assert page.startswith("<!DOCTYPE html>")


async def test_a_query_of_the_anthropic_api_is_rejected(vertex: VertexClient) -> None:
    status, _, answer = await vertex(f"{CREATE}?beta=true")
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert 'Unknown name "beta"' in answer["error"]["message"]
    assert (await vertex(f"{CREATE}?alt=json"))[0] == 200


async def test_a_body_over_the_limit_is_413() -> None:
    tokens = Tokens()
    assert Vertex(tokens=tokens).max_body == 30 << 20
    async with StandIn.of(Vertex(tokens=tokens, max_body=200)) as upstream:
        vertex = VertexClient(upstream, tokens)
        status, _, answer = await vertex(fields=without(system="a" * 200))
        assert (status, answer["error"]["type"]) == (413, "request_too_large")
        assert answer["error"]["message"] == "Request exceeds the maximum allowed number of bytes."
        assert (await vertex())[0] == 200
