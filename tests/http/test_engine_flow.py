"""Back-pressure: a reader that does not read holds little memory, whatever the peer sends."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from peer import CHUNKED, Certificates, Line, Peer

from bud_asgi.http import Engine, HttpRequest, Origin

OFFERED = 50 << 20

PEER_TLS = 256 << 10
"""The peer lives in this process: a TLS connection of asyncio has a read buffer of this size, and this one is its."""

STREAMS = {
    "large chunks": (CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n", 65536),
    "chunks of two bytes": (CHUNKED, b"2\r\nab\r\n" * 8192, 2 * 8192),
    "a length": (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % OFFERED, b"a" * 65536, 65536),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("head", "piece", "yields"), STREAMS.values(), ids=STREAMS.keys())
async def test_50_mb_to_a_reader_that_does_not_read_hold_less_than_1_mb(
    engine: Engine, certificates: Certificates, head: bytes, piece: bytes, yields: int, tls: bool
) -> None:
    count = 0

    async def script(line: Line) -> None:
        nonlocal count
        await line.request()
        await line.say(head)
        while count < OFFERED // len(piece):
            await line.say(piece)
            count += 1

    async with Peer(script, certificates.server if tls else None) as peer:
        origin = Origin("localhost", peer.port, certificates.client) if tls else peer.origin
        gc.collect()
        tracemalloc.start()
        try:
            reply = await engine.send(HttpRequest(origin, b"GET", b"/", []))
            await asyncio.sleep(0.25)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert held - (PEER_TLS if tls else 0) < 1 << 20
        offered = count
        await asyncio.sleep(0.05)
        assert count == offered < OFFERED // len(piece)
        got = 0
        while got < 3 * (offered + 1) * yields // 2:
            data = await reply.more()
            assert data
            got += len(data)
        reply.close()
