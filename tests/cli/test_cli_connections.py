"""The connections of `bud-asgi serve`, as its clients see them: options, workers, file descriptors, stalled uploads."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cli_process import BUD_ASGI, KEY, environment, gateway_file, run, served
from support.calls import BODY
from support.ports import free_port
from support.server import HEALTH, LAST_HEALTH, assert_refused, assert_refuses, status_of
from support.sockets import connect, raw_exchange, receive_until
from support.waiting import answers, wait_until

UPLOAD = (
    f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\nanthropic-version: 2023-06-01\r\n"
    "content-length: 100\r\n\r\n{"
).encode()
FOREIGN = UPLOAD.replace(KEY.encode(), b"wrong")
TRAILER = (
    f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\nconnection: close\r\n"
    f"transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx-api-key: {KEY}\r\n\r\n"
).encode()


def command(folder: Path, *options: str, upstream: str = "http://127.0.0.1:9") -> Sequence[str]:
    return [*BUD_ASGI, "serve", str(gateway_file(folder, upstream)), "--port", "0", *options]


def test_the_limits_are_those_of_the_options(tmp_path: Path) -> None:
    options = ("--keep-alive", "1", "--limit-connections", "3", "--limit-concurrency", "2")
    with served(command(tmp_path, *options), environment()) as server, ExitStack() as stack:
        with connect(server.url) as peer:
            peer.sendall(HEALTH)
            receive_until(peer, b"\r\n\r\n")
            began = time.monotonic()
            assert peer.recv(1) == b""
            assert 0.4 < time.monotonic() - began < 15
        for _ in range(2):
            stack.enter_context(connect(server.url)).sendall(UPLOAD)
        wait_until(lambda: status_of(raw_exchange(server.url, UPLOAD)) == 529, "two requests are running")
        assert answers(f"{server.url}/healthz")
        refused = "refused requests before they reached the app: 1 with 529"
        wait_until(lambda: refused in "".join(server.words), "the refusal is logged")


def test_the_number_of_connections_is_limited(tmp_path: Path) -> None:
    with served(command(tmp_path, "--limit-connections", "2"), environment()) as server, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(server.url)).sendall(UPLOAD)
        wait_until(lambda: status_of(raw_exchange(server.url, LAST_HEALTH)) == 503, "two connections are in use")


def test_the_keep_alive_is_longer_than_that_of_a_balancer() -> None:
    shown = run("serve", "--help").stdout
    assert "[default: 75; x>=1]" in shown.replace("\n", " ")


def test_workers_have_the_same_connections(tmp_path: Path) -> None:
    port = str(free_port())
    with served(
        [*command(tmp_path)[:-2], "--port", port, "--workers", "2", "--keep-alive", "1"], environment()
    ) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/healthz"), "the server answers")
        assert_refused(
            raw_exchange(url, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 300 + b"\r\n"), 431, "invalid_request_error"
        )
        assert status_of(raw_exchange(url, TRAILER)) == 401
        assert server.stop()[0] == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_stalled_uploads_do_not_outlive_the_drain_timeout(tmp_path: Path, workers: Sequence[str]) -> None:
    port = str(free_port())
    options = ("--port", port, "--drain-timeout", "1", *workers)
    with served([*command(tmp_path)[:-2], *options], environment()) as server, ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/healthz"), "the server answers")
        for begun in (UPLOAD, FOREIGN, b"GET /heal", b"", HEALTH):
            for _ in range(10):
                stack.enter_context(connect(url)).sendall(begun)
        time.sleep(0.3)
        began = time.monotonic()
        status, _, words = server.stop()
        assert time.monotonic() - began < 15
        assert status == 0, words
        assert "Traceback" not in words


def test_silent_connections_do_not_use_up_the_file_descriptors(tmp_path: Path) -> None:
    limited = ["sh", "-c", f"ulimit -n 256 && exec {shlex.join(command(tmp_path))}"]
    with served(limited, environment()) as server:
        peers: list[socket.socket] = []
        for _ in range(300):
            with suppress(ConnectionError):
                peers.append(connect(server.url))
        wait_until(lambda: answers(f"{server.url}/healthz"), "callers get in")
        for _ in range(5):
            assert answers(f"{server.url}/healthz")
        for peer in peers:
            peer.close()
        assert server.stop()[0] == 0


def test_uvicorn_takes_it_as_an_option(tmp_path: Path) -> None:
    file = gateway_file(tmp_path)
    factory = ["--factory", "bud_asgi.config:from_env", "--http", "bud_asgi.server:http_protocol", "--port", "0"]
    with served([sys.executable, "-m", "uvicorn", *factory], environment(BUD_ASGI_CONFIG=str(file))) as server:
        assert_refuses(server.url, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 201 + b"\r\n", 431, "invalid_request_error")


def test_a_server_that_is_its_own_upstream_under_another_name_answers_508(tmp_path: Path) -> None:
    port = free_port()
    file = gateway_file(tmp_path, f"http://127.1:{port}")
    with served([*BUD_ASGI, "serve", str(file), "--host", "0.0.0.0", "--port", str(port)], environment()) as server:
        content = json.dumps(BODY).encode()
        head = UPLOAD.replace(
            b"content-length: 100\r\n\r\n{", b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
        )
        reply = raw_exchange(f"http://127.0.0.1:{port}", head + content)
        assert status_of(reply) == 508
        assert b"x-should-retry: false\r\n" in reply
        assert len(server.stop()[1].splitlines()) == 2
