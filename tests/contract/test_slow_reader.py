"""A client that reads slowly: what it has not read yet waits at the upstream, not in the gateway's memory."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from bud_asgi.testing import StandIn, big_stream
from contract.line import STREAM

SIZE = 200_000_000
AHEAD = 4 << 20
"""The most that the process may hold for its client, in bytes."""

HEAD = (
    b"POST /llm/v1/messages HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n" % len(STREAM)
)


@pytest.fixture
def served() -> Generator[httpx.URL]:
    with StandIn(strict=False, send_buffer=1 << 18).in_thread() as upstream:
        upstream.enqueue(big_stream(1_000_000), big_stream(SIZE))
        command = [sys.executable, str(Path(__file__).with_name("served.py")), upstream.base_url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield httpx.URL(process.stdout.readline().strip())
            process.stdin.close()


def _peak(served: httpx.URL) -> int:
    return int(httpx.get(served.copy_with(path="/peak")).text)


def _read(served: httpx.URL, size: int, *, pause: float, each: int) -> tuple[int, bytes]:
    """Ask, and read up to `size` bytes with a pause after every so many; how many came, and the last of them."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.connect((served.host, served.port or 80))
        client.sendall(HEAD + STREAM)
        received, last, until = 0, b"", each
        while received < size and (chunk := client.recv(1 << 20)):
            received += len(chunk)
            last = (last + chunk)[-100:]
            if received >= until:
                until += each
                time.sleep(pause)
    return received, last


def test_a_slow_reader_of_200_mb_costs_four_of_memory(served: httpx.URL) -> None:
    _read(served, SIZE, pause=0.0, each=SIZE)  # the short one: now all is loaded that will be needed
    before = _peak(served)
    received, last = _read(served, 2 * SIZE, pause=0.05, each=SIZE // 20)
    assert received > SIZE
    assert b"message_stop" in last
    assert _peak(served) - before <= AHEAD
