"""What limits cost: `make bench`.

- admission and settlement of a request in memory, with four limits and with none (microseconds);
- the memory that the buckets of 100,000 principals take, and what of it is left when they are at rest (megabytes).

With `--quick` everything is measured with small counts.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from cost import each, table

from bud_asgi import Limit, MemoryStore, Principal
from bud_asgi.exchange import Attempt, Exchange, Target
from bud_asgi.limits import Limiter
from bud_asgi.protocol.request import decode_request
from bud_asgi.protocol.usage import Usage
from bud_asgi.tasks import BackgroundTasks

PRINCIPALS = 1000 if "--quick" in sys.argv else 100_000
BODY = b'{"model":"claude-haiku-4-5","max_tokens":1024,"messages":[{"role":"user","content":"What is a monad?"}]}'
FOUR = [
    Limit("requests", 1_000_000),
    Limit("input_tokens", 1_000_000_000),
    Limit("output_tokens", 1_000_000_000),
    Limit("concurrent", 1000),
]
TASKS = BackgroundTasks()


def exchange_of(principal: str) -> Exchange:
    """A small request, as it is before it is admitted."""
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/messages", "headers": []}
    exchange = Exchange.of(scope)
    exchange.operation, exchange.principal = "messages.create", Principal(id=principal)
    exchange._request = decode_request(BODY)  # noqa: SLF001 - what reading the body leaves
    return exchange


def serve(limiter: Limiter, exchange: Exchange) -> None:
    """Check, admit and settle a request that has been answered."""
    admission = limiter.admit_now(exchange, limiter.check(exchange))
    assert admission is not None
    exchange.usage = Usage(input_tokens=20, output_tokens=30)
    exchange.attempts = [Attempt(Target("anthropic"), end="answered")]
    limiter.settle(admission, exchange, TASKS)


def pieces() -> list[tuple[str, float]]:
    """The time of a request."""

    def of(limits: list[Limit]) -> float:
        limiter, exchange = Limiter(limits), exchange_of("ann")
        exchange.usage = Usage(input_tokens=20, output_tokens=30)
        exchange.attempts = [Attempt(Target("anthropic"), end="answered")]

        def piece() -> None:
            admission = limiter.admit_now(exchange, limiter.check(exchange))
            assert admission is not None
            limiter.settle(admission, exchange, TASKS)
            exchange.reply_headers.clear()

        return each(piece)

    two = [Limit("requests", 1_000_000), Limit("requests", 100_000_000, per="all")]
    return [("without limits", of([])), ("two limits on requests", of(two)), ("four limits", of(FOUR))]


def memory() -> list[tuple[str, float]]:
    """The megabytes that this process grows by."""
    now = [0.0]
    limiter = Limiter(FOUR, MemoryStore(clock=lambda: now[0]))
    gc.collect()
    before = _resident()
    for number in range(PRINCIPALS):
        serve(limiter, exchange_of(f"principal-{number:06}"))
    gc.collect()
    used = _resident() - before
    now[0] += 3600.0
    for _ in range(PRINCIPALS // 50):  # some requests of one principal let the store remove the others
        now[0] += 0.1
        serve(limiter, exchange_of("ann"))
    gc.collect()
    return [(f"{PRINCIPALS:,} principals, four limits", used), ("the same at rest", _resident() - before)]


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / 1e6


def main() -> None:
    """Measure everything and print it."""
    table("limits in memory: a request is admitted and settled", "µs", pieces())
    table("memory of limits", "MB", memory())


if __name__ == "__main__":
    main()
