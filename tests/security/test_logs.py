"""What upstreams and clients send is one printable line in a log, and what libraries log has no credential in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from providers.google_stage import bearer, google_served
from support.calls import HEADERS, KEY, UPSTREAM_KEY
from support.counts import examples
from support.gateway import Gateway, gateway

from bud_asgi import (
    ApiKeys,
    AuthMiddleware,
    Exchange,
    Middleware,
    Principal,
    Route,
    RoutingMiddleware,
    Target,
    hash_api_key,
)
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.debug_logs import without_debug_logs
from bud_asgi.telemetry import AccessLine, JsonFormatter, TextFormatter, access_line, encode_line
from bud_asgi.testing import StandIn, ThreadedStandIn, json_body, raw, sse, text
from bud_asgi.testing.bedrock import Bedrock as BedrockService
from bud_asgi.testing.bedrock import exception_first, exception_mid_stream

EVIL = "a\r\nforged line\n\x1b[31m\x9b1m\u2028b\u2029c\x85d\u202ee\u2066f\x00\x7fg\u200b" + "long " * 2000


def assert_printable(caplog: pytest.LogCaptureFixture) -> None:
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("bud_asgi")]
    assert messages
    for message in messages:
        assert message.isprintable(), message
        assert len(message) < 3000


def test_an_error_of_an_upstream_is_one_line(
    here: Gateway, upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    envelope = {"type": "error", "error": {"type": "authentication_error", "message": EVIL}}
    replies = [
        json_body({"detail": EVIL}, status=400),
        json_body(EVIL.encode(), status=503),
        json_body(envelope, status=401),
        json_body(EVIL.encode(), status=401),
        json_body({}, headers={"content-encoding": "\x1b[31m"}),
        raw(b"HTTP/1.1 200 \x1b[31m\r\n\x1bx\r\n\r\n"),
        json_body({}, headers={"request-id": "req\x1b[31m"}),
        sse(b"event: error\ndata: " + json.dumps(envelope).encode() + b"\n\n"),
    ]
    upstream.enqueue(*replies)
    for _ in replies:
        here.post({"stream": len(upstream.requests) == len(replies) - 1})
    here.accounts(len(replies))
    assert_printable(caplog)


@pytest.mark.parametrize(
    "name", ["AccessDeniedException", "ExpiredTokenException", "\x1b[31mNew", "ModelErrorException"]
)
def test_an_error_of_aws_is_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = BedrockService()
    key = service.keys.issue()
    with StandIn.of(service).in_thread() as upstream:
        bedrock = Bedrock(
            region=service.region, endpoint=upstream.base_url, access_key=key.access_key, secret_key=key.secret_key
        )
        with gateway("", providers=[bedrock]) as here:
            first = exception_first(name[:1].lower() + name[1:], EVIL)
            told = json_body({"message": EVIL, "__type": name}, status=403)
            upstream.enqueue(told, first, exception_mid_stream(message=EVIL))
            for stream in (False, True, True):
                here.post({"stream": stream})
            here.accounts(3)
    assert_printable(caplog)


class Chosen:
    """A route of the host's that names what does not exist."""

    model = "m" + EVIL

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        return [Target("p" + EVIL)]


class Router:
    def resolve(self, model: str, principal: Principal | None) -> Chosen:
        return Chosen()

    def offers(self, principal: Principal | None) -> Sequence[Any]:
        return ()


def test_names_of_a_hosts_router_are_one_line(upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture) -> None:
    stack = [
        Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(KEY)})),
        Middleware(RoutingMiddleware, router=Router()),
    ]
    with gateway(upstream.base_url, middleware=stack) as here:
        assert here.post().status_code == 500
    assert_printable(caplog)
    assert "the router chose the unknown provider" in caplog.text


def test_a_model_name_is_one_line_of_valid_json_in_the_access_log(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = "claude\u2028\x9b31m\u202e\x7f😀"
    with gateway(upstream.base_url, routes=[Route("*", to=["anthropic"])], access_log=True) as here:
        here.post({"model": model}, headers=HEADERS)
        here.account()
    (record,) = [record for record in caplog.records if record.name == "bud_asgi.access"]
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["model"] == model


def test_the_access_log_has_no_content_no_credential_and_no_query(
    upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi.access")
    names = ("cookie", "referer", "traceparent", "tracestate", "baggage", "anthropic-beta", "x-any")
    headers = {**HEADERS, **{name: f"CANARY-{name}" for name in names}}
    content = {"system": "CANARY", "metadata": {"user_id": "CANARY"}, "stop_sequences": ["CANARY"]}
    error = {"type": "error", "error": {"type": "api_error", "message": "CANARY"}}
    upstream.enqueue(text("CANARY"), text("CANARY"), json_body(error, status=500), json_body(b"CANARY", status=400))
    with gateway(upstream.base_url, access_log=True) as here:
        for stream in (False, True, True, False):
            here.post({**content, "stream": stream}, headers=headers)
        here.post(b'{"CANARY', headers=headers)
        here.post({}, headers={**headers, "x-api-key": "CANARY"}, params={"key": "CANARY"})
        httpx.put(f"{here.base_url}/v1/other?key=CANARY", headers=headers)
        here.accounts(7)
    records = [record for record in caplog.records if record.name == "bud_asgi.access"]
    statuses = sorted(record.__dict__["bud"]["status"] for record in records)
    assert statuses == [200, 200, 400, 400, 401, 404, 500]
    assert {record.__dict__["bud"]["client_address"] for record in records} == {"127.0.0.1"}
    for formatter in (JsonFormatter(), TextFormatter(), logging.Formatter("%(message)s %(bud)s")):
        lines = "\n".join(map(formatter.format, records))
        for secret in ("CANARY", KEY, UPSTREAM_KEY):
            assert secret not in lines


hostile = st.text(st.characters(), max_size=300) | st.sampled_from([EVIL, '"}\n{"level":"info"}', "\\", "\udc80"])


@given(hostile, hostile, hostile, hostile, hostile)
@examples(25)
def test_nothing_that_a_client_sends_breaks_a_line_or_forges_a_field(
    path: str, method: str, agent: str, address: str, kind: str
) -> None:
    headers = [(b"user-agent", agent.encode("utf-8", "surrogateescape" if agent == "\udc80" else "replace"))]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": (address, 1)}
    exchange = Exchange.of(scope)
    exchange.error_type, exchange.outcome, exchange.status = kind, "refused", 404
    line = access_line(exchange, 0.0)
    encoded = encode_line(line).decode()
    assert encoded.isprintable()
    assert len(encoded) < 10_000
    decoded = msgspec.json.decode(encoded, type=AccessLine)
    assert (decoded.level, decoded.request_id, decoded.principal) == ("info", exchange.request_id, None)
    record = logging.makeLogRecord({"levelno": logging.INFO, "bud": json.loads(encoded)})
    assert TextFormatter().format(record).isprintable()


async def test_fetching_a_google_token_logs_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with google_served() as served:
        credential = served.credential()
        token = await bearer(credential)
        key = str(served.key()["private_key"])
    logged = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert token not in logged
    assert key[40:80] not in logged


@pytest.mark.parametrize("library", ["botocore", "urllib3", "google"])
def test_debug_lines_are_dropped_for_the_time_of_a_fetch_only(library: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger(f"{library}.of_a_test")
    for block in (nullcontext(), without_debug_logs("botocore", "urllib3", "google"), nullcontext()):
        with block:
            logger.debug("debug")
            logger.info("info")
    assert caplog.messages == ["debug", "info", "info", "debug", "info"]
    assert not logger.filters
