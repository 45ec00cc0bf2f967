"""Pings before an upstream's head, by an ASGI server that takes its time: order, and an end at whatever moment."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from starlette.types import Message
from support.asgi import VERSION, http_scope
from support.counts import count
from support.waiting import until

from bud_asgi import Anonymous, Anthropic, Exchange, MessagesApp
from bud_asgi.clock import Timing
from bud_asgi.protocol.sse import PING
from bud_asgi.testing import Reply, StandIn, error, hang, hang_mid_event, html, late, sse

SENT = b'{"model":"m","max_tokens":1,"stream":true,"messages":[{"role":"user","content":"Hi"}]}'
STREAM = b"event: message_start\ndata: {}\n\nevent: message_stop\ndata: {}\n\n"


class Server:
    """An ASGI server as the specification has it: `send` may suspend, block, or raise once the client has left."""

    def __init__(
        self, *, suspends: bool = False, blocks_after: int = 1000, breaks_after: int = 1000, blocks_on: bytes = b"\0"
    ) -> None:
        self.suspends, self.blocks_after, self.breaks_after = suspends, blocks_after, breaks_after
        self.blocks_on = blocks_on
        self.sent: list[Message] = []
        self.last_words = 0
        self.asked = 0
        self.left = asyncio.Event()
        self.reads = asyncio.Event()

    async def receive(self) -> Message:
        self.asked += 1
        if self.asked == 1:
            return {"type": "http.request", "body": SENT}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.suspends:
            await asyncio.sleep(0)
        if len(self.sent) >= self.breaks_after:
            raise OSError("the client has left")
        self.last_words += b"event: error" in message.get("body", b"")
        if len(self.sent) >= self.blocks_after or self.blocks_on in message.get("body", b""):
            await self.reads.wait()
        if self.sent:
            assert message["type"] == "http.response.body"
            assert not self.ended, "something was sent after the end"
        else:
            assert message["type"] == "http.response.start"
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        """What the client has got."""
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        """Whether the response is whole."""
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)


class Running:
    """An app, and what came of its requests."""

    def __init__(self, upstream: StandIn) -> None:
        self.upstream = upstream
        self.settled: list[Exchange] = []
        providers = [Anthropic(api_key=upstream.api_key, base_url=upstream.base_url)]
        self.app = MessagesApp(auth=Anonymous(), providers=providers, on_settled=self._keep, timing=QUICK)

    async def _keep(self, exchange: Exchange) -> None:
        self.settled.append(exchange)

    def call(self, server: Server) -> asyncio.Task[None]:
        """Begin to serve a request."""
        return asyncio.create_task(self.app(http_scope([VERSION]), server.receive, server.send))  # pyright: ignore[reportArgumentType]


QUICK = Timing(tick=0.005, ping_after=0.02, close_within=0.1, watch_after=0.02)


@pytest_asyncio.fixture
async def running(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Running]:
    """An app whose patience is a fiftieth of a second; in the end nothing of it is left, nor was anything amiss."""
    amiss: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: amiss.append(context))
    async with StandIn(strict=False) as upstream:
        one = Running(upstream)
        async with one.app.lifespan():
            before = asyncio.all_tasks()
            yield one
            await asyncio.sleep(0.02)
            left = [task.get_name() for task in asyncio.all_tasks() - before]
            assert [name for name in left if name.startswith("bud_asgi")] == []
    assert amiss == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def account(running: Running, number: int = 1) -> Exchange:
    """The latest record, once there are `number`."""
    await until(lambda: len(running.settled) >= number)
    return running.settled[-1]


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("status", [200, 429, 503])
async def test_pings_come_between_head_and_answer(running: Running, suspends: bool, status: int) -> None:
    replies = {200: sse(STREAM), 429: error(429, "rate_limit_error", "Slow down"), 503: html(503)}
    running.upstream.enqueue(late(0.1, replies[status]))
    server = Server(suspends=suspends)
    await running.call(server)
    assert server.ended
    assert server.sent[0]["status"] == 200
    assert server.body.startswith(PING)
    rest = server.body.replace(PING, b"")
    assert rest == STREAM if status == 200 else rest.startswith(b"event: error\ndata: ")


async def test_a_server_that_holds_a_ping_back_gets_no_other_meanwhile(running: Running) -> None:
    running.upstream.enqueue(late(0.06, sse(STREAM)))
    server = Server(blocks_after=1)
    task = running.call(server)
    await until(lambda: bool(server.sent))
    await asyncio.sleep(0.1)
    assert [message["type"] for message in server.sent] == ["http.response.start"]
    assert not task.done()
    server.reads.set()
    await task
    assert server.body == PING + STREAM


@pytest.mark.parametrize("blocks_after", [0, 1, 2])
async def test_a_cancelled_request_does_not_wait_for_a_client_that_does_not_read(
    running: Running, blocks_after: int
) -> None:
    running.upstream.enqueue(hang())
    server = Server(blocks_after=blocks_after)
    task = running.call(server)
    await asyncio.sleep(0.08)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 10
    assert (await account(running)).outcome == "cancelled"


async def test_a_cancelled_request_sends_its_error_in_the_step_of_the_cancellation(running: Running) -> None:
    running.upstream.enqueue(hang())
    server = Server()
    task = running.call(server)
    await until(lambda: len(server.sent) > 1)
    task.cancel()
    await asyncio.sleep(0)
    assert b"The gateway is shutting down." in server.body
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("blocks_after", [0, 1, 2, 1000])
async def test_a_client_that_leaves_ends_it_though_a_ping_is_held_back(running: Running, blocks_after: int) -> None:
    running.upstream.enqueue(hang())
    server = Server(blocks_after=blocks_after)
    task = running.call(server)
    await asyncio.sleep(0.08)
    server.left.set()
    await asyncio.wait_for(task, 30)
    assert (await account(running)).outcome == "client_gone"
    assert server.last_words <= 1  # not sent again to a client that did not take it


async def test_a_response_that_is_sending_an_error_sends_no_second_one(running: Running) -> None:
    running.upstream.enqueue(late(0.05, error(429, "rate_limit_error", "Slow down")))
    server = Server(blocks_on=b"Slow down")
    task = running.call(server)
    await asyncio.sleep(0.12)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.last_words == 1


@pytest.mark.parametrize("breaks_after", [0, 1, 2])
async def test_after_a_server_raised_for_a_disconnect_nothing_more_is_sent(running: Running, breaks_after: int) -> None:
    running.upstream.enqueue(hang())
    server = Server(breaks_after=breaks_after)
    task = running.call(server)
    await asyncio.sleep(0.08)
    server.left.set()
    await asyncio.wait_for(task, 30)
    assert (await account(running)).outcome == "client_gone"


@pytest.mark.torture
async def test_at_any_moment_a_cancellation_leaves_a_response_in_order(running: Running) -> None:
    moments = random.Random(20261124)
    replies: list[Reply] = [sse(STREAM), error(529, "overloaded_error", "Overloaded"), html(), hang()]
    rounds = count(25, 600)
    for _ in range(rounds):
        running.upstream.enqueue(late(0.03, moments.choice(replies)))
        server = Server(suspends=moments.random() < 0.7, blocks_after=moments.choice([1000, 1000, 3]))
        task = running.call(server)
        await asyncio.sleep(0.015 + moments.random() * 0.03)
        for _ in range(moments.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.cancelled() or task.exception() is None
    await account(running, rounds)
    assert {one.outcome for one in running.settled} <= {"cancelled", "answered", "upstream_failed"}


@pytest.mark.parametrize("how", ["cancelled", "client gone"])
async def test_a_reply_that_came_while_a_ping_was_stuck_is_closed_with_its_request(running: Running, how: str) -> None:
    running.upstream.enqueue(late(0.06, hang_mid_event()))
    server = Server(blocks_on=PING)
    task = running.call(server)
    await until(lambda: running.upstream.connections_open == 1)
    await asyncio.sleep(0.1)  # its head is here, and the client takes nothing
    if how == "cancelled":
        task.cancel()
    else:
        server.left.set()
    await asyncio.wait({task}, timeout=30)
    assert task.done()
    await running.upstream.wait_aborted(30.0)


async def test_an_open_stream_is_seven_coroutines_deep(running: Running) -> None:
    running.upstream.enqueue(hang_mid_event())
    task = running.call(Server())
    await asyncio.sleep(0.1)
    depth, coroutine = 0, task.get_coro()
    while coroutine is not None:
        depth, coroutine = depth + 1, getattr(coroutine, "cr_await", None)
    assert depth <= 8  # the last one is the future that is awaited
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize("reply", [sse(STREAM), error(429, "rate_limit_error", "Slow down")], ids=["stream", "error"])
async def test_a_finished_request_is_freed_without_the_garbage_collector(running: Running, reply: Reply) -> None:
    """A reference cycle would keep bodies and connections of many requests until the collector runs."""
    server, freed = Server(), list[str]()
    running.upstream.enqueue(reply)
    gc.collect()
    gc.disable()
    try:
        await running.call(server)
        exchange = await account(running)
        weakref.finalize(server, freed.append, "server")
        running.settled.clear()
        del server, exchange
        await until(lambda: freed == ["server"])
    finally:
        gc.enable()


async def test_a_drain_ends_an_upload_that_has_stalled(running: Running) -> None:
    server = Server()

    async def receive() -> Message:
        await server.left.wait()
        return {"type": "http.disconnect"}

    server.receive = receive  # type: ignore[method-assign]
    task = running.call(server)
    await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        await running.app.drain(0.05)
        await task
    assert server.sent[0]["status"] == 529
    assert (await account(running)).outcome == "refused"


async def test_an_upstream_that_is_silent_after_its_head_is_covered_by_pings() -> None:
    timing = Timing(tick=0.005, ping_after=0.05, commit_after=0.02, watch_after=0.02, close_within=0.1)
    async with StandIn(strict=False) as upstream:
        upstream.enqueue(msgspec.structs.replace(sse(STREAM), stall=(5, 1.5)))
        providers = [Anthropic(api_key=upstream.api_key, base_url=upstream.base_url)]
        app = MessagesApp(auth=Anonymous(), providers=providers, timing=timing)
        async with app.lifespan():
            server = Server()
            await app(http_scope([VERSION]), server.receive, server.send)
    assert server.body.count(PING) >= 14  # ten of them fit before the engine notices that the first event is late
    assert server.body.replace(PING, b"") == STREAM
