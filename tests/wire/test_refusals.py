"""What is refused: in the envelope, in order, naming the fault, and with nothing sent upstream."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider
from support.sockets import connect, receive_until, request_head

from bud_asgi import ApiKey, ApiKeys, Limit, Route, hash_api_key
from bud_asgi.http import Timeouts
from bud_asgi.testing import StandIn, ThreadedStandIn

VALID = json.dumps(BODY).encode()


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """One pair for all tests of the module."""
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in, gateway(stand_in.base_url) as one:
        yield one, stand_in


def assert_envelope(reply: httpx.Response, status: int, kind: str, message: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["error"]["message"] == message
    assert body["request_id"] == reply.headers["request-id"]
    assert body["request_id"].startswith("req_")


PATHS = {
    "an unknown path": ("GET", "/llm/v1/nothing", 404, "not_found_error", "Not found"),
    "the bare prefix": ("GET", "/llm", 404, "not_found_error", "Not found"),
    "the prefix with a slash": ("GET", "/llm/", 404, "not_found_error", "Not found"),
    "a trailing slash": ("POST", "/llm/v1/messages/", 404, "not_found_error", "Not found"),
    "a doubled slash": ("POST", "/llm//v1/messages", 404, "not_found_error", "Not found"),
    "a wrong method": ("GET", "/llm/v1/messages", 405, "invalid_request_error", "Method not allowed"),
    "a wrong method with a body": ("PUT", "/llm/v1/messages", 405, "invalid_request_error", "Method not allowed"),
    "another wrong method": ("OPTIONS", "/llm/v1/messages", 405, "invalid_request_error", "Method not allowed"),
    "a path that only begins like the prefix's": ("GET", "/llm/v1/messagesx", 404, "not_found_error", "Not found"),
}


@pytest.mark.parametrize(("method", "path", "status", "kind", "message"), PATHS.values(), ids=PATHS.keys())
def test_paths_and_methods_are_answered_here_without_a_credential(
    here: Gateway, upstream: ThreadedStandIn, method: str, path: str, status: int, kind: str, message: str
) -> None:
    reply = httpx.request(method, f"{here.host_url}{path}")
    assert_envelope(reply, status, kind, message)
    assert reply.headers["x-should-retry"] == "false"
    if status == 405:
        assert reply.headers["allow"] == "POST"
    assert upstream.requests == []


def test_hello_is_open(here: Gateway) -> None:
    reply = httpx.head(f"{here.base_url}/api/hello")
    assert reply.status_code == 200
    assert reply.headers["request-id"].startswith("req_")


CREDENTIALS: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, "x-api-key header is required"),
    "a wrong key": ({"x-api-key": "sk-wrong"}, "invalid x-api-key"),
    "a wrong bearer token": ({"authorization": "Bearer sk-wrong"}, "Invalid bearer token"),
    "another scheme": ({"authorization": "Basic c2s6d3Jvbmc="}, "Invalid authorization header"),
    "the right key with something behind": ({"x-api-key": f"{KEY}x"}, "invalid x-api-key"),
    "an empty one": ({"x-api-key": ""}, "x-api-key header is required"),
}


@pytest.mark.parametrize(("headers", "message"), CREDENTIALS.values(), ids=CREDENTIALS.keys())
def test_no_or_bad_credential_is_401_before_anything_else_of_the_request_is_judged(
    here: Gateway, upstream: ThreadedStandIn, headers: dict[str, str], message: str
) -> None:
    reply = here.post(b"not json", headers=headers)
    assert_envelope(reply, 401, "authentication_error", message)
    assert reply.headers["x-should-retry"] == "false"
    assert upstream.requests == []
    assert here.account().outcome == "refused"
    assert here.account().attempts == []


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "both"])
def test_either_form_of_the_credential_is_taken(here: Gateway, name: str) -> None:
    forms = {"authorization": {"authorization": f"bearer {KEY}"}, "x-api-key": {"x-api-key": KEY}}
    forms["both"] = {**forms["x-api-key"], "authorization": "Bearer sk-of-something-else"}
    assert here.post(headers={**forms[name], "anthropic-version": "2023-06-01"}).status_code == 200


VERSIONS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "missing": ([], "anthropic-version: header is required"),
    "empty": ([("anthropic-version", "")], "anthropic-version: header is required"),
    "twice": (
        [("anthropic-version", "2023-06-01"), ("Anthropic-Version", "2023-06-01")],
        'anthropic-version: "2023-06-01, 2023-06-01" is not a valid version',
    ),
}


@pytest.mark.parametrize(("lines", "message"), VERSIONS.values(), ids=VERSIONS.keys())
def test_the_version_comes_before_the_body(
    here: Gateway, upstream: ThreadedStandIn, lines: list[tuple[str, str]], message: str
) -> None:
    reply = httpx.post(f"{here.base_url}/v1/messages", headers=[("x-api-key", KEY), *lines], content=b"not json")
    assert_envelope(reply, 400, "invalid_request_error", message)
    assert upstream.requests == []


def _with(**fields: Any) -> bytes:
    return json.dumps({**BODY, **fields}).encode()


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in BODY.items() if key != name}).encode()


INVALID = "The request body is not valid JSON: "
BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", f"{INVALID}Input data was truncated"),
    "not JSON": (b"hello", f"{INVALID}invalid character (byte 0)"),
    "cut off": (VALID[:-1], f"{INVALID}Input data was truncated"),
    "an array": (b"[]", f"{INVALID}expected object, got array"),
    "a string": (b'"x"', f"{INVALID}expected object, got str"),
    "null": (b"null", f"{INVALID}expected object, got null"),
    "a byte order mark": (b"\xef\xbb\xbf" + VALID, f"{INVALID}invalid character (byte 0)"),
    "bad UTF-8 in a nested string": (
        VALID.replace(b"Hello", b"H\xff"),
        f"{INVALID}it is not UTF-8 (invalid start byte)",
    ),
    "bad UTF-8 in a key": (b'{"\xc3(":1}', f"{INVALID}it is not UTF-8 (invalid continuation byte)"),
    "UTF-8 cut at the end": (b'{"a":"\xe2\x82', f"{INVALID}it is not UTF-8 (unexpected end of data)"),
    "UTF-16": (VALID.decode().encode("utf-16"), f"{INVALID}it is not UTF-8 (invalid start byte)"),
    "a lone surrogate, nested": (VALID.replace(b"Hello", b"\\ud83d"), f"{INVALID}Input data was truncated"),
    "NaN": (VALID[:-1] + b',"temperature":NaN}', f"{INVALID}invalid character (byte 114)"),
    "nested 100,000 deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", f"{INVALID}it is nested too deeply"),
    "a key twice": (VALID[:-1] + b',"model":"x"}', f"{INVALID}the key 'model' appears more than once"),
    "a key twice, escaped": (VALID[:-1] + b',"mod\\u0065l":"x"}', f"{INVALID}the key 'model' appears more than once"),
    "an unknown key twice": (VALID[:-1] + b',"z":1,"z":1}', f"{INVALID}the key 'z' appears more than once"),
    "1,001 keys": (json.dumps({str(n): 0 for n in range(1001)}).encode(), f"{INVALID}it has more than 1000 keys"),
    "no model": (_without("model"), "model: Field required"),
    "no messages": (_without("messages"), "messages: Field required"),
    "no max_tokens": (_without("max_tokens"), "max_tokens: Field required"),
    "model of another type": (_with(model=1), "model: Input should be a valid string"),
    "model null": (_with(model=None), "model: Input should be a valid string"),
    "model empty": (_with(model=""), "model: String should have at least 1 character"),
    "model too long": (_with(model="m" * 257), "model: String should have at most 256 characters"),
    "messages of another type": (_with(messages="Hello"), "messages: Input should be a valid list"),
    "messages empty": (_with(messages=[]), "messages: at least one message is required"),
    "messages of strings": (_with(messages=["Hello"]), "messages.0: Input should be a valid dictionary"),
    "max_tokens a string": (_with(max_tokens="100"), "max_tokens: Input should be a valid integer"),
    "max_tokens a fraction": (_with(max_tokens=1.5), "max_tokens: Input should be a valid integer"),
    "max_tokens true": (_with(max_tokens=True), "max_tokens: Input should be a valid integer"),
    "max_tokens negative": (_with(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
    "stream a string": (_with(stream="true"), "stream: Input should be a valid boolean"),
    "temperature too high": (_with(temperature=1.1), "temperature: Input should be less than or equal to 1"),
    "top_k a fraction": (_with(top_k=0.5), "top_k: Input should be a valid integer"),
    "system a number": (_with(system=1), "system: Input should be a valid string or list"),
    "metadata a list": (_with(metadata=[]), "metadata: Input should be a valid dictionary"),
    "stop_sequences a string": (_with(stop_sequences="x"), "stop_sequences: Input should be a valid list"),
}


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_400_and_named_and_not_sent(
    here: Gateway, upstream: ThreadedStandIn, body: bytes, message: str
) -> None:
    reply = here.post(body)
    assert_envelope(reply, 400, "invalid_request_error", message)
    assert reply.headers["x-should-retry"] == "false"
    assert upstream.requests == []


def test_millions_of_keys_are_refused(here: Gateway, upstream: ThreadedStandIn) -> None:
    body = b"{" + b",".join(b'"%x":0' % n for n in range(2_000_000)) + b"}"
    reply = here.post(body)
    assert reply.status_code == 400
    assert "outside the known fields" in reply.json()["error"]["message"]
    assert upstream.requests == []


def test_a_compressed_body_is_refused_by_the_contracts_code(here: Gateway) -> None:
    reply = here.post(VALID, headers={**HEADERS, "content-encoding": "gzip"})
    assert reply.status_code == 400
    assert reply.json()["error"]["details"] == {"error_code": "request_body_encoding_unsupported"}


def test_a_declared_length_over_the_limit_is_413_before_the_body_is_sent(here: Gateway) -> None:
    with connect(here.host_url) as peer:
        peer.sendall(request_head(40_000_000))
        reply = receive_until(peer, b"request_id")
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b'"type":"request_too_large"' in reply
    assert b'"message":"Request exceeds the maximum size of 33554432 bytes"' in reply


def test_33_mb_are_413_and_the_client_can_read_it(here: Gateway, upstream: ThreadedStandIn) -> None:
    reply = here.post(b"x" * (33 << 20))
    assert_envelope(reply, 413, "request_too_large", "Request exceeds the maximum size of 33554432 bytes")
    assert upstream.requests == []


def test_an_endless_chunked_body_is_413_at_the_limit(here: Gateway, upstream: ThreadedStandIn) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < (40 << 20):
            sent += 1 << 20
            yield b" " * (1 << 20)

    reply = httpx.post(f"{here.base_url}/v1/messages", headers=HEADERS, content=endless(), timeout=30)
    assert reply.status_code == 413
    assert upstream.requests == []


def test_a_body_of_32_mib_goes_through_untouched(upstream: ThreadedStandIn) -> None:
    filler = "x" * ((32 << 20) - len(VALID))
    body = VALID.replace(b"Hello", b"Hello" + filler.encode())
    assert len(body) == 32 << 20
    patient = provider(
        upstream.base_url, timeouts=Timeouts(2.0, 20.0, 20.0)
    )  # the stand-in judges it, which takes time
    with gateway("", providers=[patient]) as here:
        assert here.post(body).status_code == 200
    assert upstream.requests[0].body == body


def test_the_limit_can_be_set(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, max_body=200) as here:
        assert here.post().status_code == 200
        assert here.post({"system": "x" * 200}).status_code == 413


def test_unknown_and_forbidden_models_come_before_the_rate(upstream: ThreadedStandIn) -> None:
    keys = ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=("claude-haiku-*",))])
    routes = [Route("claude-*", to=["anthropic"])]
    with gateway(upstream.base_url, auth=keys, routes=routes, limits=[Limit("requests", 1)]) as here:
        for _ in range(2):
            assert_envelope(here.post({"model": "gpt-x"}), 404, "not_found_error", "model: gpt-x")
            assert here.post({"model": "claude-opus-5"}).status_code == 403
        assert here.post({"model": "claude-opus-5"}).json()["error"]["type"] == "permission_error"
        assert upstream.requests == []
        assert here.post().status_code == 200
        limited = here.post()
        assert limited.status_code == 429
        assert limited.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert limited.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert "x-should-retry" not in limited.headers
        assert len(upstream.requests) == 1


def test_an_app_of_another_stack_still_wants_a_principal(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, middleware=[]) as here:
        assert_envelope(here.post(), 401, "authentication_error", "authentication is required")
    assert upstream.requests == []


def test_a_destination_is_never_taken_from_a_request(here: Gateway, upstream: ThreadedStandIn) -> None:
    hostile = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-base-url": "http://evil.example"}
    reply = here.post(
        {"base_url": "http://evil.example", "api_base": "http://evil.example"}, headers={**HEADERS, **hostile}
    )
    assert reply.status_code == 400  # the stand-in, like the service, refuses unknown fields
    assert reply.json()["error"]["message"].endswith("Extra inputs are not permitted")
    (seen,) = upstream.requests
    assert seen.header("host") == upstream.base_url.removeprefix("http://").encode()
    assert seen.target == b"/v1/messages"
    assert not {b"x-forwarded-host", b"x-base-url"} & {name for name, _ in seen.headers}
