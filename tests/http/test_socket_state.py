"""What the operating system is set to do with a connection, and what it reports about it."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Iterator

import pytest
from peer import OK, Peer, never_reply, read, reply_with, request_to

from bud_asgi.http import Engine
from bud_asgi.http.dial import dial
from bud_asgi.http.socket_state import unread_check


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; the first one does not block."""
    ours, peers = socket.socketpair()
    with ours, peers:
        ours.setblocking(False)
        yield ours, peers


@pytest.fixture(params=["poll", "no poll"])
def without_poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no `select.poll`, and libraries that replace blocking functions remove it."""
    if request.param == "no poll":
        monkeypatch.delattr(select, "poll")


@pytest.mark.usefixtures("without_poll")
def test_unread_bytes_and_the_end_are_seen_without_reading(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peers = pair
    has_unread = unread_check(ours)
    assert not has_unread()
    peers.send(b"x")
    assert has_unread()
    assert has_unread()
    assert ours.recv(10) == b"x"
    assert not has_unread()
    peers.close()
    assert has_unread()


async def test_the_engine_works_where_select_has_no_poll(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A used connection is reused, and one that the peer has closed meanwhile is not."""
    monkeypatch.delattr(select, "poll")
    async with Peer(reply_with(OK)) as peer:
        for _ in range(2):
            assert await read(await engine.send(request_to(peer))) == b"ok"
        assert len(peer.connections) == 1
        peer.connections[0].send_now(OK)
        assert await read(await engine.send(request_to(peer))) == b"ok"
        assert len(peer.connections) == 2


async def test_a_silent_peer_is_probed_from_a_minute_on() -> None:
    """Replies that are not streamed may take minutes, and middleboxes drop a flow that is silent for as long."""
    made: list[socket.socket] = []

    def make(connected: socket.socket) -> asyncio.BufferedProtocol:
        made.append(connected)
        return asyncio.BufferedProtocol()

    async with Peer(never_reply) as peer:
        await dial(peer.origin, make, 5)
        options = made[0]
        assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if sys.platform == "linux":
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 60
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 5
        options.shutdown(socket.SHUT_RDWR)
