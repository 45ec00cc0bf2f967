"""Callers that race for a limit, and callers that disconnect while they upload."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress

import httpx
import pytest
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.counts import count
from support.gateway import gateway
from support.sockets import request_head
from support.waiting import wait_until

from bud_asgi import Limit
from bud_asgi.testing import StandIn

pytestmark = pytest.mark.torture

AT_ONCE = 50


async def test_racing_callers_are_admitted_exactly_as_often_as_the_limit_allows() -> None:
    callers, allowed = count(200, 5_000), count(20, 500)
    with (
        StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream,
        gateway(upstream.base_url, limits=[Limit("requests", allowed, 86_400.0)]) as here,
    ):
        async with httpx.AsyncClient(
            headers=HEADERS, timeout=60, limits=httpx.Limits(max_connections=AT_ONCE)
        ) as client:

            async def call() -> httpx.Response:
                return await client.post(f"{here.base_url}/v1/messages", json=BODY)

            replies = await asyncio.gather(*(call() for _ in range(callers)))
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(replies) - len(refused) == len(upstream.requests) == allowed
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        here.assert_nothing_open()


async def test_an_upload_that_is_cut_reaches_no_upstream_and_holds_nothing() -> None:
    cuts = count(60, 10_000)
    body = json.dumps({**BODY, "metadata": {"user_id": "x" * 200_000}}).encode()
    wire = request_head(len(body)) + body
    lengths = [random.Random(20261129).randrange(1, len(wire)) for _ in range(cuts)]
    free = asyncio.Semaphore(AT_ONCE)
    with (
        StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream,
        gateway(upstream.base_url, limits=[Limit("requests", 1, 86_400.0)]) as here,
    ):
        where = httpx.URL(here.host_url)

        async def cut(length: int) -> None:
            async with free:
                _, writer = await asyncio.open_connection(where.host, where.port)
                writer.write(wire[:length])
                with suppress(ConnectionError):
                    await writer.drain()
                writer.close()

        await asyncio.gather(*map(cut, lengths))
        begun = [length for length in lengths if length >= len(request_head(len(body)))]
        wait_until(lambda: len(here.settled) == len(begun), f"{len(begun)} accounts", timeout=30)
        outcomes = {account.outcome for account in here.settled}  # the only request is taken while a body arrives
        assert outcomes <= {"client_gone", "refused"}
        assert not upstream.requests
        here.assert_nothing_open()
        assert here.post().status_code == 200  # the only request of the day is still there
