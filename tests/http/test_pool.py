"""Which connection serves next: reuse, the one stale retry, what must never reach another caller."""

from __future__ import annotations

import asyncio
import socket

import pytest
from differences import Client
from peer import CHUNKED, OK, Line, Peer, Script, ask, is_silent, read, says

from bud_asgi.clock import TICK
from bud_asgi.http import Engine, HttpError, PoolLimits, PoolStats, Timeouts

SHORT = Timeouts(connect=5, first_byte=0.3, silence=5)


async def test_the_last_used_connection_serves_next(engine: Engine) -> None:
    async with Peer(says(OK)) as peer:
        for _ in range(2):
            await engine.send(ask(peer))
        assert (engine.open, engine.idle) == (1, 1)
        replies = await asyncio.gather(*(engine.send(ask(peer)) for _ in range(3)))
        assert [reply.take() for reply in replies] == [b"ok"] * 3
        assert (engine.open, engine.idle, len(peer.lines)) == (3, 3, 3)
        await engine.send(ask(peer))
        assert (engine.open, engine.idle, len(peer.lines)) == (3, 3, 3)


async def test_a_connection_is_free_when_its_reply_is_complete_though_nobody_has_read_it(client: Client) -> None:
    async with Peer(says(OK)) as peer:
        unread = await client.send(ask(peer))
        await read(await client.send(ask(peer)))
        assert len(peer.lines) == 1
        assert unread.take() == b"ok"


async def closes_on_reuse(line: Line) -> None:
    """Serve once; take the second request and leave without a word. Later connections serve."""
    await line.request()
    await line.say(OK)
    if line.number == 0:
        await line.request()
        return
    await line.watch()


async def resets_on_reuse(line: Line) -> None:
    """The same with a reset."""
    await line.request()
    await line.say(OK)
    if line.number == 0:
        await line.request()
        line.reset()
        return
    await line.watch()


@pytest.mark.parametrize("script", [closes_on_reuse, resets_on_reuse])
async def test_a_connection_that_ends_exactly_on_reuse_costs_one_retry(client: Client, script: Script) -> None:
    async with Peer(script) as peer:
        await read(await client.send(ask(peer)))
        assert await read(await client.send(ask(peer, body=[b"a", b"b"]))) == b"ok"
        assert client.stale_retries == 1
        assert len(peer.lines) == 2


async def test_the_retry_is_not_retried(engine: Engine) -> None:
    async def script(line: Line) -> None:
        if line.number == 0:
            await line.request()
            await line.say(OK)
        await line.request()

    async with Peer(script) as peer:
        await read(await engine.send(ask(peer)))
        with pytest.raises(HttpError) as failed:
            await engine.send(ask(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.sent) == ("reset", False, True)
        assert engine.stale_retries == 1
        assert len(peer.lines) == 2


async def test_a_reset_after_a_byte_came_back_is_not_retried(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()
        await line.say(b"H")

    async with Peer(script) as peer:
        await read(await client.send(ask(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(ask(peer))
        error = failed.value
        assert (error.kind, error.reused, error.sent, error.answered) == ("reset", True, True, True)
        assert (client.stale_retries, len(peer.lines)) == (0, 1)


async def test_a_reset_later_than_a_second_is_not_retried(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()
        await asyncio.sleep(1.1)

    async with Peer(script) as peer:
        await read(await client.send(ask(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(ask(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("reset", True, False)
        assert (client.stale_retries, len(peer.lines)) == (0, 1)


async def test_a_timeout_on_a_reused_connection_is_not_retried(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await is_silent(line)

    async with Peer(script) as peer:
        await read(await client.send(ask(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(ask(peer, timeouts=SHORT))
        assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("timeout", True, False)
        assert (client.stale_retries, len(peer.lines)) == (0, 1)


LATE = pytest.mark.parametrize("late", [OK, b"\r\n", b"rubbish"], ids=["a reply", "a line break", "rubbish"])


@LATE
async def test_what_arrives_on_an_idle_connection_ends_it_at_once(engine: Engine, late: bytes) -> None:
    async with Peer(says(OK)) as peer:
        await read(await engine.send(ask(peer)))
        await peer.lines[0].say(late)
        await asyncio.sleep(0.02)
        assert (engine.open, engine.idle) == (0, 0)


@LATE
@pytest.mark.parametrize("read_already", [True, False], ids=["read", "unread in the kernel"])
async def test_what_arrives_on_an_idle_connection_never_reaches_the_next_caller(
    client: Client, late: bytes, read_already: bool
) -> None:
    async with Peer(says(CHUNKED + b"5\r\nmine!\r\n0\r\n\r\n")) as peer:
        await read(await client.send(ask(peer)))
        # Nothing runs between this write and the next request, unless it shall be read.
        peer.lines[0].say_at_once(late)
        if read_already:
            await asyncio.sleep(0.02)
        assert await read(await client.send(ask(peer))) == b"mine!"
        assert (client.stale_retries, len(peer.lines)) == (0, 2)


async def test_a_second_reply_in_one_read_never_reaches_the_next_caller(client: Client) -> None:
    async with Peer(says(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nothers")) as peer:
        for _ in range(2):
            assert await read(await client.send(ask(peer))) == b"ok"


@pytest.mark.parametrize("read_already", [True, False], ids=["read", "unread in the kernel"])
async def test_an_idle_connection_that_the_peer_ended_is_not_used(client: Client, read_already: bool) -> None:
    async with Peer(says(OK)) as peer:
        await read(await client.send(ask(peer)))
        peer.lines[0].socket.shutdown(socket.SHUT_RDWR)
        if read_already:
            await asyncio.sleep(0.02)
        assert await read(await client.send(ask(peer))) == b"ok"
        assert (client.stale_retries, len(peer.lines)) == (0, 2)


async def test_an_idle_connection_that_the_peer_ended_is_gone_at_once(engine: Engine) -> None:
    async with Peer(says(OK)) as peer:
        await read(await engine.send(ask(peer)))
        peer.lines[0].writer.close()
        await asyncio.sleep(0.02)
        assert engine.open == 0


async def test_figures_are_told_by_origin(engine: Engine) -> None:
    async with Peer(closes_on_reuse) as first, Peer(says(CHUNKED)) as second:
        assert engine.pool_stats() == {}
        for _ in range(2):
            await read(await engine.send(ask(first)))
        reply = await engine.send(ask(second))
        assert engine.pool_stats() == {
            first.origin: PoolStats(open=1, idle=1, reused=1, stale_retries=1),
            second.origin: PoolStats(open=1, idle=0, reused=0, stale_retries=0),
        }
        reply.close()


async def test_idle_connections_are_closed_after_keep_alive_and_the_clock_stops() -> None:
    engine = Engine(PoolLimits(keep_alive=0.1))
    async with Peer(says(OK)) as peer:
        await read(await engine.send(ask(peer)))
        assert engine.idle == 1
        await asyncio.sleep(0.1 + TICK + 0.1)
        assert (engine.open, engine.idle) == (0, 0)
        assert not engine._loop_state.clock.ticking  # pyright: ignore[reportPrivateUsage] - nothing is watched
    await engine.aclose()


async def test_an_old_connection_serves_no_more() -> None:
    engine = Engine(PoolLimits(max_age=0.05))
    async with Peer(says(OK)) as peer:
        await read(await engine.send(ask(peer)))
        await asyncio.sleep(0.06)
        await read(await engine.send(ask(peer)))
        assert len(peer.lines) == 2
        await engine.aclose()


async def test_the_longest_idle_go_first_past_the_cap() -> None:
    engine = Engine(PoolLimits(max_idle=2))
    async with Peer(says(OK)) as peer:
        for reply in await asyncio.gather(*(engine.send(ask(peer)) for _ in range(5))):
            await read(reply)
        await asyncio.sleep(0.02)
        assert (engine.open, engine.idle) == (2, 2)
        await engine.aclose()


async def test_a_cap_on_open_connections_fails_at_once() -> None:
    engine = Engine(PoolLimits(max_open=1))
    async with Peer(says(CHUNKED)) as peer:
        reply = await engine.send(ask(peer))
        with pytest.raises(HttpError, match="limit of 1 open connections") as failed:
            await engine.send(ask(peer))
        assert (failed.value.kind, failed.value.sent) == ("connect", False)
        reply.close()
        await engine.aclose()


async def test_aclose_ends_what_is_under_way_and_may_be_called_twice(client: Client) -> None:
    async def script(line: Line) -> None:
        if b"/slow" in await line.request():
            await line.watch()
        await line.say(CHUNKED)
        await line.watch()

    async with Peer(script) as peer:
        reply = await client.send(ask(peer))
        waiting = asyncio.ensure_future(client.send(ask(peer, target=b"/slow")))
        await asyncio.sleep(0.02)
        await asyncio.gather(client.aclose(), client.aclose())
        assert client.open == 0
        for failing in (waiting, reply.more()):
            with pytest.raises(HttpError, match="the engine was closed"):
                await failing
        with pytest.raises(RuntimeError, match="closed"):
            await client.send(ask(peer))


async def test_an_engine_belongs_to_its_loop(client: Client) -> None:
    async with Peer(says(OK)) as peer:
        request = ask(peer)

        def elsewhere() -> None:
            asyncio.run(client.send(request))  # pyright: ignore[reportArgumentType] - a coroutine, seen as its result

        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await asyncio.to_thread(elsewhere)
