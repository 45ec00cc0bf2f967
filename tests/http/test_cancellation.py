"""Cancelled or closed at any suspension point: no connection killed that belongs to another, none leaked.

A seed is one round: some exchanges run side by side over shared connections, some of them are ended after a number of
the loop's turns. 300 seeds in `make test` (30 for engines that are not ours), 10,000 in `make torture`.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from differences import Client, Httpx
from peer import CHUNKED, Certificates, Line, Peer, read

from bud_asgi.http import HttpRequest, Origin, Timeouts

TORTURE = "BUD_ASGI_TORTURE" in os.environ
SEEDS = 10_000 if TORTURE else 300
SEEDS_OF_OTHERS = 10_000 if TORTURE else 30
TIMEOUTS = Timeouts(connect=20, first_byte=20, silence=20)


async def echoes(line: Line) -> None:
    """Answer with the target: at once or in pieces, framed one way or the other, after some interim replies."""
    while True:
        request = await line.request()
        target = request.split(b" ", 2)[1]
        rng = random.Random(target)
        await line.say(b"HTTP/1.1 102 x\r\n\r\n" * rng.randrange(3))
        await asyncio.sleep(rng.choice([0, 0, 0.002]))
        if rng.random() < 0.5:
            await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(target) + target[:3], target[3:])
        else:
            await line.say(CHUNKED, b"1\r\n/\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(target) - 1, target[1:]))


async def whole(client: Client, origin: Origin, target: bytes, size: int) -> bytes:
    request = HttpRequest(origin, b"POST", target, [], b"x" * size, TIMEOUTS)
    reply = await client.send(request)
    try:
        return await read(reply)
    finally:
        reply.close()


async def abandoned(client: Client, origin: Origin, target: bytes, size: int) -> bytes:
    reply = await client.send(HttpRequest(origin, b"POST", target, [], b"x" * size, TIMEOUTS))
    await reply.more(within=0)
    reply.close()
    reply.close()
    return b""


async def play(seed: int, client: Client, origin: Origin) -> None:
    rng = random.Random(seed)
    exchanges = {
        target: asyncio.create_task(
            rng.choice([whole, whole, whole, abandoned])(client, origin, target, rng.choice([0, 2, 100_000, 600_000]))
        )
        for target in (b"/%d/%d" % (seed, number) for number in range(rng.randrange(2, 5)))
    }
    doomed = rng.sample(sorted(exchanges), rng.randrange(1, len(exchanges)))
    for target in doomed:
        for _ in range(rng.randrange(25)):
            await asyncio.sleep(rng.choice([0, 0, 0, 0.0005]))
        exchanges[target].cancel()
    for target, exchange in exchanges.items():
        if target in doomed:
            await asyncio.gather(exchange, return_exceptions=True)
        else:
            assert await exchange in {target, b""}, f"seed {seed}"


@pytest.mark.torture
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_no_connection_is_leaked_or_killed_under_another(
    client: Client, certificates: Certificates, tls: bool
) -> None:
    tls = tls and not isinstance(client, Httpx)  # as differences.LEAKS says: over TLS it would warn of its own
    async with Peer(echoes, certificates.server if tls else None) as peer:
        origin = Origin("localhost", peer.port, certificates.client) if tls else peer.origin
        for seed in range(SEEDS_OF_OTHERS if isinstance(client, Httpx) else SEEDS):
            await play(seed, client, origin)
            if isinstance(client, Httpx):
                continue  # differences.LEAKS, sometimes
            for _ in range(100):
                if client.open == client.idle == sum(not line.over.is_set() for line in peer.lines):
                    break
                await asyncio.sleep(0.005)
            up = sum(not line.over.is_set() for line in peer.lines)
            assert client.open == client.idle == up, f"seed {seed}"
            peer.forget()
