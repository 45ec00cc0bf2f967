"""Ending an exchange: cancelled or closed at every point, the peer sees the end and nothing stays open."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from differences import Client
from peer import CHUNKED, OK, Certificates, Line, Peer, ask, is_silent, read, says

from bud_asgi.http import HttpError, HttpRequest, Origin

SOON = 0.2


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def peer_sees_the_end(peer: Peer, client: Client) -> None:
    await asyncio.wait_for(peer.lines[-1].gone.wait(), SOON)
    assert (client.open, client.idle) == (0, 0)


async def test_cancelled_while_waiting_for_the_head(client: Client) -> None:
    async with Peer(is_silent) as peer:
        task = asyncio.create_task(client.send(ask(peer)))
        await asyncio.wait_for(peer.arrived.wait(), 5)
        await asyncio.sleep(0.05)
        await cancel(task)
        await peer_sees_the_end(peer, client)


async def test_cancelled_while_30_mb_are_going_up(client: Client) -> None:
    cancelled = asyncio.Event()

    async def script(line: Line) -> None:
        await line.head()
        await cancelled.wait()
        await line.watch()

    async with Peer(script) as peer:
        task = asyncio.create_task(client.send(ask(peer, body=b"x" * 30_000_000)))
        await asyncio.wait_for(peer.arrived.wait(), 5)
        await asyncio.sleep(0.1)
        await cancel(task)
        await asyncio.sleep(0.02)
        assert client.open == 0
        cancelled.set()
        await peer_sees_the_end(peer, client)


async def test_cancelled_while_reading_and_closed(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + b"1\r\na\r\n")
        await line.watch()

    async with Peer(script) as peer:
        reply = await client.send(ask(peer))
        assert await reply.more() == b"a"
        task = asyncio.create_task(reply.more())
        await asyncio.sleep(0.02)
        await cancel(task)
        assert client.open == 1
        reply.close()
        await peer_sees_the_end(peer, client)


async def test_a_cancelled_read_loses_nothing(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED)
        await asyncio.sleep(0.05)
        await line.say(b"1\r\na\r\n0\r\n\r\n")
        await line.watch()

    async with Peer(script) as peer:
        reply = await client.send(ask(peer))
        task = asyncio.create_task(reply.more())
        await asyncio.sleep(0.02)
        await cancel(task)
        assert await read(reply) == b"a"


async def test_an_abandoned_reply_is_closed_at_once(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + b"1\r\na\r\n")
        await line.watch()

    async with Peer(script) as peer:
        (await client.send(ask(peer))).close()
        await peer_sees_the_end(peer, client)


async def test_cancelled_within_the_tls_handshake(client: Client, certificates: Certificates) -> None:
    async with Peer(Line.watch) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        task = asyncio.create_task(client.send(HttpRequest(origin, b"GET", b"/", [])))
        await asyncio.wait_for(peer.arrived.wait(), 1)
        await asyncio.sleep(0.02)
        await cancel(task)
        await peer_sees_the_end(peer, client)


async def test_closing_a_finished_reply_does_not_touch_the_connection_that_serves_another(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()
        await line.say(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(0.05)
        await line.say(b"1\r\nb\r\n0\r\n\r\n")
        await line.watch()

    async with Peer(script) as peer:
        first = await client.send(ask(peer))
        second = await client.send(ask(peer))
        first.close()
        assert await read(second) == b"ab"
        assert len(peer.lines) == 1


async def test_cancelled_at_any_moment_nothing_leaks_and_no_other_exchange_suffers(client: Client) -> None:
    async with Peer(says(CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n")) as peer:

        async def whole() -> bytes:
            reply = await client.send(ask(peer, body=b"x" * 100_000))
            try:
                return await read(reply)
            finally:
                reply.close()

        rng = random.Random(7)
        for _ in range(100):
            doomed = asyncio.create_task(whole())
            spared = asyncio.create_task(whole())
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.004)
            doomed.cancel()
            assert await spared == b"abc"
            await asyncio.gather(doomed, return_exceptions=True)
        await asyncio.sleep(0.02)
        assert client.open == client.idle <= 2


async def test_a_loop_may_end_right_after_aclose_with_replies_open(client: Client) -> None:
    async with Peer(says(CHUNKED)) as peer:
        reply = await client.send(ask(peer))
        await client.aclose()
        with pytest.raises(HttpError):
            await reply.more()


async def test_cancelled_at_any_turn_of_dialling_nothing_leaks(client: Client) -> None:
    async with Peer(says(CHUNKED)) as peer:
        for turns in range(60):
            task = asyncio.create_task(client.send(ask(peer)))
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0001 * (turns % 7))
            task.cancel()
            for reply in await asyncio.gather(task, return_exceptions=True):
                if not isinstance(reply, BaseException):
                    reply.close()
        await asyncio.sleep(0.02)
        assert client.open == 0


async def test_a_peer_that_accepts_and_closes_is_a_reset_at_once(client: Client) -> None:
    async def script(line: Line) -> None:
        line.reset()

    async with Peer(script) as peer:
        for _ in range(20):
            with pytest.raises(HttpError) as failed:
                await asyncio.wait_for(client.send(ask(peer)), 2)
            assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("reset", False, False)
