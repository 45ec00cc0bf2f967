"""The Bedrock provider: its options, and the requests that it encodes."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from typing import Any

import pytest

from bud_asgi.http import HttpRequest, Timeouts
from bud_asgi.protocol.errors import InvalidRequest, NotFound, RequestTooLarge
from bud_asgi.providers import Provider
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.seam import EncodedRequest, ProviderRequest
from providers.cloud_requests import MESSAGES, NEWER, OLDER, call_of, request_of

SECRET = "a-secret-key-that-nobody-sees"
OLDER_DATED = "claude-haiku-4-5-20251001"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"


def bedrock(**options: Any) -> Bedrock:
    given: dict[str, Any] = {"region": "us-east-1", "access_key": "AKIAACCESSKEY", "secret_key": SECRET}
    return Bedrock(**{**given, **options})


def body_of(request: HttpRequest) -> bytes:
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)


def encoded(call: ProviderRequest | None = None, **options: Any) -> HttpRequest:
    return bedrock(**options).encode(call or call_of()).request


def test_a_request_as_invoke_model() -> None:
    sent = (
        b' {"max_tokens" : 1e2,"model":"claude-haiku-4-5","stream":false, "metadata":{"user_id":"\\u00e9"},'
        b'"messages":[{"content":[{"text":"\xe2\x80\xa8","type":"text"}],"role":"user"}],"x":123456789012345678901}\r\n'
    )
    request = encoded(call_of(sent))
    assert (request.method, request.target) == (
        b"POST",
        b"/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
    )
    assert body_of(request) == (
        b'{"max_tokens" : 1e2, "metadata":{"user_id":"\\u00e9"},'
        b'"messages":[{"content":[{"text":"\xe2\x80\xa8","type":"text"}],"role":"user"}],"x":123456789012345678901,'
        b'"anthropic_version":"bedrock-2023-05-31"}'
    )
    assert tuple(request.headers) == (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"bud_asgi"),
    )
    assert request.origin.authority == b"bedrock-runtime.us-east-1.amazonaws.com"
    assert request.origin.tls is not None
    assert request.origin.tls.verify_mode == ssl.CERT_REQUIRED
    assert request.timeouts == Timeouts(5.0, 600.0, 300.0)


def test_a_stream_has_its_own_path_and_content_type() -> None:
    request = encoded(call_of({"stream": True}, betas="effort-2025-11-24,claude-code-20250219"))
    assert request.target == b"/model/us.anthropic.claude-opus-4-8/invoke-with-response-stream"
    assert (b"accept", b"application/vnd.amazon.eventstream") in request.headers
    assert json.loads(body_of(request)) == {
        "max_tokens": 9,
        "messages": MESSAGES,
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["effort-2025-11-24"],
    }


def test_what_is_left_out_is_reported() -> None:
    one: EncodedRequest = bedrock().encode(call_of({"service_tier": "auto"}, betas="claude-code-20250219"))
    assert one.dropped == ("claude-code-20250219", "service_tier")


def test_what_bedrock_does_not_support_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^mcp_servers: "):
        bedrock().encode(call_of({"mcp_servers": []}))


def test_every_request_has_the_same_origin_so_that_connections_are_shared() -> None:
    one = bedrock()
    assert one.encode(call_of()).request.origin is one.encode(call_of()).request.origin


MODELS: dict[str, tuple[dict[str, Any], str, str | None, str]] = {
    "an id": ({}, "claude-opus-4-8", None, "us.anthropic.claude-opus-4-8"),
    "an alias": ({}, "claude-sonnet-4-5", None, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "an unknown model": ({}, "claude-opus-8", None, "us.anthropic.claude-opus-8"),
    "a base id": ({}, "anthropic.claude-opus-4-8", None, "anthropic.claude-opus-4-8"),
    "a profile": ({}, "global.anthropic.claude-opus-4-8", None, "global.anthropic.claude-opus-4-8"),
    "a mapped id": ({}, "fast", "claude-haiku-4-5", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
    "a mapped ARN": ({}, "claude-opus-4-8", ARN, ARN.replace("/", "%2F")),
    "global": ({"inference_profile": "global"}, "claude-opus-4-8", None, "global.anthropic.claude-opus-4-8"),
    "no profile": ({"inference_profile": "none"}, "claude-opus-4-8", None, "anthropic.claude-opus-4-8"),
    "of the region": ({"region": "ap-northeast-1"}, "claude-opus-4-8", None, "jp.anthropic.claude-opus-4-8"),
    "given": ({"model_ids": {"claude-opus-4-8": ARN}}, "claude-opus-4-8", None, ARN.replace("/", "%2F")),
    "given for an alias": ({"model_ids": {"claude-haiku-4-5": ARN}}, OLDER_DATED, None, ARN.replace("/", "%2F")),
    "given for the id": ({"model_ids": {OLDER_DATED: ARN}}, "claude-haiku-4-5", None, ARN.replace("/", "%2F")),
    "with a context window": ({}, "claude-opus-4-8[1m]", None, "us.anthropic.claude-opus-4-8"),
    "an alias with a context window": ({}, "claude-haiku-4-5[200K]", None, f"us.anthropic.{OLDER_DATED}-v1:0"),
    "mapped to a name with a context window": ({}, "big", "claude-opus-4-8[1m]", "us.anthropic.claude-opus-4-8"),
    "an id of Vertex AI": ({}, "claude-haiku-4-5@20251001", None, f"us.anthropic.{OLDER_DATED}-v1:0"),
    "given for a mapped name": ({"model_ids": {"big": ARN}}, "claude-opus-4-8", "big", ARN.replace("/", "%2F")),
}


@pytest.mark.parametrize(("options", "asked", "mapped", "identifier"), MODELS.values(), ids=MODELS.keys())
def test_the_model_is_in_the_path(options: dict[str, Any], asked: str, mapped: str | None, identifier: str) -> None:
    request = encoded(call_of({"model": asked}, model=mapped), **options)
    assert request.target == f"/model/{identifier}/invoke".encode()


@pytest.mark.parametrize("name", ["/", "a/b", "a b", "a?b", "a#b", "a%2Fb", "é", "a\r\nb", "a@b", "a;b", "arn:aws:a b"])
def test_a_name_that_is_unsafe_in_a_path_is_not_found(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        bedrock().encode(call_of({"model": name}))
    assert str(refused.value) == f"model: {name}"


@pytest.mark.parametrize("identifier", ["", ".", "..", "-a", "/", "a/b", "a%2Fb", "arn:", "arn:a b", "a" * 2049])
def test_an_invalid_identifier_is_not_a_model_id(identifier: str) -> None:
    with pytest.raises(ValueError, match=r"^model_ids\.a: expected the id or ARN of a model on Bedrock, got "):
        bedrock(model_ids={"a": identifier})


HIDDEN: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "by a target": ({}, "claude-sonnet-4-20250514", ARN),
    "by its id": ({"model_ids": {"claude-sonnet-4-0": ARN}}, "claude-sonnet-4-0", None),
    "by the id of a target": ({"model_ids": {"claude-sonnet-4-0": ARN}}, "claude-opus-5", "claude-sonnet-4-0"),
    "by a name without a generation": ({"model_ids": {"big": ARN}}, "claude-sonnet-4-0", "big"),
}


@pytest.mark.parametrize(("options", "asked", "mapped"), HIDDEN.values(), ids=HIDDEN.keys())
def test_the_features_behind_an_arn_follow_the_name_of_the_model(
    options: dict[str, Any], asked: str, mapped: str | None
) -> None:
    call = call_of({"model": asked}, betas="tool-search-tool-2025-10-19", model=mapped)
    assert bedrock(**options).encode(call).dropped == ("tool-search-tool-2025-10-19",)


def test_the_features_of_a_mapped_model_follow_its_own_name() -> None:
    call = call_of({"model": "claude-opus-4-8"}, betas="tool-search-tool-2025-10-19", model="claude-sonnet-4-0")
    assert bedrock().encode(call).dropped == ("tool-search-tool-2025-10-19",)


def count_of(fields: dict[str, Any] | None = None, *, model: str | None = None, **options: Any) -> tuple[str, Any]:
    """Return the path and the inner body of a token count."""
    request = encoded(call_of({"model": OLDER, **(fields or {})}, counting=True, model=model), **options)
    outer = json.loads(body_of(request))
    assert list(outer) == ["input"]
    return request.target.decode(), json.loads(base64.b64decode(outer["input"]["invokeModel"]["body"]))


def test_a_count_has_the_body_in_base64_and_the_base_id() -> None:
    path, inner = count_of({"stream": True, "system": "é"})
    assert path == "/model/anthropic.claude-haiku-4-5-20251001-v1:0/count-tokens"
    assert inner == {
        "messages": MESSAGES,
        "system": "é",
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 1,
    }


def test_max_tokens_of_a_count_is_above_the_budget_for_thinking() -> None:
    assert count_of({"thinking": {"type": "enabled", "budget_tokens": 2048}})[1]["max_tokens"] == 2049
    assert count_of({"thinking": {"type": "enabled", "budget_tokens": "x"}})[1]["max_tokens"] == 1
    assert count_of({"thinking": None})[1]["max_tokens"] == 1
    assert count_of({"max_tokens": 77})[1]["max_tokens"] == 77


@pytest.mark.parametrize(
    ("asked", "mapped"),
    [
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", None),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0", None),
        ("claude-haiku-4-5", ARN),
        ("fast", "claude-haiku-4-5"),
    ],
)
def test_a_count_uses_the_base_id_whatever_the_model_is_called(asked: str, mapped: str | None) -> None:
    path, _ = count_of({"model": asked}, model=mapped)
    assert path == "/model/anthropic.claude-haiku-4-5-20251001-v1:0/count-tokens"


def test_a_base_id_is_counted_unchanged() -> None:
    path, _ = count_of({"model": "us.anthropic.claude-3-5-sonnet-20241022-v2:0"})
    assert path == "/model/anthropic.claude-3-5-sonnet-20241022-v2:0/count-tokens"


@pytest.mark.parametrize(
    ("asked", "mapped"),
    [("claude-opus-4-7", None), ("claude-opus-5", None), ("claude-opus-4-8", ARN), ("fast", ARN), ("fast", None)],
)
def test_models_whose_tokens_are_not_counted_are_not_found(asked: str, mapped: str | None) -> None:
    with pytest.raises(NotFound, match="does not count tokens"):
        count_of({"model": asked}, model=mapped)


def test_the_operator_s_headers_are_sent_with_messages_and_not_with_counts() -> None:
    options: dict[str, Any] = {"service_tier": "flex", "guardrail": ("gr-1", "DRAFT")}
    headers = [
        (b"x-amzn-bedrock-service-tier", b"flex"),
        (b"x-amzn-bedrock-guardrailidentifier", b"gr-1"),
        (b"x-amzn-bedrock-guardrailversion", b"DRAFT"),
    ]
    for fields in ({}, {"stream": True}):
        assert list(encoded(call_of(fields), **options).headers)[-3:] == headers
    count = encoded(call_of({"model": OLDER}, counting=True), **options)
    assert not any(name.startswith(b"x-amzn") for name, _ in count.headers)


def asking(**headers: str) -> ProviderRequest:
    lines = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return ProviderRequest(request_of({}), {b"anthropic-version": b"2023-06-01", **lines})


def test_a_client_sets_only_the_headers_that_it_may_set() -> None:
    call = asking(
        x_amzn_bedrock_service_tier="priority",
        x_amzn_bedrock_guardrailidentifier="mine",
        x_amzn_bedrock_trace="ENABLED",
        x_amzn_bedrock_request_metadata="bad\x01",
        x_amz_security_token="t",
        authorization="Bearer x",
    )
    plain = encoded(call_of()).headers
    assert encoded(call).headers == plain
    some = encoded(call, client_headers=["x-amzn-bedrock-trace", "x-amzn-bedrock-request-metadata"])
    assert tuple(some.headers) == (*plain, (b"x-amzn-bedrock-trace", b"ENABLED"))
    everything: dict[str, Any] = {
        "client_headers": ["x-amzn-bedrock-service-tier", "x-amzn-bedrock-guardrailidentifier"],
        "guardrail": ("gr-1", "1"),
        "service_tier": "default",
    }
    assert encoded(call, **everything).headers == encoded(call_of(), **everything).headers


def test_a_user_profile_moves_from_the_header_into_the_body() -> None:
    call = asking(anthropic_user_profile_id="up_1")
    assert json.loads(body_of(encoded(call)))["user_profile_id"] == "up_1"
    both = ProviderRequest(request_of({"user_profile_id": "up_2"}), call.headers)
    assert json.loads(body_of(encoded(both)))["user_profile_id"] == "up_2"
    assert bedrock().traits.allowed_fields == ()
    assert bedrock(user_profiles=True).traits.allowed_fields == ("user_profile_id",)


def test_a_request_over_twenty_megabytes_is_rejected() -> None:
    room = 20_000_000 - len(body_of(encoded(call_of({"system": ""}))))
    assert encoded(call_of({"system": "x" * room}))
    with pytest.raises(RequestTooLarge, match="20000000 bytes"):
        encoded(call_of({"system": "x" * (room + 1)}))


def test_the_operator_can_allow_flags_and_drop_fields() -> None:
    call = call_of({"top_k": 5}, betas="an-unknown-flag")
    one = bedrock(allow_betas=["an-unknown-flag"], drop_fields=["top_k"]).encode(call)
    sent = json.loads(body_of(one.request))
    assert (sent["anthropic_beta"], "top_k" in sent, one.dropped) == (["an-unknown-flag"], False, ("top_k",))


PLACES: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    "GovCloud": ({"region": "us-gov-west-1"}, b"bedrock-runtime.us-gov-west-1.amazonaws.com", b""),
    "China": ({"region": "cn-north-1"}, b"bedrock-runtime.cn-north-1.amazonaws.com.cn", b""),
    "the Sovereign Cloud": ({"region": "eusc-de-east-1"}, b"bedrock-runtime.eusc-de-east-1.amazonaws.eu", b""),
    "a host": ({"endpoint": "vpce-1.bedrock-runtime.example"}, b"vpce-1.bedrock-runtime.example", b""),
    "a host and port": ({"endpoint": "h.example:8443"}, b"h.example:8443", b""),
    "a URL": ({"endpoint": "https://h.example/"}, b"h.example", b""),
    "a proxy": ({"endpoint": "http://localhost:8080/aws/"}, b"localhost:8080", b"/aws"),
}


@pytest.mark.parametrize(("options", "authority", "before"), PLACES.values(), ids=PLACES.keys())
def test_the_region_or_the_endpoint_determines_the_server(
    options: dict[str, Any], authority: bytes, before: bytes
) -> None:
    request = encoded(**options)
    assert request.origin.authority == authority
    assert request.target.startswith(before + b"/model/")
    assert (request.origin.tls is None) == str(options.get("endpoint")).startswith("http:")


def test_the_operator_sets_the_timeouts_and_the_tls_context() -> None:
    context, timeouts = ssl.create_default_context(), Timeouts(1.0, 2.0, 3.0)
    request = encoded(tls=context, timeouts=timeouts)
    assert request.origin.tls is context
    assert request.timeouts is timeouts


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "^name: expected a string"),
    "a region that is none": ({"region": "US East"}, "region"),
    "no endpoint": ({"endpoint": ""}, "^endpoint: expected a host"),
    "an endpoint with a password": ({"endpoint": "https://u:pw@h.example"}, "^endpoint: must not contain a user"),
    "tls without": (
        {"endpoint": "http://h", "tls": ssl.create_default_context()},
        "^tls: can only be used with an https endpoint$",
    ),
    "a profile that is none": ({"inference_profile": "mars"}, '^inference_profile: expected "auto", "none", "global"'),
    "an id that is none": ({"model_ids": {"a": "no such/id"}}, '^model_ids.a: expected .* got "no such/id"$'),
    "a tier that is none": ({"service_tier": "gold"}, '^service_tier: expected "default"'),
    "half a guardrail": (
        {"guardrail": ("gr-1", "")},
        '^guardrail.version: expected the version of a guardrail: a number or "DRAFT", got ""$',
    ),
    "a header that is none": ({"client_headers": ["x-api-key"]}, "^client_headers: expected"),
    "half a key": ({"secret_key": None}, "access_key"),
    "two credentials": ({"bearer_token": "b"}, "bearer_token"),
}


@pytest.mark.parametrize(("options", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_could_not_be_called_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        bedrock(**options)
    assert SECRET not in str(refused.value)
    assert "pw" not in str(refused.value)


def test_its_repr_shows_no_key() -> None:
    one: Provider = bedrock(name="mine", model_ids={"big": ARN})
    assert repr(one) == ("Bedrock(name='mine', region='us-east-1', endpoint='bedrock-runtime.us-east-1.amazonaws.com')")
    assert SECRET not in repr(one.credential)
    assert one.models_request() is None
    assert one.models[0] == "big"
    assert NEWER in one.models


def test_aws_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from bud_asgi.providers.bedrock.provider import Bedrock; Bedrock(region='eu-west-1');"
        "assert not {'botocore', 'aiobotocore', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
