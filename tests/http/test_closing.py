"""An exchange that is cancelled or closed at any point: the peer sees the connection close, and nothing stays open."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from differences import Client
from peer import CHUNKED, OK, Certificates, Peer, PeerConnection, never_reply, read, reply_with, request_to

from bud_asgi.http import HttpError, HttpRequest, Origin

SOON = 2.0


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def wait_for_close_at_peer(peer: Peer, client: Client) -> None:
    await asyncio.wait_for(peer.connections[-1].gone.wait(), SOON)
    assert (client.open, client.idle) == (0, 0)


async def test_cancelled_while_waiting_for_the_head(client: Client) -> None:
    async with Peer(never_reply) as peer:
        task = asyncio.create_task(client.send(request_to(peer)))
        await asyncio.wait_for(peer.accepted.wait(), 30)
        await asyncio.sleep(0.05)
        await cancel(task)
        await wait_for_close_at_peer(peer, client)


async def test_cancelled_during_an_upload_of_30_mb(client: Client) -> None:
    cancelled = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.head()
        await cancelled.wait()
        await connection.wait_closed()

    async with Peer(script) as peer:
        task = asyncio.create_task(client.send(request_to(peer, body=b"x" * 30_000_000)))
        await asyncio.wait_for(peer.accepted.wait(), 30)
        await asyncio.sleep(0.1)
        await cancel(task)
        await asyncio.sleep(0.02)
        assert client.open == 0
        cancelled.set()
        await wait_for_close_at_peer(peer, client)


async def test_cancelled_while_reading_then_closed(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED + b"1\r\na\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer))
        assert await reply.more() == b"a"
        task = asyncio.create_task(reply.more())
        await asyncio.sleep(0.02)
        await cancel(task)
        assert client.open == 1
        reply.close()
        await wait_for_close_at_peer(peer, client)


async def test_a_cancelled_read_loses_nothing(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED)
        await asyncio.sleep(0.05)
        await connection.send(b"1\r\na\r\n0\r\n\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer))
        task = asyncio.create_task(reply.more())
        await asyncio.sleep(0.02)
        await cancel(task)
        assert await read(reply) == b"a"


async def test_an_abandoned_reply_is_closed_at_once(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED + b"1\r\na\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        (await client.send(request_to(peer))).close()
        await wait_for_close_at_peer(peer, client)


async def test_cancelled_within_the_tls_handshake(client: Client, certificates: Certificates) -> None:
    async with Peer(PeerConnection.wait_closed) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        task = asyncio.create_task(client.send(HttpRequest(origin, b"GET", b"/", [])))
        await asyncio.wait_for(peer.accepted.wait(), 1)
        await asyncio.sleep(0.02)
        await cancel(task)
        await wait_for_close_at_peer(peer, client)


async def test_closing_a_finished_reply_leaves_its_connection_to_the_next_exchange(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await connection.send(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(0.05)
        await connection.send(b"1\r\nb\r\n0\r\n\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        first = await client.send(request_to(peer))
        second = await client.send(request_to(peer))
        first.close()
        assert await read(second) == b"ab"
        assert len(peer.connections) == 1


async def test_cancelled_at_any_moment_nothing_leaks_and_no_other_exchange_suffers(client: Client) -> None:
    async with Peer(reply_with(CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n")) as peer:

        async def read_whole() -> bytes:
            reply = await client.send(request_to(peer, body=b"x" * 100_000))
            try:
                return await read(reply)
            finally:
                reply.close()

        rng = random.Random(7)
        for _ in range(100):
            cancelled = asyncio.create_task(read_whole())
            other = asyncio.create_task(read_whole())
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.004)
            cancelled.cancel()
            assert await other == b"abc"
            await asyncio.gather(cancelled, return_exceptions=True)
        await asyncio.sleep(0.02)
        assert client.open == client.idle <= 2


async def test_a_loop_may_end_right_after_aclose_with_replies_open(client: Client) -> None:
    async with Peer(reply_with(CHUNKED)) as peer:
        reply = await client.send(request_to(peer))
        await client.aclose()
        with pytest.raises(HttpError):
            await reply.more()


async def test_cancelled_at_any_loop_iteration_of_dialling_nothing_leaks(client: Client) -> None:
    async with Peer(reply_with(CHUNKED)) as peer:
        for iterations in range(60):
            task = asyncio.create_task(client.send(request_to(peer)))
            for _ in range(iterations % 12):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0001 * (iterations % 7))
            task.cancel()
            for reply in await asyncio.gather(task, return_exceptions=True):
                if not isinstance(reply, BaseException):
                    reply.close()
        await asyncio.sleep(0.02)
        assert client.open == 0


async def test_a_peer_that_accepts_and_closes_is_a_reset_at_once(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        connection.reset()

    async with Peer(script) as peer:
        for _ in range(20):
            with pytest.raises(HttpError) as failed:
                await asyncio.wait_for(client.send(request_to(peer)), 2)
            assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("reset", False, False)
