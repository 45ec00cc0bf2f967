"""What the Vertex AI stand-in refuses, and in which of its three shapes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bud_asgi.testing import StandIn
from bud_asgi.testing.google import CLOUD_PLATFORM, Tokens
from bud_asgi.testing.vertex import Vertex
from testing.vertex.raw_client import COUNT, CREATE, MODEL, PARENT, RESOURCE, STREAM, Asked, without


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, locations=("global", "us-east5"))) as upstream:
        yield Asked(upstream, tokens)


COUNTED = without("max_tokens", model=MODEL)
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
MARKED = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "scope": "global"}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}


def saying(*blocks: object) -> dict[str, Any]:
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
    "a stream asked of the other method": (
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
        saying(MARKED),
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
        saying(IMAGE),
        (
            "messages.0.content.0.image.source: Input tag 'url' found using 'type' does not match any of the expected "
            "tags: 'base64'"
        ),
    ),
    "an image elsewhere in a result": (
        CREATE,
        saying(RESULT),
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


@pytest.mark.parametrize(("target", "fields", "words"), INVALID.values(), ids=INVALID.keys())
async def test_a_wrong_body_gets_anthropics_envelope(
    asked: Asked, target: str, fields: dict[str, Any], words: str
) -> None:
    status, head, told = await asked(target, fields)
    assert (status, told["type"]) == (400, "error")
    assert told["error"] == {"type": "invalid_request_error", "message": words}
    assert told["request_id"].startswith("req_vrtx_01")
    assert f"request-id: {told['request_id']}\r\n" in head
    assert asked.upstream.requests[0].refusal == words


async def test_unknown_beta_flags_are_named(asked: Asked) -> None:
    flags = "context-1m-2025-08-07, b-1,a-1"
    _, _, told = await asked(headers={"anthropic-beta": flags})
    assert told["error"]["message"].startswith("Unexpected value(s) `a-1`, `b-1` for the `anthropic-beta` header.")
    known = without(anthropic_beta=["tool-search-tool-2025-10-19"])
    assert (await asked(fields=known, headers={"anthropic-beta": "context-1m-2025-08-07"}))[0] == 200
    older = f"{PARENT}/claude-opus-4-1@20250805:rawPredict"
    assert "`tool-search-tool-2025-10-19`" in (await asked(older, known))[2]["error"]["message"]
    assert (await asked(COUNT, COUNTED, headers={"anthropic-beta": "context-1m-2025-08-07"}))[0] == 400
    assert (await asked(COUNT, COUNTED, headers={"anthropic-beta": "effort-2025-11-24"}))[0] == 200


UNKNOWN_MODELS = ["claude-does-not-exist", "claude-haiku-4-5-20251001", "anthropic.claude-opus-5", "gemini-3"]


@pytest.mark.parametrize("method", ["rawPredict", "streamRawPredict"])
@pytest.mark.parametrize("model", UNKNOWN_MODELS)
async def test_an_unknown_model_is_googles_error_and_an_array_where_it_streams(
    asked: Asked, model: str, method: str
) -> None:
    status, head, told = await asked(f"{PARENT}/{model}:{method}", without(stream=method == "streamRawPredict"))
    (error,) = told if method == "streamRawPredict" else [told]
    assert (status, error["error"]["code"], error["error"]["status"]) == (404, 404, "NOT_FOUND")
    resource = f"projects/bud-stand-in/locations/global/publishers/anthropic/models/{model}"
    assert error["error"]["message"].startswith(f"Publisher Model `{resource}` was not found or your project does not")
    assert "request-id" not in head


@pytest.mark.parametrize("model", ["claude-haiku-4-5@20251001", "claude-sonnet-4-6@default", "claude-opus-4-1"])
async def test_names_of_older_models_have_their_date_behind_an_at(asked: Asked, model: str) -> None:
    for written in (model, model.replace("@", "%40")):
        status, _, told = await asked(f"{PARENT}/{written}:rawPredict")
        assert (status, told["model"]) == (200, model.replace("@default", "").replace("@", "-"))


async def test_only_what_is_named_is_known() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, models=("claude-opus-4-8",), betas=("a-1",))) as upstream:
        asked = Asked(upstream, tokens)
        assert (await asked())[0] == 404
        assert (await asked(f"{PARENT}/claude-opus-4-8:rawPredict", headers={"anthropic-beta": "a-1"}))[0] == 200
        status, _, told = await asked(COUNT, COUNTED)
        assert status == 404
        assert f"/models/{MODEL}` was not found" in told["error"]["message"]


async def test_regions_have_no_newer_models(asked: Asked) -> None:
    regional = PARENT.replace("global", "us-east5")
    assert (await asked(f"{regional}/claude-sonnet-4-6:rawPredict"))[0] == 200
    assert (await asked(f"{regional}/claude-opus-4-7:rawPredict"))[0] == 404
    assert (await asked(f"{regional}/count-tokens:rawPredict", COUNTED))[0] == 200
    status, _, told = await asked(CREATE.replace("global", "europe-west1"))
    assert (status, told["error"]["status"]) == (404, "NOT_FOUND")


async def test_tokens_are_counted_where_that_is_done() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, counting_locations=("us-east5",))) as upstream:
        asked = Asked(upstream, tokens)
        assert (await asked(COUNT, COUNTED))[0] == 404
        status, _, told = await asked(COUNT.replace("global", "us-east5"), COUNTED)
        assert (status, told) == (200, {"input_tokens": 8})


async def test_the_project_is_the_tokens_or_nobodys(asked: Asked) -> None:
    assert (await asked(CREATE.replace("bud-stand-in", "123456789012")))[0] == 200
    status, _, told = await asked(CREATE.replace("bud-stand-in", "another-one"))
    assert status == 403
    resource = RESOURCE.replace("bud-stand-in", "another-one")
    assert told["error"] == {
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


async def test_a_quota_project_must_be_one_that_the_caller_may_use(asked: Asked) -> None:
    assert (await asked(headers={"x-goog-user-project": "bud-stand-in"}))[0] == 200
    status, _, told = await asked(headers={"x-goog-user-project": "another-one"})
    assert (status, told["error"]["details"][0]["reason"]) == (403, "USER_PROJECT_DENIED")
    assert "use project another-one." in told["error"]["message"]


async def test_only_callers_with_the_role_are_served() -> None:
    tokens = Tokens()
    async with StandIn.of(Vertex(tokens=tokens, callers=("someone else",))) as upstream:
        asked = Asked(upstream, tokens)
        assert (await asked())[2]["error"]["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
        asked.token = tokens.issue("someone else").value
        assert (await asked())[0] == 200


CREDENTIALS: dict[str, tuple[dict[str, str | None], str]] = {
    "none": ({"authorization": None}, "CREDENTIALS_MISSING"),
    "not issued": ({"authorization": "Bearer ya29.other"}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    "another scheme": ({"authorization": "Basic eA=="}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    "Anthropic's too": ({"x-api-key": "sk-ant-client"}, "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
}


@pytest.mark.parametrize(("headers", "why"), CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_a_wrong_credential_is_401(asked: Asked, headers: dict[str, str | None], why: str) -> None:
    status, head, told = await asked(headers=headers)
    assert (status, told["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert told["error"]["details"][0]["reason"] == why
    assert "\r\nwww-authenticate: Bearer" in head
    assert asked.token not in json.dumps(told)


async def test_a_tokens_time_and_scopes_are_judged(asked: Asked) -> None:
    assert (await asked())[0] == 200
    asked.tokens.expire()
    status, _, told = await asked()
    assert (status, told["error"]["details"][0]["reason"]) == (401, "ACCESS_TOKEN_EXPIRED")
    asked.token = asked.tokens.issue("someone", (f"{CLOUD_PLATFORM}.read-only",)).value
    status, _, told = await asked()
    assert (status, told["error"]["details"][0]["reason"]) == (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


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
async def test_a_path_that_there_is_not_gets_a_page(asked: Asked, method: str, target: str) -> None:
    status, head, page = await asked(target, method=method)
    assert status == 404
    assert "\r\ncontent-type: text/html; charset=UTF-8" in head
    assert page.startswith("<!DOCTYPE html>")


async def test_a_query_of_the_clients_is_refused(asked: Asked) -> None:
    status, _, told = await asked(f"{CREATE}?beta=true")
    assert (status, told["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert 'Unknown name "beta"' in told["error"]["message"]
    assert (await asked(f"{CREATE}?alt=json"))[0] == 200


async def test_a_body_over_the_limit_is_413() -> None:
    tokens = Tokens()
    assert Vertex(tokens=tokens).max_body == 30 << 20
    async with StandIn.of(Vertex(tokens=tokens, max_body=200)) as upstream:
        asked = Asked(upstream, tokens)
        status, _, told = await asked(fields=without(system="a" * 200))
        assert (status, told["error"]["type"]) == (413, "request_too_large")
        assert told["error"]["message"] == "Request exceeds the maximum allowed number of bytes."
        assert (await asked())[0] == 200
