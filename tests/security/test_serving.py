"""A client without a key cannot hold connections, descriptors or bytes of `bud-asgi serve`, nor disturb its others."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from support.calls import HEADERS
from support.gateway import messages_app
from support.server import (
    HEALTH,
    LAST_HEALTH,
    TICK,
    assert_refused,
    assert_refuses,
    assert_serves,
    limited_server,
    status_of,
)
from support.sockets import connect, raw_exchange, receive_until, request_head
from support.waiting import answers, wait_until

from bud_asgi import MessagesApp
from bud_asgi.clock import Timing

SHORT = 0.15
CHUNKED = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: wrong\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def app() -> MessagesApp:
    return messages_app("http://127.0.0.1:9", timing=Timing(discard_within=0.3))


def _read_all(peer: socket.socket) -> bytes:
    received = b""
    while chunk := peer.recv(65536):
        received += chunk
    return received


def _seconds_until_refused(peer: socket.socket, data: bytes) -> float:
    """How long a server accepts `data`, sent again and again."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - began < 30.0:
            peer.sendall(data)
            time.sleep(TICK)
    return time.monotonic() - began


def _seconds_until_closed(peer: socket.socket) -> float:
    began = time.monotonic()
    assert _read_all(peer) == b""
    return time.monotonic() - began


def test_a_silent_connection_is_closed(app: MessagesApp) -> None:
    with limited_server(app, first_byte=SHORT, keep_alive=60.0) as url, connect(url) as peer:
        assert SHORT - TICK <= _seconds_until_closed(peer) < 10.0


def test_empty_lines_do_not_keep_a_connection_open(app: MessagesApp) -> None:
    with limited_server(app, first_byte=SHORT) as url, connect(url) as peer:
        assert _seconds_until_refused(peer, b"\r\n") < 10.0


def test_an_idle_connection_is_kept_for_the_next_request_and_then_closed(app: MessagesApp) -> None:
    with limited_server(app, first_byte=0.3, keep_alive=2.0) as url, connect(url) as peer:
        for _ in range(2):
            peer.sendall(HEALTH)
            assert status_of(receive_until(peer, b"\r\n\r\n")) == 200
            time.sleep(0.5)
        assert 2.0 - 0.5 - 2 * TICK <= _seconds_until_closed(peer) < 20.0


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["the first request", "a later request"])
@pytest.mark.parametrize("begun", [b"GET /", b"GET /healthz HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: x\r\na: "])
def test_a_dripping_head_is_refused_at_the_deadline(app: MessagesApp, before: bytes, begun: bytes) -> None:
    with limited_server(app, head_timeout=SHORT) as url, connect(url) as peer:
        if before:
            peer.sendall(before)
            receive_until(peer, b"\r\n\r\n")
        peer.sendall(begun)
        peer.settimeout(TICK)
        began, received = time.monotonic(), b""
        while not received and time.monotonic() - began < 30.0:
            try:
                received = peer.recv(65536)
            except TimeoutError:
                peer.sendall(b"a")
        assert SHORT - TICK <= time.monotonic() - began < 10.0
        assert_refused(received, 408, "timeout_error")


def test_a_slow_body_is_not_a_slow_head(app: MessagesApp) -> None:
    limits: dict[str, Any] = {"head_timeout": SHORT, "first_byte": SHORT, "keep_alive": SHORT}
    with limited_server(_reads_the_body, **limits) as url, connect(url) as peer:
        peer.sendall(request_head(4))
        for byte in (b"a", b"b", b"c", b"d"):
            time.sleep(0.1)
            peer.sendall(byte)
        assert receive_until(peer, b"abcd")


async def _reads_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def small() -> Generator[str]:
    app = messages_app("http://127.0.0.1:9")
    with limited_server(app, connections=4, linger=0.2, idle_grace=0.2) as url:
        yield url


def _busy(url: str, count: int) -> list[socket.socket]:
    """Connections on which a request is running: its body does not come."""
    peers = [connect(url) for _ in range(count)]
    for peer in peers:
        peer.sendall(request_head(10, "/v1/messages"))
    return peers


IDLE = {
    "silent": b"",
    "dripping": b"GET /heal",
    "idle after a request": HEALTH,
    "dripping after a request": HEALTH + b"GET /heal",
}


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE.keys())
def test_connections_without_a_request_do_not_keep_callers_out(small: str, sent: bytes) -> None:
    peers = [connect(small) for _ in range(40)]
    for peer in peers:
        with suppress(ConnectionError):
            peer.sendall(sent)
    wait_until(lambda: answers(f"{small}/healthz"), "callers get in")
    for _ in range(3):
        assert_serves(small)
    for peer in peers:
        peer.close()


def test_an_idle_connection_is_not_closed_while_there_is_room(small: str) -> None:
    with connect(small) as one, connect(small) as two:
        for peer in (one, two, one, two):
            peer.sendall(HEALTH)
            receive_until(peer, b"\r\n\r\n")
            assert_serves(small)


def test_a_caller_is_not_cut_off_by_those_who_come_after_it(small: str) -> None:
    with connect(small) as caller:
        floods = [connect(small) for _ in range(20)]
        caller.sendall(LAST_HEALTH)
        assert status_of(_read_all(caller)) == 200
        for peer in floods:
            peer.close()


def test_connections_beyond_the_limit_get_a_503_and_callers_get_in_again(small: str) -> None:
    busy = _busy(small, 4)
    wait_until(lambda: status_of(raw_exchange(small, LAST_HEALTH)) == 503, "the limit is reached")
    reply = raw_exchange(small, LAST_HEALTH)
    assert_refused(reply, 503, "api_error")
    assert b"retry-after: 1\r\n" in reply
    busy.pop().close()
    wait_until(lambda: status_of(raw_exchange(small, LAST_HEALTH)) == 200, "callers get in")
    for peer in busy:
        peer.close()


def test_a_flood_of_connections_does_not_pile_up_behind_the_limit(small: str) -> None:
    busy = _busy(small, 4)
    wait_until(lambda: status_of(raw_exchange(small, LAST_HEALTH)) == 503, "the limit is reached")
    time.sleep(0.5)
    peers = [connect(small) for _ in range(60)]
    answered = 0
    for peer in peers:
        with suppress(ConnectionResetError):
            answered += bool(_read_all(peer))
    assert 1 <= answered <= 20  # the others are closed at once, without an answer
    for peer in (*busy, *peers):
        peer.close()
    wait_until(lambda: status_of(raw_exchange(small, LAST_HEALTH)) == 200, "callers get in")


def test_requests_beyond_the_limit_get_a_529_while_health_checks_are_answered() -> None:
    app = messages_app("http://127.0.0.1:9")
    head = request_head(10, "/v1/messages").replace(b"host: x", b"host: x\r\nconnection: close")
    with limited_server(app, concurrency=2) as url, connect(url) as one, connect(url) as two:
        one.sendall(head)
        two.sendall(head)  # both wait for their bodies
        wait_until(lambda: status_of(raw_exchange(url, head + b"0123456789")) == 529, "the limit is reached")
        reply = raw_exchange(url, head)
        assert_refused(reply, 529, "overloaded_error")
        assert b"retry-after: 1\r\n" in reply
        assert_serves(url)
        one.close()
        wait_until(lambda: status_of(raw_exchange(url, head + b"0123456789")) == 400, "a place is free")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("framing", ["chunked", "declared"])
def test_an_upload_that_is_refused_early_can_read_its_answer_and_is_cut_off(loop: str, framing: str) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b"no"})

    size = 64 << 20
    head = CHUNKED + b"%x\r\n" % size if framing == "chunked" else request_head(size)
    with limited_server(refuses, loop=loop, linger=0.5, linger_bytes=1 << 20) as url, connect(url) as peer:
        peer.sendall(head)
        sent, received = 0, b""
        peer.settimeout(0.3)
        try:
            while sent < size:
                sent += peer.send(b"x" * 65536)
        except (TimeoutError, ConnectionError):
            pass
        received = peer.recv(65536)
        assert status_of(received) == 401
        assert sent < 16 << 20  # what the sockets buffer, and the bound


def test_an_upload_that_is_refused_early_is_cut_off_after_some_seconds(app: MessagesApp) -> None:
    with limited_server(app, linger=0.3) as url, connect(url) as peer:
        peer.sendall(request_head(1000, "/nothing"))
        assert status_of(receive_until(peer, b"request_id")) == 404
        assert _seconds_until_refused(peer, b"x") < 4.0


def test_the_rest_of_a_refused_body_is_not_taken_for_the_next_request(app: MessagesApp) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with limited_server(app) as url, connect(url) as peer:
        peer.sendall(request_head(len(smuggled), "/nothing"))
        receive_until(peer, b"}")
        peer.sendall(smuggled)
        assert b"HTTP/1.1" not in _read_all(peer)


def test_a_client_that_expects_100_continue_and_is_refused_cannot_have_its_next_request_read_as_a_body(
    app: MessagesApp,
) -> None:
    head = request_head(50, "/nothing").replace(b"host: x", b"host: x\r\nexpect: 100-continue")
    with limited_server(app, linger=0.2) as url, connect(url) as peer:
        peer.sendall(head)
        receive_until(peer, b"request_id")
        assert _read_all(peer)[-1:] in {b"", b"}"}  # closed, so the client has to connect again


def test_a_client_that_does_not_read_its_last_answer_does_not_hold_the_connection() -> None:
    async def much(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b"x" * (32 << 20)})

    with limited_server(much, close_timeout=0.2) as url, connect(url) as peer:
        peer.sendall(HEALTH)
        time.sleep(2.0)
        received = 0
        with suppress(ConnectionResetError):
            while chunk := peer.recv(1 << 20):
                received += len(chunk)
        assert received < 32 << 20


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_that_reads_slowly_gets_all_of_its_last_answer(loop: str) -> None:
    async def much(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b"x" * (16 << 20)})

    with limited_server(much, loop=loop, close_timeout=2.0) as url, connect(url) as peer:
        peer.sendall(HEALTH)
        received = 0
        while chunk := peer.recv(1 << 20):
            received += len(chunk)
            time.sleep(0.15)
        assert received > 16 << 20


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\n a\n\n",
        b"G\0T / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnot hex\r\n",
    ],
)
def test_what_is_not_http_gets_a_400_in_the_envelope(app: MessagesApp, garbage: bytes) -> None:
    with limited_server(app) as url:
        assert_refuses(url, garbage, 400, "invalid_request_error")


def test_garbage_behind_a_request_is_answered_after_it(app: MessagesApp) -> None:
    with limited_server(app) as url:
        replies = raw_exchange(url, HEALTH + b"\x00\x00\r\n\r\n")
        first, second = replies.split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200")
        assert_refused(b"HTTP/1.1 " + second, 400, "invalid_request_error")


def test_a_request_whose_body_becomes_garbage_is_not_answered_twice() -> None:
    with limited_server(_reads_the_body) as url:
        reply = raw_exchange(url, CHUNKED + b"1\r\na\r\nzz\r\n")
        assert reply.count(b"HTTP/1.1 ") == 1
        assert_refused(reply, 400, "invalid_request_error")


def test_an_upgrade_is_ignored_and_the_connection_serves_on(app: MessagesApp) -> None:
    upgrading = HEALTH.replace(b"host: x", b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c")
    with limited_server(app) as url, connect(url) as peer:
        for request in (upgrading, HEALTH, upgrading):
            peer.sendall(request)
            assert status_of(receive_until(peer, b"\r\n\r\n")) == 200


def test_the_key_of_a_caller_is_not_in_what_is_refused(app: MessagesApp, caplog: pytest.LogCaptureFixture) -> None:
    with limited_server(app) as url:
        reply = raw_exchange(url, b"GET / HTTP/1.1\r\nx-api-key: CANARY\r\nbad header\r\n\r\n")
        time.sleep(3 * TICK)
    assert b"CANARY" not in reply
    assert "CANARY" not in caplog.text
    assert "refused requests before they reached the app: 1 with 400" in caplog.text
    assert HEADERS["x-api-key"] not in caplog.text
