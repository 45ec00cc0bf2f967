"""Back-pressure: a reader that does not read holds little memory, whatever the peer sends."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from differences import Client, Httpx
from peer import CHUNKED, Certificates, Line, Peer, read

from bud_asgi.http import Engine, HttpError, HttpRequest, Origin

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


NO_BODY = {
    "a trailer of 12 MB": (CHUNKED + b"1\r\na\r\n0\r\nx: ", b"a" * 65536),
    "many trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"x: " + b"a" * 1000 + b"\r\n"),
    "an endless chunk extension": (CHUNKED + b"1;x=", b"a" * 65536),
    "an endless header line": (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536),
}


@pytest.mark.parametrize(("begin", "more"), NO_BODY.values(), ids=NO_BODY.keys())
async def test_bytes_that_are_no_body_are_refused_with_memory_flat(client: Client, begin: bytes, more: bytes) -> None:
    said = 0

    async def script(line: Line) -> None:
        nonlocal said
        await line.request()
        await line.say(begin)
        while said < 12 << 20:
            await line.say(more)
            said += len(more)

    async with Peer(script) as peer:
        with pytest.raises(HttpError):  # loads what httpx loads late
            await read(await client.send(HttpRequest(peer.origin, b"GET", b"/", [])))
        gc.collect()
        said = 0
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
        assert said < 12 << 20
