"""A request that is cancelled at any of its awaits: what it has used is booked, and nothing stays reserved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from support.asgi import Receiving, Sent, chunks, http_scope
from support.calls import UPSTREAM_KEY
from support.gateway import PATIENT, provider
from support.limited import EVERY_KIND, USAGE, AwaitingStore, Booked, Store, encoded, lines, stopped, user
from support.spent import spent
from support.steps import CancelledAt
from support.valkey import CountedRedisStore
from support.waiting import until

from bud_asgi import Exchange, Limit, MemoryStore, MessagesApp
from bud_asgi.testing import StandIn, text

MAX_TOKENS = 100


@pytest.fixture(params=["memory", "a store that awaits", "valkey"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "valkey":
        return CountedRedisStore(request.getfixturevalue("valkey"))
    return (MemoryStore if request.param == "memory" else AwaitingStore)(clock=stopped)


class Line:
    """A gateway before its upstream, both in the loop of the test."""

    def __init__(self, upstream: StandIn, store: Store, *limits: Limit) -> None:
        self.upstream, self.store = upstream, store
        self.settled: list[Exchange] = []
        self.messages = MessagesApp(
            providers=[provider(upstream.base_url, timeouts=PATIENT)],
            auth=user(),
            limits=limits,
            store=store,
            on_settled=self._on_settled,
        )

    async def _on_settled(self, exchange: Exchange) -> None:
        self.settled.append(exchange)

    async def post(self, number: int, *, stream: bool) -> None:
        """One request, of a model of its own."""
        body = encoded(model=f"claude-{number}-{stream}", stream=stream, max_tokens=MAX_TOKENS)
        fields = {**lines("ann"), "content-length": str(len(body))}
        scope = http_scope([(name.encode(), value.encode()) for name, value in fields.items()])
        await self.messages(scope, Receiving(*chunks(body[:40], body[40:])), Sent())

    async def assert_exact(self, number: int) -> None:
        """All is settled, and what is booked is what those requests have used."""
        await until(lambda: len(self.settled) == number and not self.store.open)
        standing = await self.messages.limits.standing("ann")
        assert not any(one.reserved for one in standing)
        booked = {one.limit.kind: one.used for one in standing}
        assert Booked(**booked) == spent(self.settled, max_tokens=MAX_TOKENS)
        (resources, _) = next(iter(self.messages._loops._by_loop.values()))
        assert not resources.in_flight
        assert not self.messages.limits._waiting.queues


@asynccontextmanager
async def line(store: Store, *limits: Limit) -> AsyncGenerator[Line]:
    async with StandIn(api_key=UPSTREAM_KEY) as upstream:
        upstream.always(text("one two three", usage=USAGE))
        here = Line(upstream, store, *limits)
        async with here.messages.lifespan():
            yield here


@pytest.mark.parametrize("times", [1, 3], ids=["once", "three times"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_request_that_is_cancelled_at_any_await_is_settled(store: Store, stream: bool, times: int) -> None:
    async with line(store, *EVERY_KIND) as here:
        number, suspended = 0, 1
        while suspended >= number:
            number += 1
            request = CancelledAt(here.post(number, stream=stream), number, times=times)
            with suppress(asyncio.CancelledError):
                await asyncio.create_task(_run(request))
            await here.assert_exact(number)
            suspended = request.count
        assert number > 2
        assert [one.outcome for one in here.settled][-1] == "answered"
        assert "cancelled" in {one.outcome for one in here.settled}


async def test_a_request_that_is_cancelled_while_it_waits_leaves_the_line(store: Store) -> None:
    limits = [*EVERY_KIND[:4], Limit("concurrent", 1, wait=30.0)]
    async with line(store, *limits) as here:
        number, suspended = 0, 1
        while suspended >= number:
            number += 1
            first = asyncio.create_task(here.post(2 * number, stream=False))
            request = CancelledAt(here.post(2 * number + 1, stream=False), number)
            await asyncio.gather(first, asyncio.create_task(_run(request)), return_exceptions=True)
            await here.assert_exact(2 * number)
            suspended = request.count
        assert number > 2
        assert [one.outcome for one in here.settled[-2:]] == ["answered"] * 2
        assert any(one.outcome == "cancelled" and not one.attempts for one in here.settled)


async def _run(request: CancelledAt) -> None:
    await request
