"""Back-pressure: an unread reply uses little memory, whatever the peer sends."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from differences import Client, Httpx
from peer import CHUNKED, Certificates, Peer, PeerConnection, read
from support.waiting import until_still

from bud_asgi.http import Engine, HttpError, HttpRequest, Origin

OFFERED = 50 << 20

PEER_TLS = 256 << 10
"""Size of the read buffer of an asyncio TLS connection: the peer runs in this process and has one."""

STREAMS = {
    "large chunks": (CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n", 65536),
    "chunks of two bytes": (CHUNKED, b"2\r\nab\r\n" * 8192, 2 * 8192),
    "a length": (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % OFFERED, b"a" * 65536, 65536),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("head", "piece", "yields"), STREAMS.values(), ids=STREAMS.keys())
async def test_50_mb_sent_to_a_reader_that_does_not_read_use_less_than_1_mb(
    engine: Engine, certificates: Certificates, head: bytes, piece: bytes, yields: int, tls: bool
) -> None:
    count = 0

    async def script(connection: PeerConnection) -> None:
        nonlocal count
        await connection.request()
        await connection.send(head)
        while count < OFFERED // len(piece):
            await connection.send(piece)
            count += 1

    async with Peer(script, certificates.server if tls else None) as peer:
        origin = Origin("localhost", peer.port, certificates.client) if tls else peer.origin
        gc.collect()
        tracemalloc.start()
        try:
            reply = await engine.send(HttpRequest(origin, b"GET", b"/", []))
            offered = await until_still(lambda: count)
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert used - (PEER_TLS if tls else 0) < 1 << 20
        assert count == offered < OFFERED // len(piece)
        got = 0
        while got < 3 * (offered + 1) * yields // 2:
            data = await reply.more()
            assert data
            got += len(data)
        reply.close()


NOT_BODY = {
    "a trailer of 12 MB": (CHUNKED + b"1\r\na\r\n0\r\nx: ", b"a" * 65536),
    "many trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"x: " + b"a" * 1000 + b"\r\n"),
    "an endless chunk extension": (CHUNKED + b"1;x=", b"a" * 65536),
    "an endless header line": (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536),
}


@pytest.mark.parametrize(("begin", "more"), NOT_BODY.values(), ids=NOT_BODY.keys())
async def test_bytes_outside_the_body_are_refused_without_using_memory(
    client: Client, begin: bytes, more: bytes
) -> None:
    sent = 0

    async def script(connection: PeerConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(begin)
        while sent < 12 << 20:
            await connection.send(more)
            sent += len(more)

    async with Peer(script) as peer:
        with pytest.raises(HttpError):  # httpx imports modules on first use
            await read(await client.send(HttpRequest(peer.origin, b"GET", b"/", [])))
        gc.collect()
        sent = 0
        tracemalloc.start()
        try:
            with pytest.raises(HttpError) as failed:
                await read(await client.send(HttpRequest(peer.origin, b"GET", b"/", [])))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert failed.value.kind == "protocol"
        # Under httpx2, anyio queues what uvloop reads, 256 KB at a time.
        assert peak < (8 << 20 if isinstance(client, Httpx) else 1 << 20)
        assert sent < 12 << 20
