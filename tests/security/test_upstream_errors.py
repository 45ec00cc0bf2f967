"""Errors of upstreams in any form: the status is kept, the body is an error of the Messages API, nothing else leaks."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import anthropic
import httpx
import pytest
from msgspec.structs import replace
from support.calls import KEY, MODEL, UPSTREAM_KEY
from support.gateway import Gateway, gateway

from bud_asgi.http.httpx import HttpxEngine
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, empty, error, gzip_unasked, html, json_body, text
from bud_asgi.testing.bedrock import Bedrock as BedrockService

KINDS = {
    400: "invalid_request_error",
    402: "billing_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    520: "api_error",
    529: "overloaded_error",
}
WITHOUT = "The upstream answered {} without an error object."
FORMS: dict[str, tuple[Reply, str]] = {
    "a page": (html(), WITHOUT),
    "plain text": (json_body(b"Payload too large", headers={"content-type": "text/plain"}), WITHOUT),
    "nothing": (empty(), WITHOUT),
    "broken JSON": (json_body(b'{"detail":"no'), WITHOUT),
    "JSON without a message": (json_body({"status": 400}), WITHOUT),
    "more than a megabyte": (json_body({"detail": "x" * (2 << 20)}), WITHOUT),
    "a page in JSON": (json_body({"detail": "<html><body>no</body></html>"}), WITHOUT),
    "FastAPI's": (json_body({"detail": "No\r\n such\x1b[31m thing"}), "No such\\u001b[31m thing"),
    "FastAPI's list": (json_body({"detail": [{"loc": ["body"], "msg": "Field required"}]}), "Field required"),
    "vLLM's": (json_body({"object": "error", "message": "too long", "type": "BadRequestError"}), "too long"),
    "OpenAI's": (json_body({"error": {"message": "no", "type": "x", "param": None, "code": None}}), "no"),
    "Ollama's": (json_body({"error": "model is loading"}), "model is loading"),
    "AWS's": (json_body({"message": "no"}, headers={"content-type": "text/html"}), "no"),
    "a long message": (json_body({"detail": "x" * 5000}), "x" * 1000),
}
RETRY = {"retry-after": "34", "retry-after-ms": "34500", "x-should-retry": "true", "request-id": "req_of-the.vendor_1"}


STATUSES: list[tuple[str, int, bool]] = [
    *(("a page", status, False) for status in KINDS),
    *((form, 413, stream) for form in FORMS for stream in (False, True)),
]


@pytest.mark.parametrize(("name", "status", "stream"), STATUSES)
def test_an_error_in_another_form_keeps_its_status(
    here: Gateway, upstream: ThreadedStandIn, name: str, status: int, stream: bool
) -> None:
    form, message = FORMS[name]
    lines = {**dict(form.headers), **RETRY, "set-cookie": "a=b", "location": "/"}
    upstream.enqueue(replace(form, status=status, headers=tuple(lines.items())))
    reply = here.post({"stream": stream})
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "type": "error",
        "error": {"type": KINDS[status], "message": message.format(status)},
        "request_id": reply.headers["request-id"],
    }
    kept = {name: value for name, value in RETRY.items() if name != "request-id"}
    assert {name: reply.headers[name] for name in kept} == kept
    assert reply.headers["upstream-request-id"] == RETRY["request-id"]
    assert not {"set-cookie", "location"} & set(reply.headers)
    assert here.account().attempts[0].failure
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [404, 413])
@pytest.mark.parametrize("form", [html(), empty(), json_body({"detail": "no"})], ids=["page", "empty", "detail"])
def test_the_sdk_does_not_send_a_rejected_request_again(
    here: Gateway, upstream: ThreadedStandIn, form: Reply, status: int
) -> None:
    upstream.always(replace(form, status=status))
    try:
        with (
            anthropic.Anthropic(base_url=here.base_url, api_key=KEY, max_retries=2) as client,
            pytest.raises(anthropic.APIStatusError) as raised,
        ):
            client.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "x"}])
        assert raised.value.status_code == status
        assert len(upstream.requests) == 1
    finally:
        upstream.always(text("ok"))


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("form", [form for form, _ in FORMS.values()], ids=FORMS.keys())
def test_what_an_upstream_answers_to_our_credential_is_not_the_clients(
    here: Gateway, upstream: ThreadedStandIn, form: Reply, status: int
) -> None:
    upstream.enqueue(replace(form, status=status))
    reply = here.post()
    assert reply.status_code == 502
    assert reply.json()["error"] == {"type": "api_error", "message": "upstream authentication failed"}
    assert reply.headers["x-should-retry"] == "false"
    assert len(upstream.requests) == 1


ENVELOPE = {"type": "error", "error": {"type": "overloaded_error", "message": "m"}, "request_id": "r"}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("body", [ENVELOPE, {}], ids=["error", "empty"])
@pytest.mark.parametrize("status", [201, 204, 302, 307, 600, 999])
def test_a_status_that_is_no_error_is_a_502(
    here: Gateway, upstream: ThreadedStandIn, status: int, body: object, stream: bool
) -> None:
    upstream.enqueue(json_body(body, status=status, headers={"location": "http://127.0.0.1:9/"}))
    reply = here.post({"stream": stream})
    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "api_error")
    assert reply.json()["error"]["message"] == f"The upstream answered {status} where a Message was expected."
    assert len(upstream.requests) == 1


INVALID = {
    "retry-after": ["soon", "", "-1", "1e9", "34, 35", "Bearer x", "9" * 30],
    "retry-after-ms": ["x", "0x10"],
    "x-should-retry": ["perhaps", "TRUE"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_a_header_without_the_form_of_one_is_not_relayed(
    here: Gateway, upstream: ThreadedStandIn, name: str, value: str
) -> None:
    upstream.enqueue(error(429, "rate_limit_error", "no", headers={name: value, "request-id": "a b"}))
    reply = here.post()
    assert reply.status_code == 429
    assert name not in reply.headers
    assert "upstream-request-id" not in reply.headers


ENGINES: dict[str, Any] = {"ours": {}, "httpx": {"client": lambda: HttpxEngine(httpx.AsyncClient)}}


def zipped(reply: Reply, coding: str = "gzip") -> Reply:
    """The reply, of a whole body, with another content coding."""
    assert isinstance(reply.body, bytes)
    packed = gzip.compress(reply.body) if coding == "gzip" else zlib.compress(reply.body)
    return replace(reply, body=packed, headers=(*reply.headers, ("content-encoding", coding)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_errors_are_read(coding: str, engine: str) -> None:
    stand_in = StandIn(api_key=UPSTREAM_KEY).in_thread()
    with stand_in as upstream, gateway(upstream.base_url, **ENGINES[engine]) as here:
        upstream.enqueue(zipped(json_body(ENVELOPE, status=529), coding), zipped(html(413), coding))
        reply = here.post()
        assert (reply.status_code, reply.json()) == (529, ENVELOPE)
        assert "content-encoding" not in reply.headers
        assert here.post().status_code == 413


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_compressed_answers_are_relayed_decompressed_and_counted(stream: bool, engine: str) -> None:
    stand_in = StandIn(api_key=UPSTREAM_KEY).in_thread()
    with stand_in as upstream, gateway(upstream.base_url, **ENGINES[engine]) as here:
        upstream.enqueue(gzip_unasked(text("Hello there")), gzip_unasked(replace(text("Hello there"), piece=1)))
        for _ in range(2):
            reply = here.post({"stream": stream})
            assert reply.status_code == 200
            assert b"message_stop" in reply.content if stream else reply.json()["content"][0]["text"]
            assert "content-encoding" not in reply.headers
            account = here.account()
            assert account.outcome == "answered"
            assert account.usage is not None
            assert account.usage.output_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_compressed_answer_that_breaks_off_is_never_whole(
    here: Gateway, upstream: ThreadedStandIn, stream: bool
) -> None:
    upstream.enqueue(gzip_unasked(text("Hello there")))
    whole = here.post({"stream": stream}).content
    for cut in (0, 1, 10, 30, 200):
        upstream.enqueue(replace(gzip_unasked(text("Hello there")), cut=cut))
        reply = here.post({"stream": stream})
        assert len(reply.content) < len(whole)
        if reply.status_code == 200:
            assert reply.content.rstrip().rpartition(b"\n\n")[2].startswith(b"event: error\n")
        else:
            assert reply.status_code == 502


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress"])
@pytest.mark.parametrize("status", [200, 400])
def test_another_coding_is_a_502_and_named_in_the_log(
    here: Gateway, upstream: ThreadedStandIn, coding: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.enqueue(json_body(b"\x8b\x00", status=status, headers={"content-encoding": coding}))
    assert here.post().status_code == 502
    here.account()
    assert f"cannot decode the content-encoding '{coding}'" in caplog.text


def test_a_bomb_is_relayed_in_bounded_memory(here: Gateway, upstream: ThreadedStandIn) -> None:
    """16 MB in 16 KB: the gateway's buffers hold a part of it, and the client gets what it reads."""
    packed = gzip.compress(b'{"type":"message","text":"' + b" " * (16 << 20) + b'"}')
    upstream.enqueue(json_body(packed, headers={"content-encoding": "gzip"}))
    size = 0
    with httpx.stream("POST", f"{here.base_url}/v1/messages", **request()) as reply:
        assert reply.status_code == 200
        for chunk in reply.iter_raw():
            size += len(chunk)
    assert size == (16 << 20) + 28


def request() -> dict[str, Any]:
    """The parts of a request for a message."""
    return {
        "headers": {"x-api-key": KEY, "anthropic-version": "2023-06-01"},
        "json": {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
        "timeout": 30,
    }


@pytest.mark.parametrize(
    ("status", "kind"), [(413, "request_too_large"), (429, "rate_limit_error"), (503, "api_error")]
)
def test_a_page_in_front_of_a_cloud_keeps_its_status_too(status: int, kind: str) -> None:
    service = BedrockService()
    key = service.keys.issue()
    with StandIn.of(service).in_thread() as upstream:
        bedrock = Bedrock(
            region=service.region, endpoint=upstream.base_url, access_key=key.access_key, secret_key=key.secret_key
        )
        with gateway("", providers=[bedrock]) as here:
            lines = (("retry-after", "7"), ("x-amzn-requestid", "aws-1"), ("content-type", "text/html"))
            upstream.enqueue(replace(html(status), headers=lines))
            reply = here.post()
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
    assert (reply.headers["retry-after"], reply.headers["upstream-request-id"]) == ("7", "aws-1")
