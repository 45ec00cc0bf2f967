"""A synchronous client that blocks the stand-in's own event loop gets an error instead of hanging."""

import socket

import pytest

from bud_asgi.testing import StandIn
from bud_asgi.testing.server import watchdog
from testing.raw_client import ask, wire


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BLOCKED_AFTER", 0.5)


def ask_blocking(upstream: StandIn) -> bytes:
    received = b""
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=30) as sock:
        sock.sendall(wire())
        while data := sock.recv(1 << 16):
            received += data
    return received


async def block_and_recover() -> None:
    async with StandIn() as upstream:
        for _ in range(2):
            received = ask_blocking(upstream)
            assert received.startswith(b"HTTP/1.1 500 ")
            assert b"in_thread()" in received
        assert upstream.requests == []
        assert (await ask(upstream, wire(), silence=5.0))[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_blocked_loop_is_reported_to_the_client_and_on_exit() -> None:
    with pytest.raises(RuntimeError, match=r"blocked.*in_thread\(\)"):
        await block_and_recover()


async def test_a_loop_that_runs_is_never_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.001)
    async with StandIn() as upstream:
        for _ in range(200):
            assert (await ask(upstream, wire(), silence=5.0))[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_refused_connections_are_refused_although_the_watchdog_has_the_listening_socket() -> None:
    async with StandIn() as upstream:
        await upstream.refuse_connections()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", upstream.port))
