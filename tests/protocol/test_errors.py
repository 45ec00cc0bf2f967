"""The error envelope: how an error of ours is written, and how one of an upstream's is read."""

from __future__ import annotations

import json

import pytest

from bud_asgi.protocol.errors import (
    STATUS_OF_TYPE,
    ClientGone,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    UpstreamError,
    error_body,
    error_headers,
    read_error,
)

KINDS: list[tuple[type[GatewayError], int, str, bool | None]] = [
    (GatewayError, 500, "api_error", None),
    (InvalidRequest, 400, "invalid_request_error", False),
    (NotFound, 404, "not_found_error", False),
    (MethodNotAllowed, 405, "invalid_request_error", False),
    (RequestTooLarge, 413, "request_too_large", False),
    (ClientGone, 499, "api_error", None),
]


@pytest.mark.parametrize(("kind", "status", "type_", "retryable"), KINDS)
def test_each_error_has_its_status_and_type(
    kind: type[GatewayError], status: int, type_: str, retryable: bool | None
) -> None:
    error = kind("words")
    assert (error.status, error.type, error.retryable, str(error)) == (status, type_, retryable, "words")
    assert error_headers(error) == ([(b"x-should-retry", b"false")] if retryable is False else [])
    assert error_body(error, "req_1") == (
        b'{"type":"error","error":{"type":"%b","message":"words"},"request_id":"req_1"}' % type_.encode()
    )


def test_details_stand_in_the_envelope() -> None:
    error = InvalidRequest("no", details={"error_code": "a_code", "pixels": 8000, "paths": ["a", "b"]})
    assert json.loads(error_body(error, "req_1")) == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "no",
            "details": {"error_code": "a_code", "pixels": 8000, "paths": ["a", "b"]},
        },
        "request_id": "req_1",
    }


@pytest.mark.parametrize("words", ['a "quoted"\nline\r\n\n', "é😀\u2028\u0085", "\x00\x1b", ""])
def test_an_envelope_is_one_line_whatever_the_words(words: str) -> None:
    written = error_body(InvalidRequest(words), "req_1")
    assert b"\n" not in written
    assert b"\r" not in written
    assert json.loads(written)["error"]["message"] == words


def test_the_headers_of_an_error_come_before_whether_to_retry() -> None:
    error = MethodNotAllowed("no", headers={"allow": "POST", "x": "é"})
    assert error_headers(error) == [(b"allow", b"POST"), (b"x", b"\xe9"), (b"x-should-retry", b"false")]


def test_every_type_has_the_status_of_the_service() -> None:
    assert STATUS_OF_TYPE == {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "billing_error": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "conflict_error": 409,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "api_error": 500,
        "timeout_error": 504,
        "overloaded_error": 529,
    }


READ: dict[str, tuple[bytes, UpstreamError | None]] = {
    "an envelope": (
        b'{"type":"error","error":{"type":"not_found_error","message":"m"},"request_id":"req_1"}',
        UpstreamError("not_found_error", "m", has_code=False),
    ),
    "the barer one of the edge": (
        b'{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}',
        UpstreamError("request_too_large", "Request exceeds the maximum size", has_code=False),
    ),
    "with a code": (
        b'{"error":{"type":"t","message":"m","details":{"error_code":"thread_not_found"}}}',
        UpstreamError("t", "m", has_code=True),
    ),
    "with details but no code": (
        b'{"error":{"type":"t","message":"m","details":{"a":[1,{"error_code":1}]}}}',
        UpstreamError("t", "m", has_code=False),
    ),
    "with null details": (b'{"error":{"type":"t","message":"m","details":null}}', UpstreamError("t", "m", False)),
    "with fields that nobody knows": (
        b' {"x":1,"error":{"y":[],"type":"t","message":"m","type2":1}} ',
        UpstreamError("t", "m", has_code=False),
    ),
    "with a type that nobody knows": (
        b'{"error":{"type":"brand_new","message":""}}',
        UpstreamError("brand_new", "", False),
    ),
    "without a message": (b'{"error":{"type":"t"}}', None),
    "without a type": (b'{"error":{"message":"m"}}', None),
    "a message that is no string": (b'{"error":{"type":"t","message":1}}', None),
    "an error that is a string": (b'{"error":"no"}', None),
    "another object": (b'{"message":"no","__type":"x"}', None),
    "a web page": (b"<html>502 Bad Gateway</html>", None),
    "nothing": (b"", None),
    "half an envelope": (b'{"error":{"type":"t","mess', None),
    "an array": (b"[]", None),
    "bad UTF-8": (b'{"error":{"type":"t","message":"\xff"}}', None),
    "a lone surrogate": (b'{"error":{"type":"t","message":"\\ud83d"}}', None),
    "nested too deeply": (b'{"a":' + b"[" * 100_000, None),
}


@pytest.mark.parametrize(("body", "expected"), READ.values(), ids=READ.keys())
def test_an_upstream_s_error_is_read_or_is_none(body: bytes, expected: UpstreamError | None) -> None:
    assert read_error(body) == expected
