"""A process that makes requests against limits in a shared store: `hammer.py URL PREFIX use TRIES` or `hold LEASE`."""

from __future__ import annotations

import asyncio
import json
import random
import sys

import redis.asyncio

from bud_asgi.limit import Limit
from bud_asgi.limits import Charge, RateLimited
from bud_asgi.limits.redis import RedisStore

REQUESTS = Limit("requests", 200, 1e6)
CONCURRENT = Limit("concurrent", 5)
TOKENS = Limit("tokens", 1000, 1e6)
RESERVED = 10


async def use(store: RedisStore, client: redis.asyncio.Redis, prefix: str, tries: int) -> dict[str, int]:
    """Make requests, ten at a time, in turn against the number of requests, and of tokens, until both are used up.

    The sum of what running requests use beyond their reservation is counted in the server, and so is their number.
    """
    used_up: set[str] = set()
    found = {"admitted": 0, "most_running": 0, "tokens": 0, "most_over": 0}

    async def a_request() -> None:
        granted = await store.reserve([Charge(REQUESTS, "a", 1), Charge(CONCURRENT, "a", 1)])
        found["admitted"] += 1
        found["most_running"] = max(found["most_running"], await client.incr(f"{prefix}:running"))
        await asyncio.sleep(random.random() / 200)
        await client.decr(f"{prefix}:running")
        await store.settle(granted.reservation, [1, 0])

    async def some_tokens() -> None:
        actual = random.randrange(2 * RESERVED)
        over = max(0, actual - RESERVED)
        most = await client.incrby(f"{prefix}:over", over)
        try:
            granted = await store.reserve([Charge(TOKENS, "a", RESERVED)])
            found["most_over"] = max(found["most_over"], most)
            await asyncio.sleep(random.random() / 200)
            found["tokens"] += actual
            await store.settle(granted.reservation, [actual])
        finally:
            await client.decrby(f"{prefix}:over", over)

    async def many() -> None:
        turns = 0
        while turns < tries or not used_up >= {"requests", "tokens"}:
            turns += 1
            for one in (a_request, some_tokens):
                try:
                    await one()
                except RateLimited as error:
                    used_up.add(error.limit_status.charge.limit.kind)

    await asyncio.gather(*(many() for _ in range(10)))
    return found


async def hold(store: RedisStore) -> None:
    """Hold all that may run at once, and renew it, until the process is killed."""
    granted = [await store.reserve([Charge(CONCURRENT, "a", 1)]) for _ in range(CONCURRENT.amount)]
    sys.stdout.write("held\n")
    sys.stdout.flush()
    while True:
        await asyncio.sleep(store.lease / 3)
        await store.renew([one.reservation for one in granted])


async def main(url: str, prefix: str, what: str, number: float) -> None:
    """Run one of the two."""
    if what == "hold":
        await hold(RedisStore(url, prefix=prefix, timeout=30.0, lease=number))
        return
    store = RedisStore(url, prefix=prefix, timeout=30.0, on_failure="closed")
    async with redis.asyncio.Redis.from_url(url) as client:
        sys.stdout.write(json.dumps(await use(store, client, prefix, int(number))))
    await store.aclose()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
