"""Clients that disconnect at random: every counter stays exact, and every reservation is given back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
from support.counts import count
from support.limited import EVERY_KIND, LONG, PLENTY, USAGE, Limited, encoded, limited, lines, stopped
from support.spent import spent
from support.uploads import head
from support.valkey import CountedRedisStore, Valkey
from support.waiting import until

from bud_asgi import Limit, MemoryStore, Principal
from bud_asgi.clock import Timing
from bud_asgi.testing import Received, Reply, cut_before_message_stop, error, hang_mid_event, late, text

pytestmark = pytest.mark.torture

AT_ONCE = 50
MAX_TOKENS = 100
SLOW = text("word " * 10, usage=USAGE, delay=0.003)
REPLIES = (
    SLOW,
    late(0.02, SLOW),
    text("Hello", usage=USAGE),
    error(429, "rate_limit_error", "slow down"),
    error(529, "overloaded_error", "Overloaded"),
    cut_before_message_stop(SLOW),
    hang_mid_event(reply=SLOW),
)
CALLERS = [Principal(id=f"caller-{n}", team="red" if n % 2 else "blue") for n in range(6)]
LIMITS = [
    *EVERY_KIND,
    Limit("tokens", PLENTY, LONG, per="team"),
    Limit("requests", PLENTY, LONG, per="all", mode="observe"),
    Limit("output_tokens", PLENTY, LONG, per="all"),
    Limit("concurrent", 24, per="all", wait=2.0),
    Limit("concurrent", 16, per="team", wait=2.0),
]


def answer(received: Received) -> Reply:
    return REPLIES[received.number % len(REPLIES)]


async def leave_at_random(here: Limited, number: int, moments: random.Random) -> None:
    """Send a request, or only a part of it, and disconnect: at once, in the middle, or after the response.

    Some clients wait for the beginning of the response, however busy the machine is.
    """
    caller = moments.choice(CALLERS).id
    stream = moments.random() < 0.7
    body = encoded(model=f"claude-{number}", stream=stream, max_tokens=MAX_TOKENS)
    part = moments.choice([len(body), len(body), len(body), moments.randrange(len(body))])
    stays = moments.choice([0.0, 0.1, 0.3, 0.6]) * moments.random()
    waits = stream and part == len(body) and moments.random() < 0.4
    url = httpx.URL(here.here.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head(f"{url.path}/v1/messages", {**lines(caller), "content-length": str(len(body))}) + body[:part])
    with suppress(ConnectionError, TimeoutError):
        await writer.drain()
        if waits:
            async with asyncio.timeout(60):
                await reader.read(65536)
        async with asyncio.timeout(stays):
            while await reader.read(65536):
                pass
    writer.close()


async def at_most(number: int, tasks: list[Callable[[], Awaitable[None]]]) -> None:
    """Run them, so many at a time."""
    free = asyncio.Semaphore(number)

    async def one(task: Callable[[], Awaitable[None]]) -> None:
        async with free:
            await task()

    await asyncio.gather(*map(one, tasks))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["memory", "valkey"])
async def test_random_disconnects_leave_every_counter_exact(kind: str, valkey: Valkey) -> None:
    number, moments = count(150, 10_000), random.Random(20261130)
    timing = Timing(tick=0.02, watch_after=0.02)
    store = MemoryStore(clock=stopped) if kind == "memory" else CountedRedisStore(valkey)
    with limited(*LIMITS, principals=CALLERS, store=store, timing=timing) as here:
        here.upstream.always(answer)
        await at_most(AT_ONCE, [lambda n=n: leave_at_random(here, n, moments) for n in range(number)])
        await until(lambda: len(here.here.settled) == number, timeout=60)
        accounts = here.here.settled
        assert {"client_gone", "answered"} <= {one.outcome for one in accounts}
        assert len(here.upstream.requests) > number / 10
        for caller in CALLERS:
            booked = {one.limit: one for one in here.standing(caller)}
            own = spent(here.accounts(caller.id), max_tokens=MAX_TOKENS)
            assert [booked[limit].used for limit in EVERY_KIND] == [
                *(own.requests, own.input_tokens, own.output_tokens, own.tokens, 0)
            ]
            team = [one for one in accounts if one.principal and one.principal.team == caller.team]
            of_team, of_all = spent(team, max_tokens=MAX_TOKENS), spent(accounts, max_tokens=MAX_TOKENS)
            assert [booked[limit].used for limit in LIMITS[5:]] == [
                *(of_team.tokens, of_all.requests, of_all.output_tokens, 0, 0)
            ]
            assert not any(one.reserved for one in booked.values())
        check_against_the_upstream(here)


def check_against_the_upstream(here: Limited) -> None:
    """Each request of the upstream is in one record, and a whole reply is booked as the usage in it."""
    by_id = {one.attempts[-1].upstream_request_id: one for one in here.here.settled if one.attempts}
    assert len(here.upstream.requests) <= sum(bool(one.attempts) for one in here.here.settled)
    for request in here.upstream.requests:
        account = by_id.get(request.request_id)
        reply = answer(request)
        if account is None or account.outcome != "answered":
            continue
        used = account.usage and (account.usage.input_tokens, account.usage.output_tokens)
        assert used == (None if reply.status != 200 else (USAGE.input_tokens, USAGE.output_tokens))
