"""Timeouts and the coarse clock: first byte, silence, `within`, and an upload that the peer does not read."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from differences import Client
from peer import CHUNKED, OK, Peer, PeerConnection, never_reply, read, reply_with, request_to

from bud_asgi.clock import TICK, Clock
from bud_asgi.http import HttpError, Timeouts
from bud_asgi.options import OptionError

SLACK = TICK + 15.0
"""Most seconds that a timeout may be late on a busy machine."""


async def test_no_head_within_first_byte_is_a_timeout(client: Client) -> None:
    async with Peer(never_reply) as peer:
        began = time.monotonic()
        with pytest.raises(HttpError, match=r"no reply within 0\.3 s") as failed:
            await client.send(request_to(peer, timeouts=Timeouts(first_byte=0.3)))
        assert 0.3 <= time.monotonic() - began <= 0.3 + SLACK
        assert (failed.value.kind, failed.value.sent, failed.value.answered) == ("timeout", True, False)
        await asyncio.wait_for(peer.connections[0].gone.wait(), 2)


async def test_interim_replies_do_not_extend_first_byte(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        while True:
            await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.05)

    async with Peer(script) as peer:
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer, timeouts=Timeouts(first_byte=0.3)))
        assert (failed.value.kind, failed.value.answered) == ("timeout", True)


async def test_silence_within_the_reply_is_a_timeout_that_within_does_not_extend(client: Client) -> None:
    async with Peer(reply_with(CHUNKED + b"1\r\na\r\n")) as peer:
        reply = await client.send(request_to(peer, timeouts=Timeouts(silence=0.6)))
        assert await reply.more() == b"a"
        began = time.monotonic()
        assert await reply.more(within=0.1) is None
        with pytest.raises(HttpError, match=r"no data for 0\.6 s") as failed:
            await reply.more()
        assert 0.55 <= time.monotonic() - began <= 0.6 + SLACK
        assert (failed.value.kind, failed.value.answered) == ("timeout", True)


async def test_within_returns_none_and_loses_nothing(client: Client) -> None:
    proceed = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED + b"1\r\na\r\n")
        await proceed.wait()
        await connection.send(b"1\r\nb\r\n0\r\n\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer))
        assert await reply.more(within=0.3) == b"a"
        began = time.monotonic()
        assert await reply.more(within=0.3) is None
        assert 0.3 <= time.monotonic() - began <= 0.3 + SLACK
        proceed.set()
        assert await read(reply) == b"b"
        assert client.idle == 1


async def test_bytes_outside_the_body_do_not_wake_the_reader(client: Client) -> None:
    async with Peer(reply_with(CHUNKED, b"1", b";x=", b"y", b"\r\n", b"a", b"\r\n0\r\n", b"t: v\r\n", b"\r\n")) as peer:
        reply = await client.send(request_to(peer))
        assert await reply.more(within=5) == b"a"
        assert await reply.more(within=5) == b""


async def test_a_reader_that_does_not_wait_is_not_timed_out(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED, b"2\r\nok\r\n")
        await asyncio.sleep(0.55)
        await connection.send(b"0\r\n\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer, timeouts=Timeouts(silence=0.3)))
        await asyncio.sleep(0.7)
        assert await read(reply) == b"ok"


async def test_an_upload_that_the_peer_does_not_read_is_a_timeout(client: Client) -> None:
    stop = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.head()
        await stop.wait()

    async with Peer(script) as peer:
        with pytest.raises(HttpError, match="no byte of the request accepted") as failed:
            await client.send(request_to(peer, body=b"x" * 30_000_000, timeouts=Timeouts(first_byte=0.1, silence=0.4)))
        assert (failed.value.kind, failed.value.sent, failed.value.answered) == ("timeout", True, False)
        stop.set()


async def test_a_slow_upload_that_progresses_is_not_a_timeout(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.head()
        left = 8_000_000
        while left:
            left -= len(await connection.reader.readexactly(min(left, 1_000_000)))
            await asyncio.sleep(0.1)
        await connection.send(OK)
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(
            request_to(peer, body=b"x" * 8_000_000, timeouts=Timeouts(first_byte=1.2, silence=0.6))
        )
        assert await read(reply) == b"ok"


async def test_the_clock_ticks_only_while_something_is_watched() -> None:
    ticks: list[float] = []

    class Once:
        def on_tick(self, now: float) -> None:
            ticks.append(now)
            clock.unwatch(self)

    clock = Clock(asyncio.get_running_loop())
    assert not clock.ticking
    once = Once()
    clock.watch(once)
    clock.watch(once)
    assert clock.ticking
    await asyncio.sleep(TICK + 0.1)
    assert not clock.ticking
    clock.unwatch(once)
    assert len(ticks) == 1


@pytest.mark.parametrize("option", ["connect", "first_byte", "silence"])
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, "5", None, True])
def test_a_timeout_that_is_not_a_positive_number_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(OptionError) as refused:
        Timeouts(**{option: value})  # pyright: ignore[reportArgumentType] - wrong on purpose
    assert refused.value.option == option
    assert "expected a number of seconds, more than 0" in str(refused.value)


def test_any_positive_number_is_a_timeout() -> None:
    timeouts = Timeouts(connect=1, first_byte=0.001, silence=math.inf)
    assert (timeouts.connect, timeouts.first_byte, timeouts.silence) == (1, 0.001, math.inf)
