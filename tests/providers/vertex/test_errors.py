"""Vertex AI's errors as those of the Messages API, and what of them the client sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.request import decode_request
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.seam import ProviderRequest
from bud_asgi.providers.vertex import Vertex

VERTEX = Vertex(project="my-proj", quota_project="example.com:billing")
SENT = b'{"model":"my-alias","max_tokens":1,"messages":[{}]}'
RESOURCE = "projects/my-proj/locations/global/publishers/anthropic/models/claude-opus-5"


def error_of(status: int, body: bytes, *, counting: bool = False) -> TranslatedUpstreamError | None:
    call = ProviderRequest(decode_request(SENT, counting=counting), {}, "claude-opus-5")
    return VERTEX.translate_error(call, status, {b"content-type": b"application/json"}, body)


def google(name: str, message: str, code: int = 0, *, listed: bool = False) -> bytes:
    error = {"error": {"code": code, "message": message, "status": name}}
    return json.dumps([error] if listed else error, indent=2).encode() + b"\n"


def translated(
    name: str, message: str, status: int, *, listed: bool = False, counting: bool = False
) -> TranslatedUpstreamError:
    made = error_of(status, google(name, message, status, listed=listed), counting=counting)
    assert made is not None
    return made


GENERIC = "The upstream does not let the gateway use this model."
TABLE: list[tuple[str, int, int, str, str]] = [
    ("INVALID_ARGUMENT", 400, 400, "invalid_request_error", "x"),
    ("OUT_OF_RANGE", 400, 400, "invalid_request_error", "x"),
    ("FAILED_PRECONDITION", 400, 403, "permission_error", GENERIC),
    ("UNAUTHENTICATED", 401, 502, "api_error", "upstream authentication failed"),
    ("PERMISSION_DENIED", 403, 403, "permission_error", GENERIC),
    ("NOT_FOUND", 404, 404, "not_found_error", "model: my-alias"),
    ("RESOURCE_EXHAUSTED", 429, 429, "rate_limit_error", "x"),
    ("CANCELLED", 499, 500, "api_error", "The upstream failed."),
    ("INTERNAL", 500, 500, "api_error", "The upstream failed."),
    ("UNKNOWN", 500, 500, "api_error", "The upstream failed."),
    ("UNAVAILABLE", 503, 529, "overloaded_error", "x"),
    ("DEADLINE_EXCEEDED", 504, 504, "timeout_error", "The model did not answer in time."),
    ("ABORTED", 409, 500, "api_error", "The upstream failed."),
    ("NEW_ONE", 400, 400, "invalid_request_error", "x"),
    ("NEW_ONE", 401, 502, "api_error", "upstream authentication failed"),
    ("NEW_ONE", 413, 413, "request_too_large", "x"),
    ("", 429, 429, "rate_limit_error", "x"),
    ("", 503, 529, "overloaded_error", "x"),
    ("NEW_ONE", 502, 500, "api_error", "The upstream failed."),
]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("name", "google_status", "status", "kind", "message"), TABLE)
def test_each_status_of_google_has_one_of_the_messages_api(
    name: str, google_status: int, status: int, kind: str, message: str, listed: bool
) -> None:
    error = translated(name, "x", google_status, listed=listed)
    assert (error.status, error.type, str(error)) == (status, kind, message)
    assert error.credential is (status == 502)
    assert error.retryable is (False if status in {400, 403, 404, 413, 502} else None)
    assert error.upstream_message == f"{google_status} {name}: x"


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
DELAYS: list[tuple[object, str | None]] = [
    ([RETRY_INFO], "34"),
    ([{"@type": "x", "reason": "R", "metadata": {"a": "b"}}, {**RETRY_INFO, "retryDelay": "34.5s"}], "35"),
    ([{**RETRY_INFO, "retryDelay": "0.000000001s"}], "1"),
    ([{**RETRY_INFO, "retryDelay": "0s"}], None),
    ([{**RETRY_INFO, "retryDelay": "soon"}], None),
    ([{**RETRY_INFO, "retryDelay": 34}], None),
    ([7], None),
    ({}, None),
    (None, None),
]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("details", "seconds"), DELAYS)
def test_the_delay_of_a_retry_info_is_retry_after(details: object, seconds: str | None, listed: bool) -> None:
    error = {"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED", "details": details}}
    made = error_of(429, json.dumps([error] if listed else error).encode())
    assert made is not None
    assert made.status == 429
    assert made.headers == ({} if seconds is None else {"retry-after": seconds})


def test_an_error_without_a_message_gets_one() -> None:
    assert str(translated("RESOURCE_EXHAUSTED", "", 429)) == "The upstream refused the request without a message."


def test_a_location_that_does_not_count_tokens() -> None:
    path = RESOURCE.replace("claude-opus-5", "count-tokens")
    message = f"Publisher Model `{path}` was not found or your project does not have access to it."
    assert (
        str(translated("NOT_FOUND", message, 404, counting=True)) == "The upstream of this model does not count tokens."
    )
    other = f"Publisher Model `{RESOURCE}` was not found"
    assert str(translated("NOT_FOUND", other, 404, counting=True)) == "model: my-alias"
    assert str(translated("NOT_FOUND", message, 404)) == "model: my-alias"


REDACTED = {
    f"Publisher Model `{RESOURCE}` is odd": "Publisher Model `projects/[project]/locations/global/publishers/anthropic"
    "/models/claude-opus-5` is odd",
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: "
    "anthropic-claude-sonnet-4. Please submit a quota increase request.": None,
    "my-proj is over its quota, my-proj-2 and not-my-proj are not": "[project] is over its quota, my-proj-2 and "
    "not-my-proj are not",
    "projects/other/locations/us": "projects/[project]/locations/us",
    "of example.com:billing.": "of [project].",
    "Project `other` is not": "Project [project] is not",
    "Project 'other' is not": "Project [project] is not",
    "in project 123456789 or project number 4567": "in project [project] or project number [project]",
    "consumer 'project_number:123456789012' (projects/123456789012)": "consumer 'project_number:[project]' "
    "(projects/[project])",
    "see https://console.developers.google.com/iam-admin/iam/project?project=other-1 then": "see https://console."
    "developers.google.com/iam-admin/iam/project?project=[project] then",
    "caller runner@other.iam.gserviceaccount.com may not": "caller [account] may not",
    "principal://iam.googleapis.com/projects/1/x/subject/y, no": "[account], no",
    "seen by 123456789012": "seen by [project]",
    "your project does not have access to it": None,
    "prompt is too long: 208310 tokens > 200000 maximum": None,
    "max_tokens: 99999999 > 64000, claude-haiku-4-5-20251001": None,
    "Request payload size exceeds the limit: 31457280 bytes.": None,
}


@pytest.mark.parametrize(("text", "shown"), REDACTED.items())
def test_projects_and_accounts_are_redacted(text: str, shown: str | None) -> None:
    for name, status in (("INVALID_ARGUMENT", 400), ("RESOURCE_EXHAUSTED", 429), ("UNAVAILABLE", 503)):
        error = translated(name, text, status)
        assert str(error) == (text if shown is None else shown)
        assert text in error.upstream_message


ENVELOPE = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": RESOURCE},
    "request_id": "req_vrtx_1",
}
OTHERS: dict[str, bytes] = {
    "an Anthropic error": json.dumps(ENVELOPE).encode(),
    "part of an Anthropic error": b'{"error":{"type":"overloaded_error","message":"Overloaded"}}',
    "a page": b"<!DOCTYPE html><title>Error 502</title>",
    "nothing": b"",
    "an empty array": b"[]",
    "an array of others": b"[1]",
    "another object": b'{"message":"x"}',
    "an empty error": b'{"error":{}}',
    "OAuth's": b'{"error":"invalid_grant","error_description":"x"}',
    "another message": b'{"error":{"code":400,"message":{"x":1},"status":"INTERNAL"}}',
    "not UTF-8": b'{"error":{"message":"\xff"}}',
    "deep": b'{"error":{"status":"INTERNAL"},"x":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("status", [400, 401, 404, 502])
def test_other_replies_are_not_translated(status: int, body: bytes) -> None:
    assert error_of(status, body) is None


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "code", "message", "status", "type"]), inner)
    ),
)


@given(status=st.integers(400, 599), body=st.binary() | JSON.map(encoded))
@examples(50, 2_000)
def test_any_reply_is_translated_or_left(status: int, body: bytes) -> None:
    error = error_of(status, body)
    if error is not None:
        assert 400 <= error.status <= 529
        assert "my-proj" not in str(error)
        assert error.credential or error.status != 502
