"""AWS's errors as those of the Messages API: status, type and message, and nothing about the account."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import TranslatedUpstreamError
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.bedrock.errors import error_in_reply, redacted
from providers.cloud_requests import OLDER, call_of

ACCOUNT = "123456789012"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLETOKEN"
ARN = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:inference-profile/us.anthropic.claude-opus-4-8"
BEDROCK = Bedrock(region="us-east-1", access_key="AKIAACCESSKEYOFOURS", secret_key="s" * 40, session_token=TOKEN)

MODEL = "model: claude-opus-4-8"
DENIED = "The upstream does not let the gateway use this model."
FAILED = "The upstream failed."
BAD_CREDENTIAL = "upstream authentication failed"
NOT_COUNTED = "The upstream of this model does not count tokens."
NO_USER = f"User: arn:aws:sts::{ACCOUNT}:assumed-role/r/s is not authorized to perform: bedrock:InvokeModel on {ARN}"
NO_SIGNATURE = "The request signature we calculated does not match the signature you provided.\n\nThe Canonical String"


def translated(
    status: int, name: str, text: str, *, counting: bool = False, headers: Headers | None = None, **more: Any
) -> TranslatedUpstreamError:
    call = call_of({"model": OLDER} if counting else {}, counting=counting)
    lines = {b"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/".encode()} if headers is None else headers
    error = BEDROCK.translate_error(call, status, lines, json.dumps({"message": text, **more}).encode())
    assert error is not None
    return error


TABLE: list[tuple[int, str, str, tuple[int, str, str]]] = [
    (400, "ValidationException", "messages: no", (400, "invalid_request_error", "messages: no")),
    (400, "ValidationException", "invalid beta flag", (400, "invalid_request_error", "invalid beta flag")),
    (
        400,
        "ValidationException",
        "The model returned the following errors: x: Extra inputs are not permitted",
        (400, "invalid_request_error", "x: Extra inputs are not permitted"),
    ),
    (
        400,
        "ValidationException",
        "Input is too long for requested model.",
        (400, "invalid_request_error", "prompt is too long: Input is too long for requested model."),
    ),
    (
        400,
        "ValidationException",
        "The model returned the following errors: prompt is too long: 9 tokens > 8 maximum",
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
    ),
    (400, "ValidationException", "The provided model identifier is invalid.", (404, "not_found_error", MODEL)),
    (
        400,
        "ValidationException",
        "Invocation of model ID x with on-demand throughput isn\u2019t supported.",
        (404, "not_found_error", MODEL),
    ),
    (400, "SerializationException", "cannot parse", (400, "invalid_request_error", "cannot parse")),
    (403, "AccessDeniedException", NO_USER, (403, "permission_error", DENIED)),
    (403, "AccessDeniedException", "You don't have access to the model.", (403, "permission_error", DENIED)),
    (403, "BadCScoreException", "x", (403, "permission_error", DENIED)),
    (404, "FTUFormNotFilled", "fill it", (403, "permission_error", DENIED)),
    (403, "MPAgreementBeingCreated", "wait", (403, "permission_error", DENIED)),
    (404, "ResourceNotFoundException", f"no {ARN}", (404, "not_found_error", MODEL)),
    (408, "ModelTimeoutException", "x", (504, "timeout_error", "The model did not answer in time.")),
    (413, "RequestEntityTooLargeException", "too big", (413, "request_too_large", "too big")),
    (424, "ModelStreamErrorException", "x", (500, "api_error", FAILED)),
    (429, "ThrottlingException", "Too many tokens.", (429, "rate_limit_error", "Too many tokens.")),
    (429, "ModelNotReadyException", "Wait.", (529, "overloaded_error", "Wait.")),
    (
        400,
        "ServiceQuotaExceededException",
        f"over the quota of {ACCOUNT}, see {ARN}.",
        (429, "rate_limit_error", "over the quota of [account], see [arn]."),
    ),
    (500, "InternalServerException", "x", (500, "api_error", FAILED)),
    (500, "InternalFailure", "x", (500, "api_error", FAILED)),
    (503, "ServiceUnavailableException", "Too many connections.", (529, "overloaded_error", "Too many connections.")),
    # unknown names: by the status
    (400, "NewException", "no", (400, "invalid_request_error", "no")),
    (403, "NewException", "no", (403, "permission_error", DENIED)),
    (404, "NewException", "no", (404, "not_found_error", MODEL)),
    (418, "NewException", "no", (418, "invalid_request_error", "The upstream refused the request.")),
    (409, "NewException", "no", (409, "conflict_error", "The upstream refused the request.")),
    (529, "NewException", "no", (529, "overloaded_error", "no")),
    (429, "NewException", "no", (429, "rate_limit_error", "no")),
    (502, "NewException", "no", (500, "api_error", FAILED)),
]


@pytest.mark.parametrize(("status", "name", "text", "meaning"), TABLE)
def test_what_an_error_means(status: int, name: str, text: str, meaning: tuple[int, str, str]) -> None:
    error = translated(status, name, text)
    assert (error.status, error.type, str(error)) == meaning
    assert not error.credential
    assert error.upstream_message == f"{status} {name}: {text}"
    assert error.retryable is (False if meaning[0] in {400, 403, 404, 413} else None)


CREDENTIAL = [
    (403, "ExpiredTokenException", "The security token included in the request is expired"),
    (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
    (403, "InvalidClientTokenId", "x"),
    (403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    (403, "InvalidSignatureException", NO_SIGNATURE),
    (403, "SignatureDoesNotMatch", NO_SIGNATURE),
    (400, "IncompleteSignature", "x"),
    (400, "RequestExpired", "Request has expired."),
    (403, "AccessDeniedException", "The security token included in the request is expired"),
    (403, "AccessDeniedException", "Authentication failed: Please make sure your API Key is valid."),
    (403, "AccessDeniedException", "Bearer Token has expired"),
    (401, "NewException", "no"),
]


@pytest.mark.parametrize(("status", "name", "text"), CREDENTIAL)
def test_errors_about_the_gateway_s_credential_are_hidden_from_the_client(status: int, name: str, text: str) -> None:
    error = translated(status, name, text)
    assert (error.status, error.type, str(error)) == (502, "api_error", BAD_CREDENTIAL)
    assert error.credential
    assert error.retryable is False


NAMED = [
    f"User: arn:aws:sts::{ACCOUNT}:assumed-role/expired/bearer-token is not authorized to perform: x on resource: y",
    f"User: {ARN} may not: x on arn:aws:bedrock:us-east-1::foundation-model/anthropic.api-key-expired by a deny",
    "You don't have access to the model 'expired API key' with the specified model ID.",
    'No access to "the security token", `bearer token` and \u201cauthentication failed\u201d.',
    "Access to my-expired-model is denied.",
    "Access to team/expired, expired:1, expired.v1, v1.expired and api_key_1 is denied.",
    "Model access is denied for us.anthropic.expired-v1:0.",
    "The profile api-key is not authorized",
]


@pytest.mark.parametrize("text", NAMED)
def test_words_within_names_do_not_make_an_error_one_of_the_credential(text: str) -> None:
    error = translated(403, "AccessDeniedException", text)
    assert (error.status, error.type, str(error)) == (403, "permission_error", DENIED)
    assert not error.credential


@pytest.mark.parametrize(
    "text",
    [
        f"User: {ARN}: the security token included in the request is expired.",
        "The token has expired",
        "Your credentials have expired.",
        "Invalid API Key format: Must start with pre-defined prefix",
        "Authentication failed: Please make sure your API Key is valid.",
        "The model 'x' isn't available: your bearer token is invalid",
    ],
)
def test_a_rejected_credential_is_recognised_beside_names(text: str) -> None:
    assert translated(403, "AccessDeniedException", text).credential


@pytest.mark.parametrize(
    ("model_status", "wanted"),
    [
        (400, (400, "invalid_request_error", "no")),
        (429, (429, "rate_limit_error", "no")),
        (413, (413, "request_too_large", "no")),
    ]
    + [(status, (500, "api_error", FAILED)) for status in (401, 403, 404, 500, 503, 0)],
)
def test_the_models_error_has_the_models_status(model_status: int, wanted: tuple[int, str, str]) -> None:
    error = translated(424, "ModelErrorException", "no", originalStatusCode=model_status)
    assert (error.status, error.type, str(error)) == wanted


def test_the_models_error_for_a_prompt_that_is_too_long() -> None:
    error = translated(424, "ModelErrorException", "Input is too long for requested model.", originalStatusCode=400)
    assert str(error).startswith("prompt is too long: ")


def test_a_model_whose_tokens_are_not_counted() -> None:
    error = translated(400, "ValidationException", "The provided model doesn't support counting tokens.", counting=True)
    assert (error.status, error.type, str(error)) == (404, "not_found_error", NOT_COUNTED)


NAMES: dict[str, tuple[dict[bytes, bytes], dict[str, Any]]] = {
    "a header": ({b"x-amzn-errortype": b"ThrottlingException"}, {}),
    "a header with an address": ({b"x-amzn-errortype": b"ThrottlingException:http://a/b#c"}, {}),
    "a header with a namespace": ({b"x-amzn-errortype": b"com.amazon#ThrottlingException"}, {}),
    "a code": ({}, {"code": "ThrottlingException"}),
    "a Code": ({}, {"Code": "ThrottlingException"}),
    "a type": ({}, {"__type": "com.amazon.bedrock#ThrottlingException"}),
    "the header comes first": ({b"x-amzn-errortype": b"ThrottlingException"}, {"code": "ValidationException"}),
    "without its ending": ({}, {"code": "Throttling"}),
}


@pytest.mark.parametrize(("headers", "fields"), NAMES.values(), ids=NAMES.keys())
def test_where_the_name_of_an_error_is(headers: dict[bytes, bytes], fields: dict[str, Any]) -> None:
    error = translated(400, "", "Slow down.", headers=headers, **fields)
    assert (error.status, str(error)) == (429, "Slow down.")


def test_the_field_of_the_text_may_be_capitalised() -> None:
    error = BEDROCK.translate_error(
        call_of(), 429, {b"x-amzn-errortype": b"ThrottlingException"}, b'{"Message":"Slow down."}'
    )
    assert str(error) == "Slow down."


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b'{"message":null}', b'{"message":{}}'])
def test_an_error_without_a_text(body: bytes) -> None:
    error = BEDROCK.translate_error(call_of(), 429, {b"x-amzn-errortype": b"ThrottlingException"}, body)
    assert str(error) == "The upstream refused the request without a message."


@pytest.mark.parametrize("body", [b"", b"<html>503</html>", b"{}", b'{"error":{"type":"x","message":"y"}}'])
def test_other_replies_are_not_translated(body: bytes) -> None:
    assert BEDROCK.translate_error(call_of(), 503, {b"content-type": b"text/html"}, body) is None
    assert error_in_reply(503, {}, body) is None


PRIVATE = [
    (f"on resource: {ARN}", "on resource: [arn]"),
    (f"'{ARN}'", "'[arn]'"),
    (f"({ARN}, {ARN})", "([arn], [arn])"),
    ("arn:aws-us-gov:iam::123456789012:role/a_b+c=d,e: no", "[arn]: no"),
    (f"account {ACCOUNT}.", "account [account]."),
    ("key ASIARRNLRUFFRLAMHBM3 is bad", "key [access key] is bad"),
    ("1234567890123 tokens", "1234567890123 tokens"),
    ("a123456789012", "a123456789012"),
    ("208310 tokens > 200000 maximum", "208310 tokens > 200000 maximum"),
    ("learn: more", "learn: more"),
]


@pytest.mark.parametrize(("text", "shown"), PRIVATE)
def test_texts_that_identify_the_account_are_redacted(text: str, shown: str) -> None:
    assert redacted(text) == shown
    error = translated(400, "ValidationException", text)
    assert str(error) == shown
    assert error.upstream_message.endswith(text)


def test_the_gateway_s_secrets_are_in_no_text() -> None:
    error = translated(403, "InvalidSignatureException", f"{NO_SIGNATURE}\nx-amz-security-token:{TOKEN}\n")
    assert TOKEN not in error.upstream_message
    assert TOKEN not in str(translated(400, "ValidationException", f"not {TOKEN}"))
