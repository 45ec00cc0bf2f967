"""Clients that stall: an upload, or the reading of a response, ends by itself."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute
from support.calls import BODY, KEY, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, gateway, messages_app, provider
from support.serving import serving
from support.sockets import connect, raw_request, receive_until
from support.uploads import CHUNK, head, read_answer, stack, upload
from support.waiting import wait_until

from bud_asgi import ApiKeys, hash_api_key
from bud_asgi.clock import Timing
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, big_stream

KEYS = ApiKeys({"me": hash_api_key(KEY)})
CHUNKED = {"transfer-encoding": "chunked"}
VALID = json.dumps(BODY).encode()
STALLS = {
    "no body at all": ({"content-length": "100"}, b""),
    "within a declared body": ({"content-length": "100"}, b"{"),
    "between two chunks": (CHUNKED, CHUNK),
    "within a chunk": (CHUNKED, CHUNK[:100]),
}


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as stand_in:
        yield stand_in


def options(kind: str, **timing: float) -> dict[str, Any]:
    stages: dict[str, Any] = {"auth": KEYS} if kind == "stages" else {"middleware": stack(KEYS)}
    return {**stages, "timing": Timing(tick=0.05, discard_silence=0.1, **timing)}


@pytest.mark.parametrize("kind", ["stages", "middleware"])
def test_a_stalled_upload_is_refused_and_its_connection_closed(upstream: ThreadedStandIn, kind: str) -> None:
    with gateway(upstream.base_url, **options(kind, body_silence=0.3)) as here:
        for lines, sent in STALLS.values():
            with upload(here, lines, sent) as peer:
                status, received = read_answer(peer)
            assert status == 408, received
            assert b"\r\nconnection: close" in received
            envelope = json.loads(received.partition(b"\r\n\r\n")[2])
            assert envelope["error"]["type"] == "timeout_error"
            assert envelope["error"]["message"] == "The request body stalled for 0.3 seconds."
        assert {one.outcome for one in here.settled} <= {"refused"}
        here.assert_nothing_open()


@pytest.mark.parametrize("kind", ["stages", "middleware"])
def test_a_slow_upload_that_goes_on_is_served(upstream: ThreadedStandIn, kind: str) -> None:
    with (
        gateway(upstream.base_url, **options(kind, body_silence=0.4)) as here,
        upload(here, {"content-length": str(len(VALID)), "connection": "close"}) as peer,
    ):
        for start in range(0, len(VALID), 10):
            peer.sendall(VALID[start : start + 10])
            time.sleep(0.08)
        assert read_answer(peer)[0] == 200


def test_an_upload_that_drips_for_ever_ends_at_the_deadline(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, **options("stages", body_within=0.4)) as here, upload(here, CHUNKED) as peer:
        deadline = time.monotonic() + 5
        peer.settimeout(0.05)
        received = b""
        while not received and time.monotonic() < deadline:
            peer.sendall(b"1\r\n \r\n")
            try:
                received = peer.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("kind", ["stages", "middleware"])
def test_a_client_that_stops_reading_is_disconnected(upstream: ThreadedStandIn, kind: str) -> None:
    upstream.requests.clear()
    upstream.enqueue(big_stream(30_000_000))
    slow = provider(upstream.base_url, timeouts=PATIENT)
    with (
        gateway("", providers=[slow], **options(kind, silence=0.5, close_within=0.2)) as here,
        raw_request(here.base_url, {**BODY, "stream": True}, timeout=10) as client,
    ):
        receive_until(client, b"content_block_delta")
        account = here.account()
        assert account.outcome == "client_gone"
        assert account.usage is not None
        wait_until(lambda: upstream.requests[0].aborted is not None, "the upstream call has ended")


def test_a_client_that_reads_slowly_but_steadily_gets_a_large_reply(upstream: ThreadedStandIn) -> None:

    text = "x" * 3_500_000
    message = {"type": "message", "content": [{"type": "text", "text": text}], "usage": {"output_tokens": 1}}
    reply = Reply(headers=(("content-type", "application/json"),), body=json.dumps(message).encode())
    upstream.enqueue(reply)
    slow = provider(upstream.base_url, timeouts=PATIENT)
    with gateway("", providers=[slow], **options("stages", silence=0.8)) as here, connect(here.base_url, 10) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        lines = {"content-length": str(len(VALID)), "connection": "close"}
        peer.sendall(head("/llm/v1/messages", lines) + VALID)
        received = 0
        while chunk := peer.recv(250_000):
            received += len(chunk)
            time.sleep(0.1)
        assert received > len(text)
        assert here.account().outcome == "answered"


@pytest.mark.parametrize("kind", ["stages", "middleware"])
def test_a_drain_with_stalled_uploads_ends_within_its_timeout(upstream: ThreadedStandIn, kind: str) -> None:
    messages = messages_app(upstream.base_url, **options(kind))
    took: list[float] = []

    async def drain(_request: Request) -> PlainTextResponse:
        began = time.monotonic()
        await messages.drain(0.3)
        await asyncio.sleep(0)
        took.append(time.monotonic() - began)
        return PlainTextResponse("drained")

    host = Starlette(routes=[HostRoute("/drain", drain)])
    messages.install(host, "/llm")
    with serving(host) as url, ExitStack() as clients:
        here = Gateway(f"{url}/llm")
        peers = [clients.enter_context(upload(here, CHUNKED, CHUNK)) for _ in range(10)]
        loops = messages._loops._by_loop
        wait_until(lambda: [len(one.in_flight) for one, _ in loops.values()] == [10], "the uploads have begun")
        assert httpx.get(f"{url}/drain", timeout=20).text == "drained"
        assert took[0] < 15
        assert {read_answer(peer)[0] for peer in peers} == {529}
