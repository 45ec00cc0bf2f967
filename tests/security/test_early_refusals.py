"""Refusals before the body has been read: the client can read the answer, and the server does not read on for ever."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from support.asgi import Receiving, Sent, chunks, http_scope
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway
from support.sockets import connect
from support.uploads import CHUNK, head, read_answer, stack, upload, upload_until_closed
from support.waiting import wait_until

from bud_asgi import Anonymous, Anthropic, ApiKeys, Limit, MessagesApp, hash_api_key
from bud_asgi.clock import Timing
from bud_asgi.testing import StandIn, ThreadedStandIn

KEYS = ApiKeys({"me": hash_api_key(KEY)})
CHUNKED = {"transfer-encoding": "chunked"}
TIMING = Timing(tick=0.05, body_silence=5.0, discard_within=1.0, discard_silence=0.2)
VALID = json.dumps(BODY).encode()

REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "a wrong key": (401, {"lines": {**CHUNKED, "x-api-key": "sk-wrong"}}),
    "an unknown path": (404, {"lines": CHUNKED, "path": "/v1/nothing"}),
    "a wrong method": (405, {"lines": CHUNKED, "method": "PUT"}),
    "no version": (400, {"lines": {**CHUNKED, "anthropic-version": ""}}),
    "not UTF-8": (400, {"lines": CHUNKED, "sent": b"1\r\n\xff\r\n"}),
    "a declared length over the limit": (413, {"lines": {"content-length": "99000000"}}),
    "a length that shows while it is read": (413, {"lines": CHUNKED}),
}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module", params=["stages", "middleware"])
def here(upstream: ThreadedStandIn, request: pytest.FixtureRequest) -> Generator[Gateway]:
    options: dict[str, Any] = {"auth": KEYS} if request.param == "stages" else {"middleware": stack(KEYS)}
    with gateway(upstream.base_url, timing=TIMING, max_body=1 << 20, **options) as one:
        yield one


@pytest.mark.parametrize(("status", "call"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_client_that_goes_on_uploading_can_read_why_it_was_refused(
    here: Gateway, status: int, call: dict[str, Any]
) -> None:
    with upload(here, **call) as peer:
        taken = upload_until_closed(peer)
        got, received = read_answer(peer)
    first, _, body = received.partition(b"\r\n\r\n")
    assert got == status
    assert b"\r\nconnection: close" in first
    assert json.loads(body)["type"] == "error"
    assert taken < 64 << 20  # 4 MB are read; the rest is what the kernel buffers, up to some 40 MB
    here.assert_nothing_open()


def test_a_caller_over_its_limit_can_read_the_429_while_it_uploads(upstream: ThreadedStandIn) -> None:
    limited: dict[str, Any] = {"auth": KEYS, "limits": [Limit("requests", 1, 3600.0)]}
    with gateway(upstream.base_url, timing=TIMING, **limited) as here:
        assert here.post().status_code == 200
        with upload(here, CHUNKED, CHUNK) as peer:
            upload_until_closed(peer)
            assert read_answer(peer)[0] == 429


def test_the_answer_is_there_before_the_client_has_stopped_uploading(here: Gateway) -> None:
    with upload(here, {**CHUNKED, "x-api-key": "sk-wrong"}, CHUNK) as peer:
        began = time.monotonic()
        assert peer.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < 10


def test_a_client_that_stops_uploading_is_not_waited_for(here: Gateway) -> None:
    with upload(here, {"content-length": "1000", "x-api-key": "sk-wrong"}, b"{") as peer:
        began = time.monotonic()
        assert read_answer(peer)[0] == 401
        assert time.monotonic() - began < 10


def test_a_small_body_that_has_arrived_leaves_the_connection_open(here: Gateway) -> None:
    with connect(here.base_url) as peer:
        for _ in range(3):
            lines = {"content-length": str(len(VALID)), "x-api-key": "sk-wrong"}
            peer.sendall(head("/llm/v1/messages", lines) + VALID)
            received = b""
            while b'"request_id"' not in received:
                received += peer.recv(65536)
            assert received.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" not in received


def test_a_refused_request_without_a_body_leaves_the_connection_open(here: Gateway) -> None:
    reply = httpx.get(f"{here.base_url}/v1/models", headers={"x-api-key": "sk-wrong"})
    assert (reply.status_code, reply.headers.get("connection")) == (401, None)


def test_a_client_that_waits_for_100_continue_is_refused_without_it(here: Gateway) -> None:
    lines = {"content-length": "1000", "expect": "100-continue", "x-api-key": "sk-wrong"}
    with upload(here, lines) as peer:
        status, received = read_answer(peer)
    assert (status, b"connection: close" in received, b"100 Continue" in received) == (401, True, False)


@pytest.mark.parametrize("kind", ["stages", "middleware"])
async def test_over_http_2_no_connection_header_is_sent_and_nothing_is_discarded(kind: str) -> None:
    providers = [Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")]
    options: dict[str, Any] = {"auth": KEYS} if kind == "stages" else {"middleware": stack(KEYS)}
    messages = MessagesApp(providers=providers, **options)
    scope = http_scope([(b"content-length", b"1000")], http_version="2")
    sent, receive = Sent(), Receiving(*chunks(b"x", b"y"))
    await messages(scope, receive, sent)
    assert (sent.status, receive.calls, b"connection" in sent.headers) == (401, 0, False)
    await messages.drain(0)
    sent = Sent()
    await messages(http_scope([(b"content-length", b"1000")], http_version="2"), receive, sent)
    assert (sent.status, receive.calls, b"connection" in sent.headers) == (529, 0, False)


async def test_a_host_that_raises_while_the_body_is_discarded_changes_nothing() -> None:
    async def receive() -> Any:
        raise RuntimeError("the host")

    providers = [Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")]
    messages, sent = MessagesApp(providers=providers, auth=KEYS), Sent()
    await messages(http_scope([(b"content-length", b"1000")]), receive, sent)
    assert (sent.status, sent.headers[b"connection"]) == (401, b"close")
    assert sent.error["type"] == "authentication_error"


def test_requests_refused_by_a_drain_can_be_read_while_they_upload(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, auth=Anonymous(), timing=TIMING) as here:
        for resources, _ in here.messages._loops._by_loop.values():
            resources.draining = True
        wait_until(lambda: httpx.get(f"{here.base_url}/readyz").status_code == 503, "draining")
        with upload(here, {**HEADERS, **CHUNKED}, CHUNK) as peer:
            upload_until_closed(peer)
            assert read_answer(peer)[0] == 529
