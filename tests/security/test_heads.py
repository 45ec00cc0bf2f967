"""A head of any size or shape costs a server nothing, and nothing but the head authenticates."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Receiving, call, http_scope
from support.calls import HEADERS, KEY
from support.gateway import messages_app
from support.server import HEALTH, LAST_HEALTH, assert_refuses, assert_serves, limited_server, status_of
from support.sockets import connect, raw_exchange, receive_until

from bud_asgi import MessagesApp

KB, MB = 1 << 10, 1 << 20
REQUEST_LINE = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
CHUNKED = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"


@pytest.fixture
def app() -> MessagesApp:
    return messages_app("http://127.0.0.1:9")


@pytest.fixture
def url(app: MessagesApp) -> Generator[str]:
    with limited_server(app) as served:
        yield served


def _flood(url: str, start: bytes, more: bytes, size: int) -> tuple[int, bytes]:
    """Send `start` and then `more` until the server refuses, at most `size` bytes. Returns what was sent and read."""
    sent, received = 0, b""
    block = more * (65536 // len(more))
    with connect(url) as peer:
        peer.sendall(start)
        try:
            while sent < size:
                sent += peer.send(block)
        except ConnectionError:
            pass
        try:
            while chunk := peer.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    return sent, received


LARGE = {
    "many short lines": REQUEST_LINE + b"a:b\r\n" * 201,
    "one long value": REQUEST_LINE + b"a: " + b"x" * 65 * KB + b"\r\n",
    "many long lines": REQUEST_LINE + (b"a: " + b"x" * KB + b"\r\n") * 66,
    "a long name": REQUEST_LINE + b"x" * 65 * KB + b": a\r\n",
    "a long path": b"GET /" + b"x" * 65 * KB + b" HTTP/1.1\r\nhost: x\r\n",
    "a long query": b"GET /healthz?" + b"x" * 65 * KB + b" HTTP/1.1\r\nhost: x\r\n",
    "path and value together": b"GET /" + b"x" * 33 * KB + b" HTTP/1.1\r\nhost: x\r\na: " + b"x" * 33 * KB + b"\r\n",
}


@pytest.mark.parametrize("head", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("before", ["", "reused", "pipelined"])
def test_a_head_beyond_the_limits_is_refused(url: str, head: bytes, before: str) -> None:
    if before == "pipelined":
        replies = raw_exchange(url, HEALTH + head + b"\r\n").split(b"HTTP/1.1 ")
        assert [reply[:3] for reply in replies] == [b"", b"200", b"431"]
    elif before == "reused":
        with connect(url) as peer:
            peer.sendall(HEALTH)
            receive_until(peer, b"\r\n\r\n")
            peer.sendall(head + b"\r\n")
            assert status_of(receive_until(peer, b"request_id")) == 431
    else:
        assert_refuses(url, head + b"\r\n", 431, "invalid_request_error")


@pytest.mark.parametrize(
    "head",
    [
        REQUEST_LINE + b"a:b\r\n" * 198,
        REQUEST_LINE + b"a: " + b"x" * 63 * KB + b"\r\n",
        b"GET /healthz?" + b"x" * 63 * KB + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n",
    ],
)
def test_a_head_within_the_limits_is_served(url: str, head: bytes) -> None:
    assert status_of(raw_exchange(url, head + b"\r\n")) == 200


@pytest.mark.parametrize("before", [b"", HEALTH * 50], ids=["alone", "behind others"])
def test_a_head_within_the_limits_is_served_in_small_pieces(url: str, before: bytes) -> None:
    head = before + HEALTH[:-2] + b"a: " + b"x" * 60 * KB + b"\r\n\r\n"
    with connect(url) as peer:
        for start in range(0, len(head), 7000):
            peer.sendall(head[start : start + 7000])
            time.sleep(0.002)
        peer.sendall(LAST_HEALTH)
        received = b""
        while chunk := peer.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 200") == before.count(b"GET") + 2


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (REQUEST_LINE, b"a:b\r\n"),
        (REQUEST_LINE + b"a: ", b"x" * 64),
        (REQUEST_LINE, b"x" * 64),
        (b"GET /", b"x" * 64),
        (b"G", b"E"),
    ],
    ids=["lines", "a value", "a name", "a path", "a method"],
)
def test_a_head_without_end_is_cut_off(url: str, start: bytes, more: bytes) -> None:
    cpu = time.process_time()
    sent, received = _flood(url, start, more, 100 * MB)
    assert sent < 20 * MB  # what the buffers of the sockets hold, and what is discarded so that the answer can be read
    assert status_of(received) in {400, 431}
    assert time.process_time() - cpu < 2.0  # the client's too
    assert_serves(url)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (CHUNKED + b"\r\n1\r\n{\r\n0\r\n", b"a:b\r\n"),
        (CHUNKED + b"\r\n1\r\n{\r\n0\r\na:", b"x" * 64),
        (CHUNKED + b"\r\n1;", b"x" * 64),
        (CHUNKED + b"\r\n", b"1;" + b"x" * 2000 + b"\r\n \r\n"),
    ],
    ids=["trailers", "one trailer", "one extension", "an extension of each chunk"],
)
def test_trailers_and_chunk_extensions_without_end_are_cut_off(url: str, start: bytes, more: bytes) -> None:
    authenticated = start.replace(b"host: x", f"host: x\r\nx-api-key: {KEY}\r\nanthropic-version: 1".encode())
    sent, received = _flood(url, authenticated, more, 50 * MB)
    assert sent < 20 * MB
    assert status_of(received) == 431
    assert_serves(url)


def test_many_small_chunks_are_served(url: str) -> None:
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    with connect(url) as peer:
        peer.sendall(CHUNKED + f"x-api-key: {KEY}\r\nanthropic-version: 1\r\n\r\n".encode() + body)
        reply = receive_until(peer, b"request_id")
    assert status_of(reply) == 400
    assert b"JSON" in reply or b"json" in reply


@pytest.mark.parametrize("trailer", [f"x-api-key: {KEY}", f"authorization: Bearer {KEY}", "x-forwarded-user: admin"])
@pytest.mark.parametrize("cut", [0, 1], ids=["one packet", "two packets"])
def test_a_trailer_is_not_a_header(trailer: str, cut: int) -> None:
    seen: list[bytes] = []

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        if scope["type"] == "http":
            seen.extend(name for name, _ in scope["headers"])  # type: ignore[attr-defined]

    with limited_server(app) as served, connect(served) as peer:  # type: ignore[arg-type]
        request = CHUNKED + b"\r\n1\r\n{\r\n0\r\n"
        for part in (
            (request + f"{trailer}\r\n\r\n".encode(),) if cut == 0 else (request, f"{trailer}\r\n\r\n".encode())
        ):
            peer.sendall(part)
            time.sleep(0.02)
        receive_until(peer, b"\r\n\r\n")
    assert seen == [b"host", b"connection", b"transfer-encoding"]


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
def test_a_credential_in_a_trailer_does_not_authenticate(url: str, name: str) -> None:
    value = KEY if name == "x-api-key" else f"Bearer {KEY}"
    request = CHUNKED + b"anthropic-version: 2023-06-01\r\n\r\n1\r\n{\r\n0\r\n" + f"{name}: {value}\r\n\r\n".encode()
    with connect(url) as peer:
        peer.sendall(request)
        assert status_of(receive_until(peer, b"\r\n\r\n")) == 401


def test_thirty_megabytes_of_header_lines_take_no_memory(url: str) -> None:
    before = _resident()
    for _ in range(10):
        _flood(url, REQUEST_LINE, b"a:b\r\n", 30 * MB)
    assert _resident() - before < 30 * MB


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Mounted in a server that bounds nothing.

MOUNTED: dict[str, Callable[[], dict[str, Any]]] = {
    "many lines": lambda: {"headers": [(b"a", b"b")] * 201},
    "300,000 lines": lambda: {"headers": [(b"a", b"b")] * 300_000},
    "300,000 names": lambda: {"headers": [(b"a%d" % number, b"b") for number in range(300_000)]},
    "a large value": lambda: {"headers": [(b"a", b"x" * 65 * KB)]},
    "large lines": lambda: {"headers": [(b"a", b"x" * KB)] * 65},
    "a large path": lambda: {"path": "/" + "x" * 65 * KB},
    "a large query": lambda: {"query_string": b"x" * 65 * KB},
}


@pytest.mark.parametrize("make", MOUNTED.values(), ids=MOUNTED.keys())
async def test_a_mounted_app_refuses_such_a_head_before_it_authenticates(
    app: MessagesApp, make: Callable[[], dict[str, Any]]
) -> None:
    scope, receive = http_scope(**make()), Receiving()
    began = time.thread_time()
    sent = await call(app, scope, receive)
    assert time.thread_time() - began < 0.1
    assert sent.status == 431
    assert sent.error["type"] == "invalid_request_error"
    assert receive.calls == 0


async def test_a_mounted_app_serves_a_head_within_the_limits(app: MessagesApp) -> None:
    lines = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    lines += [(b"a%d" % number, b"x" * 300) for number in range(190)]
    assert (
        await call(app, http_scope(headers=lines), Receiving({"type": "http.request", "body": b"{}"}))
    ).status == 400
