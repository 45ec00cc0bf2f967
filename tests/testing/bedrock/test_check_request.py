"""Requests that the Bedrock stand-in rejects: signatures, paths, models, headers and bodies."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bud_asgi.testing import Received, StandIn
from bud_asgi.testing.bedrock import AwsKey, Bedrock
from bud_asgi.testing.bedrock.model_ids import ModelResolver, parse_route
from testing.bedrock.signed_client import BODY, HAIKU, OPUS, encoded, error_of, invoke, path, send, signed

Served = tuple[StandIn, AwsKey]
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123def456"
HELLO = BODY["messages"][0]
TOOL: dict[str, Any] = {"name": "t", "input_schema": {"type": "object"}}
SONNET_45 = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SONNET_4 = "us.anthropic.claude-sonnet-4-20250514-v1:0"
NO_MODEL = "The provided model identifier is invalid."
NOT_COUNTED = "The provided model doesn't support counting tokens."


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    bedrock = Bedrock(profiles={PROFILE: "anthropic.claude-opus-4-8"})
    async with StandIn.of(bedrock) as upstream:
        yield upstream, bedrock.keys.issue_temporary()


def status_of(head: bytes) -> int:
    return int(head.split(b" ")[1])


async def test_a_signed_request_is_accepted_and_recorded(served: Served) -> None:
    head, content, _ = await invoke(*served)
    assert (status_of(head), json.loads(content)["type"]) == (200, "message")
    (request,) = served[0].requests
    assert (request.complete, request.refusal, request.json()) == (True, None, BODY)


SIGNATURES: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "an edited query": (lambda given: given.update(target=path() + "?a=b"), "InvalidSignature", "does not match"),
    "an edited path": (lambda given: given.update(target=path(HAIKU)), "InvalidSignature", "does not match"),
    "an edited body": (lambda given: given.update(body=encoded({"max_tokens": 1001})), "InvalidSignature", "not match"),
    "an edited header": (lambda given: given["headers"].update({"content-type": "text/plain"}), "Invalid", "not match"),
    "a header put in": (lambda given: given["headers"].update({"x-amz-new": "1"}), "Invalid", "'x-amz-new' must be"),
    "a header lost": (
        lambda given: given["headers"].update({"content-type": None}),
        "Invalid",
        "'content-type' did not",
    ),
    "a token lost": (lambda given: given["headers"].update({"X-Amz-Security-Token": None}), "Invalid", "did not come"),
    "a date lost": (lambda given: given["headers"].update({"X-Amz-Date": None}), "IncompleteSig", "Got ''"),
    "another date": (
        lambda given: given["headers"].update({"X-Amz-Date": "20200101T000000Z"}),
        "InvalidSignature",
        "Date in Credential scope does not match",
    ),
    "no date": (lambda given: given["headers"].update({"X-Amz-Date": "yesterday"}), "IncompleteSig", "Got 'yesterday'"),
    "no signature": (lambda given: given["headers"].update(Authorization=None), "MissingAuth", "Missing Auth"),
    "half a signature": (
        lambda given: given["headers"].update(Authorization="AWS4-HMAC-SHA256 Credential=a/b/c/d/e"),
        "IncompleteSig",
        "requires 'Signature' parameter",
    ),
    "half a credential": (
        lambda given: given["headers"].update(
            Authorization="AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=0"
        ),
        "IncompleteSig",
        "exactly 5 slash-delimited elements",
    ),
    "another scheme": (lambda given: given["headers"].update(Authorization="Basic YQ=="), "IncompleteSig", "'Basic'"),
    "another hash": (lambda given: given["headers"].update({"x-amz-content-sha256": "0"}), "Invalid", "must be"),
}


@pytest.mark.parametrize(("change", "name", "expected_message"), SIGNATURES.values(), ids=SIGNATURES.keys())
async def test_a_request_changed_after_signing_is_rejected(
    served: Served, change: Callable[[dict[str, Any]], object], name: str, expected_message: str
) -> None:
    body = encoded({})
    given: dict[str, Any] = {"target": path(), "body": body, "headers": dict(signed(*served, body))}
    change(given)
    head, content, _ = await send(served[0], given["body"], given["headers"], target=given["target"])
    status, kind, message = error_of(head, content)
    assert status in (400, 403)
    assert kind.startswith(name)
    assert expected_message in message
    assert [request.refusal for request in served[0].refused] == [message]


@pytest.mark.parametrize(
    ("made_for", "expected_message"),
    [
        ({"secret": "another"}, "does not match"),
        ({"access_key": "AKIAUNKNOWN"}, "security token included in the request is invalid"),
        ({"service": "bedrock-runtime"}, "scoped to correct service: 'bedrock'"),
        ({"region": "us-west-2"}, "not 'us-west-2'"),
        ({"token": ""}, "security token included in the request is invalid"),
    ],
)
async def test_a_signature_for_another_request_is_rejected(
    served: Served, made_for: dict[str, Any], expected_message: str
) -> None:
    body = encoded({})
    status, _, message = error_of(*(await send(served[0], body, signed(*served, body, **made_for)))[:2])
    assert status == 403
    assert expected_message in message


async def test_a_signed_payload_hash_must_match_the_body(served: Served) -> None:
    body = encoded({})
    for hashed in ("0" * 64, "UNSIGNED-PAYLOAD"):
        headers = signed(*served, body, more={"x-amz-content-sha256": hashed})
        _, _, message = error_of(*(await send(served[0], body, headers))[:2])
        assert "does not match the computed payload hash" in message


async def test_the_error_for_a_wrong_signature_shows_what_was_signed(served: Served) -> None:
    body = encoded({})
    _, _, message = error_of(*(await send(served[0], body, signed(*served, body, secret="another")))[:2])
    assert "The Canonical String for this request should have been\n'POST\n/model/us.anthropic" in message
    assert f"x-amz-security-token:{served[1].session_token}" in message


async def test_credentials_of_another_service_are_rejected_and_api_keys_compared(served: Served) -> None:
    body = encoded({})
    bearer = {"authorization": "Bearer bedrock-api-key-stand-in"}
    assert status_of((await send(served[0], body, bearer))[0]) == 200
    for headers, expected_message in (
        ({"authorization": "Bearer another"}, "make sure your API Key is valid"),
        ({**bearer, "x-api-key": "sk-ant-client"}, "not for this service"),
    ):
        assert expected_message in error_of(*(await send(served[0], body, headers))[:2])[2]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", path()),
        ("PUT", path()),
        ("POST", "/v1/messages"),
        ("POST", "/model//invoke"),
        ("POST", path(operation="converse")),
    ],
)
async def test_other_operations_are_unknown(served: Served, method: str, target: str) -> None:
    headers = {"authorization": "Bearer bedrock-api-key-stand-in"}
    head, content, _ = await send(served[0], encoded({}), headers, target=target, method=method)
    assert error_of(head, content)[:2] == (404, "UnknownOperationException")


ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"
IDENTIFIERS: dict[str, str] = {
    OPUS: "claude-opus-4-8",
    "global.anthropic.claude-opus-5-5": "claude-opus-5-5",
    "global.anthropic.claude-opus-4-6-v1": "claude-opus-4-6",
    "us.anthropic.claude-mythos-preview": "claude-mythos-preview",
    HAIKU: "claude-haiku-4-5-20251001",
    HAIKU.replace(":", "%3A"): "claude-haiku-4-5-20251001",
    "anthropic.claude-3-7-sonnet-20250219-v1:0": "claude-3-7-sonnet-20250219",
    PROFILE: "claude-opus-4-8",
    PROFILE.replace("/", "%2F"): "claude-opus-4-8",
    PROFILE.replace("/", "%2F").replace(":", "%3A"): "claude-opus-4-8",
    f"{ACCOUNT}:inference-profile%2F{OPUS}": "claude-opus-4-8",
    "anthropic.claude-opus-4-8": "with on-demand throughput isn\u2019t supported. Retry your request with the ID",
    "arn:aws:bedrock:us-east-1::foundation-model%2Fanthropic.claude-opus-4-8": "on-demand throughput",
    "eu.anthropic.claude-opus-4-8": NO_MODEL,
    "us-gov.anthropic.claude-opus-4-8": NO_MODEL,
    "claude-opus-4-8": NO_MODEL,
    "us.claude-opus-4-8": NO_MODEL,
    "us.anthropic.claude-opus-4-8-v1": NO_MODEL,
    "us.anthropic.claude-opus-4-6": NO_MODEL,
    "us.anthropic.claude-haiku-4-5": NO_MODEL,
    "us.anthropic.claude-haiku-4-5-20251001": NO_MODEL,
    "us.anthropic.claude-does-not-exist-5": NO_MODEL,
    HAIKU.replace(":", "%253A"): NO_MODEL,
    f"arn:aws:bedrock:us-west-2:123456789012:inference-profile%2F{OPUS}": NO_MODEL,
    f"arn:aws:bedrock:us-east-1:999999999999:inference-profile%2F{OPUS}": "You don't have access to the model",
    f"{ACCOUNT}:application-inference-profile%2Funknown": "Could not resolve the foundation model",
}


@pytest.mark.parametrize(("identifier", "expected"), IDENTIFIERS.items())
async def test_models_are_named_as_bedrock_names_them(served: Served, identifier: str, expected: str) -> None:
    head, content, _ = await invoke(*served, target=path(identifier))
    answer = json.loads(content)
    if status_of(head) == 200:
        assert answer["model"] == expected
    else:
        assert expected in answer["message"]


@pytest.mark.parametrize(
    ("region", "prefixes"),
    [
        ("us-west-2", {"us", "global"}),
        ("ca-central-1", {"us", "global"}),
        ("eu-central-1", {"eu", "global"}),
        ("ap-northeast-1", {"jp", "apac", "global"}),
        ("ap-southeast-2", {"au", "apac", "global"}),
        ("ap-south-1", {"apac", "global"}),
        ("us-gov-west-1", {"us-gov"}),
    ],
)
async def test_inference_profiles_belong_to_regions(region: str, prefixes: set[str]) -> None:
    bedrock = Bedrock(region=region, models=("anthropic.claude-opus-4-8",))
    bearer = {"authorization": "Bearer bedrock-api-key-stand-in"}
    async with StandIn.of(bedrock) as upstream:
        taken: set[str] = set()
        for prefix in ("global", "us", "eu", "jp", "apac", "au", "us-gov"):
            head, _, _ = await send(upstream, encoded({}), bearer, target=path(f"{prefix}.anthropic.claude-opus-4-8"))
            taken |= {prefix} if status_of(head) == 200 else set()
        other = await send(upstream, encoded({}), bearer, target=path(f"{min(prefixes)}.anthropic.claude-opus-4-7"))
    assert taken == prefixes
    assert error_of(*other[:2])[2] == NO_MODEL


def test_the_arn_of_an_identifier() -> None:
    models = ModelResolver("123456789012", "eu-west-1", None, {})
    assert models.arn("anthropic.x") == "arn:aws:bedrock:eu-west-1::foundation-model/anthropic.x"
    assert models.arn("eu.anthropic.x") == "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.x"
    assert models.arn(PROFILE) == PROFILE
    received = Received(number=1, connection=1, method=b"POST", target=b"/model/a%2Fb%253A/invoke?x=/c/invoke")
    route = parse_route(received)
    assert route is not None
    assert route.identifier == "a/b%3A"


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", **fields}]}]}


def picture(**source: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}


TOOL_SEARCH = {"anthropic_beta": ["tool-search-tool-2025-10-19"]}
NEW = {"anthropic_version": "2026-10-21"}
TAKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "the newer version": (OPUS, NEW),
    "beta flags": (OPUS, {"anthropic_beta": ["context-1m-2025-08-07", "interleaved-thinking-2025-05-14"]}),
    "no beta flags": (OPUS, {"anthropic_beta": []}),
    "a profile of a user": (OPUS, {"user_profile_id": "uprof_1"}),
    "safeguards with their flag": (OPUS, {"safeguards": {}, "anthropic_beta": ["dangerous-tool-use-2026-09-03"]}),
    "a cache mark": (OPUS, block(cache_control={"type": "ephemeral", "ttl": "1h"})),
    "a picture": (OPUS, picture(type="base64", media_type="image/png", data="aGk=")),
    "a mid-conversation system message": (OPUS, {"messages": [HELLO, {"role": "system", "content": "Hm"}, HELLO]}),
    "effort": (OPUS, {"output_config": {"effort": "xhigh"}}),
    "the effort of an older model": ("us.anthropic.claude-opus-4-6-v1", {"output_config": {"effort": "max"}}),
    "a schema": (HAIKU, {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
    "a strict tool": (HAIKU, {"tools": [{**TOOL, "strict": True}]}),
    "a deferred tool": (OPUS, {**TOOL_SEARCH, "tools": [{**TOOL, "defer_loading": True}]}),
    "tool search": (OPUS, {**TOOL_SEARCH, "tools": [{"type": "tool_search_tool_regex_20251119", "name": "s"}]}),
    "the shell": (OPUS, {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    "examples": (OPUS, {"anthropic_beta": ["tool-examples-2025-10-29"], "tools": [{**TOOL, "input_examples": [{}]}]}),
    "edits": (
        OPUS,
        {
            "anthropic_beta": ["context-management-2025-06-27"],
            "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        },
    ),
    "adaptive thinking": ("us.anthropic.claude-sonnet-4-6", {"thinking": {"type": "adaptive"}}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no version": (OPUS, {"anthropic_version": ...}, "anthropic_version: Field required"),
    "the version of the header": (OPUS, {"anthropic_version": "2023-06-01"}, "Invalid API version: 2023-06-01"),
    "another cloud's version": (OPUS, {"anthropic_version": "vertex-2023-10-16"}, "Invalid API version: vertex"),
    "the newer version, older model": (HAIKU, NEW, "Invalid API version: 2026-10-21"),
    "no limit": (OPUS, {"max_tokens": ...}, "max_tokens: Field required"),
    "no messages": (OPUS, {"messages": ...}, "messages: Field required"),
    "a model": (OPUS, {"model": "claude-opus-4-8"}, "model: Extra inputs are not permitted"),
    "a stream": (OPUS, {"stream": True}, "stream: Extra inputs are not permitted"),
    "an unknown field": (OPUS, {"new": 1}, "new: Extra inputs are not permitted"),
    "automatic caching": (OPUS, {"cache_control": {"type": "ephemeral"}}, "cache_control: Extra inputs"),
    "a tier": (OPUS, {"service_tier": "auto"}, "service_tier: Extra inputs are not permitted"),
    "a thread": (OPUS, {"thread": {}}, "thread: Extra inputs are not permitted"),
    "safeguards without their flag": (OPUS, {"safeguards": {}}, "safeguards: Extra inputs are not permitted"),
    "their flag without safeguards": (OPUS, {"anthropic_beta": ["dangerous-tool-use-2026-09-03"]}, "invalid beta flag"),
    "an unknown flag": (OPUS, {"anthropic_beta": ["context-1m-2025-08-07", "claude-code-20250219"]}, "invalid beta"),
    "a flag of a newer model": (SONNET_4, TOOL_SEARCH, "invalid beta flag"),
    "flags in a string": (OPUS, {"anthropic_beta": "context-1m-2025-08-07"}, "anthropic_beta: Input should be a valid"),
    "the scope of a cache mark": (
        OPUS,
        block(cache_control={"type": "ephemeral", "scope": "global"}),
        "messages.0.content.0.cache_control.ephemeral.scope: Extra inputs are not permitted",
    ),
    "the lifetime of a cache mark, older model": (
        SONNET_4,
        block(cache_control={"type": "ephemeral", "ttl": "5m"}),
        "cache_control.ephemeral.ttl: Extra inputs are not permitted",
    ),
    "a picture by its address": (
        OPUS,
        picture(type="url", url="https://example.com/a.png"),
        "image.source: Input tag 'url' found using 'type' does not match any of the expected tags: 'base64'",
    ),
    "a large picture": (
        OPUS,
        picture(type="base64", media_type="image/png", data="a" * (5 << 20) + "a"),
        "image exceeds 5 MB maximum: 5242881 bytes > 5242880 bytes",
    ),
    "a mid-conversation system message, older model": (
        HAIKU,
        {"messages": [HELLO, {"role": "system", "content": "Hm"}, HELLO]},
        "messages.1.role: Input should be 'user' or 'assistant'",
    ),
    "effort, a model without": (HAIKU, {"output_config": {"effort": "low"}}, "output_config.effort: Extra inputs"),
    "more effort than there is": (
        "us.anthropic.claude-opus-4-6-v1",
        {"output_config": {"effort": "xhigh"}},
        "output_config.effort: Input should be 'low', 'medium', 'high' or 'max'",
    ),
    "a schema, a model without": (
        OPUS,
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        "output_config.format: Extra inputs are not permitted",
    ),
    "a strict tool, a model without": (OPUS, {"tools": [{**TOOL, "strict": True}]}, "tools.0.custom.strict: Extra"),
    "a deferred tool without its flag": (
        OPUS,
        {"tools": [{**TOOL, "defer_loading": True}]},
        "tools.0.custom.defer_loading: Extra inputs are not permitted",
    ),
    "a tool's own field of its own": (OPUS, {"tools": [{**TOOL, "custom": {}}]}, "tools.0.custom.custom: Extra"),
    "eager input": (OPUS, {"tools": [{**TOOL, "eager_input_streaming": True}]}, "eager_input_streaming: Extra inputs"),
    "web search": (
        OPUS,
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools.0: Input tag 'web_search_20250305' found using 'type' does not match any of the expected tags: 'bash_",
    ),
    "another tool search": (
        OPUS,
        {**TOOL_SEARCH, "tools": [{"type": "tool_search_tool_bm25_20251119", "name": "s"}]},
        "BM25 tool search is not supported on Bedrock. Use tool_search_tool_regex instead.",
    ),
    "tool search without its flag": (
        OPUS,
        {"tools": [{"type": "tool_search_tool_regex_20251119", "name": "s"}]},
        "tools.0: Input tag 'tool_search_tool_regex_20251119'",
    ),
    "edits without their flag": (OPUS, {"context_management": {"edits": [{"type": "compact_20260112"}]}}, "compact_2"),
    "adaptive thinking, older model": (SONNET_45, {"thinking": {"type": "adaptive"}}, "adaptive thinking is not"),
    "both ways of sampling": (SONNET_45, {"temperature": 0.5, "top_p": 0.5}, "cannot both be specified"),
    "sampling, newer model": (OPUS, {"temperature": 0.5}, "`temperature` is deprecated for this model."),
    "sampling, newer version": (OPUS, {**NEW, "temperature": 1}, "temperature: Extra inputs are not permitted"),
    "invalid messages": (OPUS, {"messages": [{"role": "user", "content": []}]}, "non-empty content"),
}


@pytest.mark.parametrize(("model", "fields"), TAKEN.values(), ids=TAKEN.keys())
async def test_a_body_that_the_model_accepts(served: Served, model: str, fields: dict[str, Any]) -> None:
    for operation in ("invoke", "invoke-with-response-stream"):
        head, content, _ = await invoke(*served, target=path(model, operation), **fields)
        assert status_of(head) == 200, content


@pytest.mark.parametrize(("model", "fields", "expected_message"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_body_that_the_model_rejects(
    served: Served, model: str, fields: dict[str, Any], expected_message: str
) -> None:
    given = {name: value for name, value in {**BODY, **fields}.items() if value is not ...}
    body = json.dumps(given).encode()
    for operation in ("invoke", "invoke-with-response-stream"):
        target = path(model, operation)
        head, content, _ = await send(served[0], body, signed(*served, body, target=target), target=target)
        status, name, message = error_of(head, content)
        assert (status, name) == (400, "ValidationException")
        assert expected_message in message
        assert b"\r\ncontent-type: application/json\r\n" in head


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a":"\\ud800"}', b"\xff"])
async def test_a_body_that_is_not_json_is_malformed(served: Served, body: bytes) -> None:
    head, content, _ = await send(served[0], body, signed(*served, body))
    assert error_of(head, content) == (
        400,
        "ValidationException",
        "Malformed input request, please reformat your input and try again.",
    )


@pytest.mark.parametrize(
    ("more", "expected_message"),
    [
        ({"content-type": "text/plain"}, "Content Type is invalid"),
        ({"x-amzn-bedrock-trace": "yes"}, "Value 'yes' at 'trace' failed to satisfy constraint"),
        ({"x-amzn-bedrock-service-tier": "fast"}, "[priority, default, flex, reserved]"),
        ({"x-amzn-bedrock-performanceconfig-latency": "low"}, "at 'performanceConfigLatency'"),
        ({"x-amzn-bedrock-guardrailidentifier": "abc"}, "must be provided together"),
    ],
)
async def test_headers_are_checked(served: Served, more: dict[str, str], expected_message: str) -> None:
    status, _, message = error_of(*(await invoke(*served, more=more))[:2])
    assert status == 400
    assert expected_message in message


async def test_a_compressed_body_is_rejected(served: Served) -> None:
    body = gzip.compress(encoded({}))
    headers = signed(*served, body, more={"content-encoding": "gzip"})
    assert "Malformed input request" in error_of(*(await send(served[0], body, headers))[:2])[2]


async def test_headers_that_bedrock_knows_are_accepted(served: Served) -> None:
    more = {
        "x-amzn-bedrock-trace": "ENABLED_FULL",
        "x-amzn-bedrock-service-tier": "flex",
        "x-amzn-bedrock-guardrailidentifier": "abc",
        "x-amzn-bedrock-guardrailversion": "DRAFT",
    }
    assert status_of((await invoke(*served, more=more))[0]) == 200


async def test_a_body_over_the_limit_is_rejected() -> None:
    async with StandIn.of(Bedrock(max_body=1000)) as upstream:
        headers = {"authorization": "Bearer bedrock-api-key-stand-in"}
        assert status_of((await send(upstream, encoded({"system": "a" * 800}), headers))[0]) == 200
        head, content, ended = await send(upstream, encoded({"system": "a" * 1000}), headers)
        assert error_of(head, content)[:2] == (413, "RequestEntityTooLargeException")
        assert ended == "eof"
    assert Bedrock().max_body == 20_000_000


def counting(**fields: Any) -> bytes:
    inner = {name: value for name, value in {**BODY, **fields}.items() if value is not ...}
    wrapped = base64.b64encode(json.dumps(inner).encode()).decode()
    return json.dumps({"input": {"invokeModel": {"body": wrapped}}}).encode()


SONNET_46 = "anthropic.claude-sonnet-4-6"
COUNTED: list[tuple[str, bytes, int, str]] = [
    (SONNET_46, counting(), 200, ""),
    (f"arn:aws:bedrock:us-east-1::foundation-model%2F{SONNET_46}", counting(), 200, ""),
    (SONNET_46, counting(max_tokens=1, tools=[TOOL]), 200, ""),
    (SONNET_46, counting(max_tokens=...), 400, "max_tokens: Field required"),
    (SONNET_46, counting(anthropic_version=...), 400, "anthropic_version: Field required"),
    (SONNET_46, counting(model="a"), 400, "model: Extra inputs are not permitted"),
    (SONNET_46, counting(anthropic_beta=["oauth-2025-04-20"]), 400, "invalid beta flag"),
    (SONNET_46, encoded({}), 400, "could not be read"),
    (SONNET_46, b'{"input":{"invokeModel":{"body":"*"}}}', 400, "could not be read"),
    (f"us.{SONNET_46}", counting(), 400, NOT_COUNTED),
    (f"{ACCOUNT}:inference-profile%2Fus.{SONNET_46}", counting(), 400, NOT_COUNTED),
    ("anthropic.claude-opus-4-7", counting(), 400, NOT_COUNTED),
    ("anthropic.claude-nothing", counting(), 400, NO_MODEL),
]


@pytest.mark.parametrize(("model", "body", "status", "expected_message"), COUNTED)
async def test_tokens_of_a_wrapped_body_are_counted(
    served: Served, model: str, body: bytes, status: int, expected_message: str
) -> None:
    target = path(model, "count-tokens")
    head, content, _ = await send(served[0], body, signed(*served, body, target=target), target=target)
    assert status_of(head) == status
    answer = json.loads(content)
    assert expected_message in answer["message"] if status != 200 else answer == {"inputTokens": answer["inputTokens"]}


async def test_the_anthropic_beta_header_is_ignored(served: Served) -> None:
    assert status_of((await invoke(*served, more={"anthropic-beta": "claude-code-20250219"}))[0]) == 200
