"""Cancelling or closing an exchange at any suspension point neither leaks a connection nor closes one used by another.

Each seed is one round: exchanges run concurrently over shared connections, and some are cancelled after a number of
loop iterations. `make test` runs 100 seeds (10 for the httpx engines), `make torture` 10,000.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from differences import Client, Httpx
from peer import CHUNKED, Certificates, Peer, PeerConnection, read

from bud_asgi.http import HttpRequest, Origin, Timeouts

TORTURE = "BUD_ASGI_TORTURE" in os.environ
SEEDS = 10_000 if TORTURE else 40
HTTPX_SEEDS = 10_000 if TORTURE else 5
TIMEOUTS = Timeouts(connect=20, first_byte=20, silence=20)


async def echo_target(connection: PeerConnection) -> None:
    """Answer with the target, at once or in parts, with either framing, after some interim replies."""
    while True:
        request = await connection.request()
        target = request.split(b" ", 2)[1]
        rng = random.Random(target)
        await connection.send(b"HTTP/1.1 102 x\r\n\r\n" * rng.randrange(3))
        await asyncio.sleep(rng.choice([0, 0, 0.002]))
        if rng.random() < 0.5:
            await connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(target) + target[:3], target[3:]
            )
        else:
            await connection.send(CHUNKED, b"1\r\n/\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(target) - 1, target[1:]))


async def read_whole(client: Client, origin: Origin, target: bytes, size: int) -> bytes:
    request = HttpRequest(origin, b"POST", target, [], b"x" * size, TIMEOUTS)
    reply = await client.send(request)
    try:
        return await read(reply)
    finally:
        reply.close()


async def abandon(client: Client, origin: Origin, target: bytes, size: int) -> bytes:
    reply = await client.send(HttpRequest(origin, b"POST", target, [], b"x" * size, TIMEOUTS))
    await reply.more(within=0)
    reply.close()
    reply.close()
    return b""


async def run_round(seed: int, client: Client, origin: Origin) -> None:
    rng = random.Random(seed)
    exchanges = {
        target: asyncio.create_task(
            rng.choice([read_whole, read_whole, read_whole, abandon])(
                client, origin, target, rng.choice([0, 2, 100_000, 600_000])
            )
        )
        for target in (b"/%d/%d" % (seed, number) for number in range(rng.randrange(2, 5)))
    }
    cancelled = rng.sample(sorted(exchanges), rng.randrange(1, len(exchanges)))
    for target in cancelled:
        for _ in range(rng.randrange(25)):
            await asyncio.sleep(rng.choice([0, 0, 0, 0.0005]))
        exchanges[target].cancel()
    for target, exchange in exchanges.items():
        if target in cancelled:
            await asyncio.gather(exchange, return_exceptions=True)
        else:
            assert await exchange in {target, b""}, f"seed {seed}"


@pytest.mark.torture
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_no_connection_is_leaked_or_closed_while_another_exchange_uses_it(
    client: Client, certificates: Certificates, tls: bool
) -> None:
    async with Peer(echo_target, certificates.server if tls else None) as peer:
        origin = Origin("localhost", peer.port, certificates.client) if tls else peer.origin
        for seed in range(HTTPX_SEEDS if isinstance(client, Httpx) else SEEDS):
            await run_round(seed, client, origin)
            if isinstance(client, Httpx):
                continue  # see differences.LEAKS
            for _ in range(100):
                if (
                    client.open
                    == client.idle
                    == sum(not connection.finished.is_set() for connection in peer.connections)
                ):
                    break
                await asyncio.sleep(0.005)
            up = sum(not connection.finished.is_set() for connection in peer.connections)
            assert client.open == client.idle == up, f"seed {seed}"
            peer.discard_finished()
