"""A request in flight: a disconnect or an abort ends it, and no other cancellation is taken for one of these."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import pytest
import pytest_asyncio
from starlette.types import Message, Receive
from support.asgi import DISCONNECT, Sent, chunks, http_scope
from support.waiting import until

from bud_asgi.clock import Clock, Timing
from bud_asgi.disconnect import ActiveRequest
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import ClientGone, ShuttingDown
from bud_asgi.response import Response


class Client:
    """A client that disconnects when the test says so."""

    def __init__(self, *before: Message) -> None:
        self.messages = list(before)
        self.left = asyncio.Event()
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return DISCONNECT


SOON = Timing(tick=0.0, watch_after=0.0)
"""A disconnect is watched for from the next step of the loop on."""


def active(timing: Timing = SOON) -> ActiveRequest:
    exchange = Exchange.of(http_scope([]))
    return ActiveRequest(exchange, Response(exchange, Sent(), timing), timing, asyncio.get_running_loop())


@contextmanager
def watch(receive: Receive, timing: Timing = SOON) -> Generator[ActiveRequest]:
    """The block of a request whose body has been read, over a clock of its own."""
    request = active(timing)
    clock = Clock(asyncio.get_running_loop(), tick=timing.tick)
    clock.watch(request)
    try:
        with request:
            request.watch_disconnect({}, receive)
            yield request
    finally:
        clock.unwatch(request)


@pytest_asyncio.fixture(autouse=True)
async def leaves_no_task() -> AsyncIterator[None]:
    """No task is left behind."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


async def steps(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def fails_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise ZeroDivisionError


async def fails_when_ended() -> None:
    try:
        await for_ever()
    finally:
        raise ZeroDivisionError


async def test_nothing_is_received_before_the_body_has_been_read_by_others() -> None:
    client, request = Client(), active()

    async def tick() -> None:
        request.on_tick(asyncio.get_running_loop().time())
        await steps()

    with request:
        request.watch_disconnect({}, client.receive, is_read=False)
        await tick()
        assert client.asked == 0
        request.exchange.upload.complete = True
        await tick()
        assert client.asked == 1
        request.watch_disconnect({}, client.receive)  # as the gateway does behind a middleware
        await tick()
        assert client.asked == 1


async def test_a_client_that_leaves_ends_the_block() -> None:
    client, ended = Client(), list[str]()

    async def answer() -> None:
        with watch(client.receive):
            try:
                await for_ever()
            finally:
                ended.append("cancelled")

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    client.left.set()
    with pytest.raises(ClientGone) as gone:
        await task
    assert str(gone.value) == "the client disconnected before it was answered"
    assert isinstance(gone.value.__cause__, asyncio.CancelledError)
    assert ended == ["cancelled"]
    assert task.cancelling() == 0


async def test_the_task_goes_on_as_if_it_had_never_been_cancelled() -> None:
    client = Client()

    async def answer() -> str:
        with pytest.raises(ClientGone), watch(client.receive):
            await for_ever()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        return "cleaned up"

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    client.left.set()
    assert await task == "cleaned up"


async def test_a_client_that_has_left_before_the_watch_began_ends_the_block() -> None:
    client = Client()
    client.left.set()
    with pytest.raises(ClientGone), watch(client.receive):
        await for_ever()


async def test_a_cancellation_by_somebody_else_travels_on() -> None:
    client = Client()

    async def answer() -> None:
        with watch(client.receive):
            await for_ever()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    task.cancel("shutdown")
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert cancelled.value.args == ("shutdown",)
    assert task.cancelled()


@pytest.mark.parametrize("first", ["client", "server"])
async def test_when_both_come_at_once_it_is_a_cancellation(first: str) -> None:
    client = Client()

    async def answer() -> None:
        with watch(client.receive):
            await for_ever()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    client.left.set()
    if first == "server":
        task.cancel()
    else:
        await asyncio.sleep(0)  # the watch has cancelled; the block has not ended yet
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_task_that_was_already_being_cancelled_stays_cancelled() -> None:
    client, seen = Client(), list[str]()

    async def answer() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            try:
                with watch(client.receive):
                    await for_ever()
            except ClientGone:
                seen.append("client gone")
            raise

    task = asyncio.create_task(answer())
    await steps()
    task.cancel()
    await asyncio.sleep(0.01)
    client.left.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["client gone"]


async def test_an_error_of_the_block_is_kept_although_the_client_has_left() -> None:
    client = Client()

    async def answer() -> int:
        with pytest.raises(ZeroDivisionError), watch(client.receive):
            await fails_when_ended()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    client.left.set()
    assert await task == 0


async def test_messages_about_the_body_are_skipped() -> None:
    client = Client(*chunks(b"a", b"b", b""))

    async def answer() -> None:
        with watch(client.receive):
            await for_ever()

    task = asyncio.create_task(answer())
    await until(lambda: client.messages == [])
    await asyncio.sleep(0.01)
    assert not task.done()
    client.left.set()
    with pytest.raises(ClientGone):
        await task


async def test_a_quick_answer_is_not_watched() -> None:
    client, before = Client(), asyncio.all_tasks()
    with watch(client.receive, Timing(tick=0.005, watch_after=0.1)):
        await steps()
        assert asyncio.all_tasks() == before
    await asyncio.sleep(0.15)
    assert (client.asked, asyncio.all_tasks()) == (0, before)


async def test_a_slow_answer_is_watched() -> None:
    assert Timing().watch_after == 0.2
    client, before = Client(), asyncio.all_tasks()
    with watch(client.receive, Timing(tick=0.005, watch_after=0.05)):
        await until(lambda: client.asked == 1)
        assert [task.get_name() for task in asyncio.all_tasks() - before] == ["bud_asgi disconnect"]
    await steps()
    assert asyncio.all_tasks() == before


async def test_a_request_that_is_not_watched_yet_can_be_aborted() -> None:
    request = active()

    async def read() -> None:
        with request:
            await for_ever()

    task = asyncio.create_task(read())
    await steps()
    request.abort(ShuttingDown())
    request.abort(ClientGone("too late: only the first counts"))
    with pytest.raises(ShuttingDown):
        await task


async def test_outside_its_block_a_request_cannot_be_aborted() -> None:
    request = active()
    request.abort(ShuttingDown())
    with request:
        pass
    request.abort(ShuttingDown())
    await steps()
    task = asyncio.current_task()
    assert task is not None
    assert (request.aborted_by, task.cancelling()) == (None, 0)


async def test_an_error_within_ends_the_watch() -> None:
    client = Client()
    with pytest.raises(ZeroDivisionError), watch(client.receive):
        await fails_after(0.01)
    assert client.asked == 1
    client.left.set()
    await asyncio.sleep(0.01)


def test_outside_of_a_task_there_is_nothing_to_cancel() -> None:
    failures: list[str] = []

    def enter() -> None:
        try:
            with active():
                failures.append("entered")
        except RuntimeError as error:
            failures.append(str(error))
        loop.stop()

    loop = asyncio.new_event_loop()
    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
    assert failures == ["an ASGI app must run in a task"]


async def test_a_server_that_fails_to_say_whether_the_client_is_there_has_lost_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Message:
        raise OSError("broken")

    with caplog.at_level(logging.INFO, "bud_asgi"), pytest.raises(ClientGone), watch(receive):
        await for_ever()
    assert [record.message for record in caplog.records] == [
        "the server failed to report whether the client is connected"
    ]
    assert "OSError: broken" in caplog.text
