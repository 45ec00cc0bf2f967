"""Connection reuse, the single stale retry, and data that must never reach another caller."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Iterator

import pytest
from differences import Client
from peer import CHUNKED, OK, Peer, PeerConnection, Script, never_reply, read, reply_with, request_to

from bud_asgi.clock import TICK
from bud_asgi.http import Engine, HttpError, HttpRequest, Origin, PoolLimits, PoolStats, Timeouts
from bud_asgi.options import OptionError

SHORT = Timeouts(connect=5, first_byte=0.3, silence=5)


async def test_the_last_used_connection_is_reused_first(engine: Engine) -> None:
    async with Peer(reply_with(OK)) as peer:
        for _ in range(2):
            await engine.send(request_to(peer))
        assert (engine.open, engine.idle) == (1, 1)
        replies = await asyncio.gather(*(engine.send(request_to(peer)) for _ in range(3)))
        assert [reply.take() for reply in replies] == [b"ok"] * 3
        assert (engine.open, engine.idle, len(peer.connections)) == (3, 3, 3)
        await engine.send(request_to(peer))
        assert (engine.open, engine.idle, len(peer.connections)) == (3, 3, 3)


async def test_a_connection_is_free_when_its_reply_is_complete_even_if_unread(client: Client) -> None:
    async with Peer(reply_with(OK)) as peer:
        unread = await client.send(request_to(peer))
        await read(await client.send(request_to(peer)))
        assert len(peer.connections) == 1
        assert unread.take() == b"ok"


async def close_on_reuse(connection: PeerConnection) -> None:
    """Answer once, read a second request and close without a reply. Later connections answer."""
    await connection.request()
    await connection.send(OK)
    if connection.number == 0:
        await connection.request()
        return
    await connection.wait_closed()


async def reset_on_reuse(connection: PeerConnection) -> None:
    """Like `close_on_reuse`, with a reset."""
    await connection.request()
    await connection.send(OK)
    if connection.number == 0:
        await connection.request()
        connection.reset()
        return
    await connection.wait_closed()


@pytest.mark.parametrize("script", [close_on_reuse, reset_on_reuse])
async def test_a_connection_that_ends_when_it_is_reused_causes_one_retry(client: Client, script: Script) -> None:
    async with Peer(script) as peer:
        await read(await client.send(request_to(peer)))
        assert await read(await client.send(request_to(peer, body=[b"a", b"b"]))) == b"ok"
        assert client.stale_retries == 1
        assert len(peer.connections) == 2


async def test_the_retry_is_not_retried(engine: Engine) -> None:
    async def script(connection: PeerConnection) -> None:
        if connection.number == 0:
            await connection.request()
            await connection.send(OK)
        await connection.request()

    async with Peer(script) as peer:
        await read(await engine.send(request_to(peer)))
        with pytest.raises(HttpError) as failed:
            await engine.send(request_to(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.sent) == ("reset", False, True)
        assert engine.stale_retries == 1
        assert len(peer.connections) == 2


async def test_a_reset_after_a_byte_came_back_is_not_retried(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await connection.send(b"H")

    async with Peer(script) as peer:
        await read(await client.send(request_to(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer))
        error = failed.value
        assert (error.kind, error.reused, error.sent, error.answered) == ("reset", True, True, True)
        assert (client.stale_retries, len(peer.connections)) == (0, 1)


async def test_a_reset_later_than_a_second_is_not_retried(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await asyncio.sleep(1.1)

    async with Peer(script) as peer:
        await read(await client.send(request_to(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("reset", True, False)
        assert (client.stale_retries, len(peer.connections)) == (0, 1)


async def test_a_timeout_on_a_reused_connection_is_not_retried(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await never_reply(connection)

    async with Peer(script) as peer:
        await read(await client.send(request_to(peer)))
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer, timeouts=SHORT))
        assert (failed.value.kind, failed.value.reused, failed.value.answered) == ("timeout", True, False)
        assert (client.stale_retries, len(peer.connections)) == (0, 1)


LATE = pytest.mark.parametrize("late", [OK, b"\r\n", b"rubbish"], ids=["a reply", "a line break", "rubbish"])


@LATE
async def test_data_on_an_idle_connection_closes_it_at_once(engine: Engine, late: bytes) -> None:
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        await peer.connections[0].send(late)
        await asyncio.sleep(0.02)
        assert (engine.open, engine.idle) == (0, 0)


@LATE
@pytest.mark.parametrize("read_already", [True, False], ids=["read", "unread in the kernel"])
async def test_data_on_an_idle_connection_never_reaches_the_next_caller(
    client: Client, late: bytes, read_already: bool
) -> None:
    async with Peer(reply_with(CHUNKED + b"5\r\nmine!\r\n0\r\n\r\n")) as peer:
        await read(await client.send(request_to(peer)))
        # Nothing runs between this write and the next request, unless the engine is meant to read it.
        peer.connections[0].send_now(late)
        if read_already:
            await asyncio.sleep(0.02)
        assert await read(await client.send(request_to(peer))) == b"mine!"
        assert (client.stale_retries, len(peer.connections)) == (0, 2)


async def test_a_second_reply_in_one_read_never_reaches_the_next_caller(client: Client) -> None:
    async with Peer(reply_with(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nothers")) as peer:
        for _ in range(2):
            assert await read(await client.send(request_to(peer))) == b"ok"


class CalledWhenTaken(list[bytes]):
    """A body that calls `then`, once, when a request is given to a connection that has been checked."""

    def __init__(self, engine: Engine, then: Callable[[], object]) -> None:
        super().__init__([b"{}"])
        self._engine = engine
        self._then: Callable[[], object] | None = then

    def __iter__(self) -> Iterator[bytes]:
        if self._then is not None and self._engine.open > self._engine.idle:
            self._then()
            self._then = None
        return super().__iter__()


async def test_a_reply_sent_before_the_request_arrived_never_reaches_the_caller(engine: Engine) -> None:
    """Two replies for one request, the second on its way while the next request is being written."""
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        first, connection = peer.connections[0], engine._pools[peer.origin]._idle[0]
        first.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # as over a network: no separate ACK
        has_unread, checks = connection._has_unread, [1, 2]

        def send_behind_the_last_check() -> object:
            checks.pop()
            unread = has_unread()
            if not checks:
                first.send_now(OK)
            return unread

        connection._has_unread = send_behind_the_last_check
        with pytest.raises(HttpError) as failed:
            await engine.send(request_to(peer))
        assert (failed.value.kind, failed.value.sent, failed.value.answered) == ("protocol", True, False)
        assert await read(await engine.send(request_to(peer))) == b"ok"
        assert (engine.stale_retries, len(peer.connections)) == (0, 2)


@pytest.mark.parametrize("body", [b"{}", b"{" + b" " * 40_000 + b"}"], ids=["small", "40 KB"])
async def test_a_reply_that_arrives_before_the_request_is_written_never_reaches_the_caller(
    engine: Engine, body: bytes
) -> None:
    """The loop has not read it yet, and would do so after the write. The request is sent on another connection."""
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        sending = asyncio.create_task(engine.send(request_to(peer, body=body)))
        await asyncio.sleep(0)
        peer.connections[0].send_now(OK.replace(b"ok", b"no"))
        assert await read(await sending) == b"ok"
        assert (engine.stale_retries, len(peer.connections)) == (1, 2)


async def test_a_new_connection_may_get_its_reply_before_the_request_is_written(engine: Engine) -> None:
    """A server without room for a connection answers it at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        accepted: list[socket.socket] = []

        def refuse() -> None:
            accepted.append(listener.accept()[0])
            accepted[0].sendall(b"HTTP/1.1 503 Full\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")

        origin = Origin("127.0.0.1", listener.getsockname()[1])
        request = HttpRequest(origin, b"POST", b"/v1/messages", [], CalledWhenTaken(engine, refuse))
        reply = await engine.send(request)
        assert (reply.status, await read(reply), engine.idle) == (503, b"no", 0)
        accepted[0].close()


async def test_a_connection_that_is_reset_before_the_request_is_written_is_replaced(engine: Engine) -> None:
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        request = request_to(peer, body=CalledWhenTaken(engine, peer.connections[0].reset))
        assert await read(await engine.send(request)) == b"ok"
        assert (engine.stale_retries, len(peer.connections)) == (1, 2)


@pytest.mark.parametrize("read_already", [True, False], ids=["read", "unread in the kernel"])
async def test_an_idle_connection_that_the_peer_closed_is_not_used(client: Client, read_already: bool) -> None:
    async with Peer(reply_with(OK)) as peer:
        await read(await client.send(request_to(peer)))
        peer.connections[0].socket.shutdown(socket.SHUT_RDWR)
        if read_already:
            await asyncio.sleep(0.02)
        assert await read(await client.send(request_to(peer))) == b"ok"
        assert (client.stale_retries, len(peer.connections)) == (0, 2)


async def test_an_idle_connection_that_the_peer_closed_is_removed_at_once(engine: Engine) -> None:
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        peer.connections[0].writer.close()
        await asyncio.sleep(0.02)
        assert engine.open == 0


async def test_pool_stats_are_reported_by_origin(engine: Engine) -> None:
    async with Peer(close_on_reuse) as first, Peer(reply_with(CHUNKED)) as second:
        assert engine.pool_stats() == {}
        for _ in range(2):
            await read(await engine.send(request_to(first)))
        reply = await engine.send(request_to(second))
        assert engine.pool_stats() == {
            first.origin: PoolStats(open=1, idle=1, reused=1, stale_retries=1),
            second.origin: PoolStats(open=1, idle=0, reused=0, stale_retries=0),
        }
        reply.close()


async def test_idle_connections_are_closed_after_keep_alive_and_the_clock_stops() -> None:
    engine = Engine(PoolLimits(keep_alive=0.1))
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        assert engine.idle == 1
        await asyncio.sleep(0.1 + TICK + 0.1)
        assert (engine.open, engine.idle) == (0, 0)
        assert not engine._loop_state.clock.ticking  # pyright: ignore[reportPrivateUsage] - nothing is watched
    await engine.aclose()


async def test_a_connection_past_max_age_is_not_reused() -> None:
    engine = Engine(PoolLimits(max_age=0.05))
    async with Peer(reply_with(OK)) as peer:
        await read(await engine.send(request_to(peer)))
        await asyncio.sleep(0.06)
        await read(await engine.send(request_to(peer)))
        assert len(peer.connections) == 2
        await engine.aclose()


async def test_past_max_idle_the_longest_idle_connections_are_closed() -> None:
    engine = Engine(PoolLimits(max_idle=2))
    async with Peer(reply_with(OK)) as peer:
        for reply in await asyncio.gather(*(engine.send(request_to(peer)) for _ in range(5))):
            await read(reply)
        await asyncio.sleep(0.02)
        assert (engine.open, engine.idle) == (2, 2)
        await engine.aclose()


async def test_a_request_past_max_open_fails_at_once() -> None:
    engine = Engine(PoolLimits(max_open=1))
    async with Peer(reply_with(CHUNKED)) as peer:
        reply = await engine.send(request_to(peer))
        with pytest.raises(HttpError, match="limit of 1 open connections") as failed:
            await engine.send(request_to(peer))
        assert (failed.value.kind, failed.value.sent) == ("connect", False)
        reply.close()
        await engine.aclose()


async def test_aclose_aborts_running_exchanges_and_may_be_called_twice(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        if b"/slow" in await connection.request():
            await connection.wait_closed()
        await connection.send(CHUNKED)
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer))
        waiting = asyncio.ensure_future(client.send(request_to(peer, target=b"/slow")))
        await asyncio.sleep(0.02)
        await asyncio.gather(client.aclose(), client.aclose())
        assert client.open == 0
        for failing in (waiting, reply.more()):
            with pytest.raises(HttpError, match="the engine was closed"):
                await failing
        with pytest.raises(RuntimeError, match="closed"):
            await client.send(request_to(peer))


async def test_an_engine_works_only_in_its_own_loop(client: Client) -> None:
    async with Peer(reply_with(OK)) as peer:
        request = request_to(peer)

        def in_another_loop() -> None:
            asyncio.run(client.send(request))  # pyright: ignore[reportArgumentType] - a coroutine, seen as its result

        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await asyncio.to_thread(in_another_loop)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("keep_alive", 0),
        ("max_age", -1.0),
        ("max_age", "300"),
        ("max_idle", -1),
        ("max_idle", 1.5),
        ("max_open", 0),
        ("max_open", True),
    ],
)
def test_limits_out_of_range_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{option}: expected a ") as refused:
        PoolLimits(**{option: value})  # pyright: ignore[reportArgumentType] - wrong on purpose
    assert refused.value.option == option


def test_limits_at_the_edge_of_their_range_are_accepted() -> None:
    limits = PoolLimits(keep_alive=0.001, max_age=math.inf, max_idle=0, max_open=1)
    assert (limits.max_idle, limits.max_open, PoolLimits().max_open) == (0, 1, None)
