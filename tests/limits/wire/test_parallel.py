"""Requests that race for a limit: exactly as many are admitted as it allows."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import httpx
import msgspec
import pytest
from support.limited import AwaitingStore, Limited, encoded, in_flight, limited, lines, stopped
from support.uploads import head

from bud_asgi import Limit, MemoryStore
from bud_asgi.testing import Received, Reply, late

AT_ONCE = 200


@pytest.fixture(params=["memory", "a store that awaits"])
def store(request: pytest.FixtureRequest) -> Generator[MemoryStore]:
    one = MemoryStore(clock=stopped) if request.param == "memory" else AwaitingStore(clock=stopped)
    yield one
    assert one.open == 0


class Answer(msgspec.Struct, frozen=True):
    """The head of a response, whose body has arrived."""

    status: int
    headers: dict[str, str]


async def post_at_once(here: Limited, caller: str, number: int = AT_ONCE) -> list[Answer]:
    """So many requests of a caller at once, each on a connection of its own."""
    return await asyncio.gather(*(post(here, caller) for _ in range(number)))


async def post(here: Limited, caller: str) -> Answer:
    url, body = httpx.URL(here.here.base_url), encoded()
    reader, writer = await asyncio.open_connection(url.host, url.port)
    framing = {"content-length": str(len(body)), "connection": "close"}
    writer.write(head(f"{url.path}/v1/messages", {**lines(caller), **framing}) + body)
    first, *rest = (await reader.read()).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    writer.close()
    return Answer(int(first.split(" ")[1]), dict(line.split(": ", 1) for line in rest))


async def test_of_200_parallel_requests_of_a_new_caller_with_10_a_minute_10_reach_the_upstream(
    store: MemoryStore,
) -> None:
    with limited(Limit("requests", 10), store=store) as here:
        replies = await post_at_once(here, "new")
        assert len(here.upstream.requests) == 10
        assert sorted(reply.status for reply in replies) == [200] * 10 + [429] * 190
        assert {
            reply.headers["anthropic-ratelimit-requests-remaining"] for reply in replies if reply.status != 200
        } == {"0"}
        assert all(6 <= int(reply.headers["retry-after"]) <= 60 for reply in replies if reply.status != 200)
        assert (await here.booked("new")).requests == 10


class Peak:
    """Answers slowly, and remembers how many requests the upstream was answering at once."""

    def __init__(self, here: Limited) -> None:
        self._upstream = here.upstream
        self.peak = 0
        here.upstream.always(self)

    def __call__(self, received: Received) -> Reply:
        self.peak = max(self.peak, in_flight(self._upstream))
        return late(0.2)


async def test_never_more_than_the_concurrent_requests_of_a_limit_are_at_the_upstream(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 5), Limit("concurrent", 8, per="all"), store=store) as here:
        seen = Peak(here)
        replies = await post_at_once(here, "new")
        assert 1 < seen.peak <= 5
        admitted = [reply for reply in replies if reply.status == 200]
        assert len(admitted) == len(here.upstream.requests)
        assert {reply.status for reply in replies} == {200, 429}
        assert {reply.headers["retry-after"] for reply in replies if reply.status != 200} == {"1"}
        assert (await here.booked("new")).concurrent == 0
        both = await asyncio.gather(post_at_once(here, "new", 50), post_at_once(here, "newer", 50))
        assert 1 < seen.peak <= 8
        assert {reply.status for replies in both for reply in replies} == {200, 429}


async def test_with_a_wait_all_of_them_are_answered_and_never_more_at_once(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 4, wait=20.0), store=store) as here:
        seen = Peak(here)
        replies = await post_at_once(here, "new", 20)
        assert [reply.status for reply in replies] == [200] * 20
        assert 1 < seen.peak <= 4
        assert (await here.booked("new")).concurrent == 0
