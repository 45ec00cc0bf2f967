"""What it costs to choose among the targets of a route: `make bench`.

- the key of a conversation: from a session header, or from a body of 400 KB, whose fields are known by then;
- the order of twenty targets by that key, by weight, and by load;
- the whole choice of a gateway, with the health of the targets, and what a request needs of them.

A figure is the least of many short runs: other programs on the machine only add to it. With `--quick` there are few.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import timeit
from collections.abc import Callable
from functools import partial

import msgspec
from cost import table
from starlette.types import Message, Scope

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.protocol.account_state import pinning_state
from bud_asgi.providers import Anthropic, Bedrock, Provider
from bud_asgi.routing import Chooser, Route, RouteTable, resolve
from bud_asgi.routing.affinity import affinity_key
from bud_asgi.routing.balance import Candidate, by_affinity, by_weight, least_busy

RUNS = 3 if "--quick" in sys.argv else 2000
CALLS = 20
SESSION = (b"x-claude-code-session-id", b"7c1f3a52-9be8-4e0f-9d51-0a4e1fd0c6b7")
CLAUDE_CODE = (
    b"claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
    b"mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20"
)
CODE = 'def area(width: float, height: float) -> float:\n    """Multiply."""\n    return width * height\n\n\n'


class Load(msgspec.Struct):
    """A load that does not change."""

    in_flight: int
    first_byte_seconds: float | None

    def first_byte_weight(self, now: float) -> float:
        """The time is always new."""
        return 1.0


def conversation(size: int, first: str) -> bytes:
    """A body of about that size in bytes: tools, a system prompt of two blocks, and turns that grow it."""
    text = CODE * 40
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    tools = [{"name": f"tool_{number}", "description": text[:1500], "input_schema": schema} for number in range(20)]
    attribution = "x-anthropic-billing-header: cc_version=2.1.0; cc_entrypoint=cli; cch=1a2b3;"
    system = [{"type": "text", "text": attribution}, {"type": "text", "text": CODE * 200}]
    block = {"type": "text", "text": first, "cache_control": {"type": "ephemeral"}}
    turns = [{"role": "user", "content": [block]}]
    body = {"model": "claude-haiku-4-5", "max_tokens": 1024, "system": system, "tools": tools, "stream": True}
    left = size - len(json.dumps({**body, "messages": turns}))
    for number in range(left // len(text)):
        role = "user" if number % 2 else "assistant"
        turns.append({"role": role, "content": [{"type": "text", "text": text}]})
    return json.dumps({**body, "messages": turns}, separators=(",", ":")).encode()


async def exchange_of(body: bytes, *headers: tuple[bytes, bytes]) -> Exchange:
    """A request that has been read."""
    lines = [(b"anthropic-version", b"2023-06-01"), (b"content-type", b"application/json"), *headers]
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": lines}
    exchange = Exchange.of(scope)
    exchange.operation, exchange.principal = "messages.create", Principal(id="ann")

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    await exchange.request(receive)
    return exchange


def least(call: Callable[[], object]) -> float:
    """Microseconds for a call, the least of all runs."""
    return min(timeit.repeat(call, number=CALLS, repeat=RUNS)) / CALLS * 1e6


def choice(count: int, exchange: Exchange) -> Callable[[], object]:
    """The choice among a group of that many targets, of which every other one is on Bedrock."""
    providers: dict[str, Provider] = {
        f"p{number}": Bedrock(name=f"p{number}", region="us-east-1", access_key="AKIAIOSFODNN7EXAMPLE", secret_key="x")
        if number % 2
        else Anthropic(name=f"p{number}", api_key="x")
        for number in range(count)
    }
    table, chooser = RouteTable([Route("*", [list(providers)])]), Chooser(providers)
    resolve(table, exchange)
    targets = table.routes[0].targets
    return lambda: chooser.arrange(exchange, exchange.route, targets, 0.0)


def main() -> None:
    """Measure and print it."""
    with_session = asyncio.run(exchange_of(conversation(400_000, "Hello"), SESSION))
    exchanges = {
        "from 400 KB, whose first turn is short": asyncio.run(exchange_of(conversation(400_000, "Hello"))),
        "from 400 KB, whose first turn is 30 KB": asyncio.run(
            exchange_of(conversation(400_000, (CODE * 400)[:28_000]))
        ),
        "from 400 KB, almost all in its first turn": asyncio.run(exchange_of(conversation(400_000, CODE * 3300))),
    }
    idle = [Candidate(Target(f"provider-{number}"), Load(1, 0.8)) for number in range(20)]
    busy = [Candidate(Target(f"provider-{number}"), Load(8, 0.8)) for number in range(20)]

    def whole() -> object:
        return by_affinity(busy, affinity_key(with_session) or 0)

    small = b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'
    listed = [(b"anthropic-beta", flags) for flags in (CLAUDE_CODE, CLAUDE_CODE + b",files-api-2025-04-14")]
    plain, usual, needing = (asyncio.run(exchange_of(small, SESSION, *lines)) for lines in ((), listed[:1], listed[1:]))
    rows = [
        ("the whole choice of one target", least(choice(1, plain))),
        ("the whole choice among two, small body", least(choice(2, plain))),
        ("the whole choice among twenty, small body", least(choice(20, plain))),
        ("the whole choice among twenty, with the betas of Claude Code", least(choice(20, usual))),
        ("the whole choice among twenty, of which ten lack a beta", least(choice(20, needing))),
        ("the whole choice among twenty, 400 KB", least(choice(20, with_session))),
        ("state of one account in 400 KB", least(lambda: pinning_state(with_session.decoded_request))),
        ("the key from a session header, and the order of twenty busy targets", least(whole)),
        ("the key: from a session header", least(lambda: affinity_key(with_session))),
        *((f"the key: {name}", least(partial(affinity_key, exchange))) for name, exchange in exchanges.items()),
        ("twenty targets by affinity, idle", least(lambda: by_affinity(idle, 1))),
        ("twenty targets by affinity, busy", least(lambda: by_affinity(busy, 1))),
        ("twenty targets by weight", least(lambda: by_weight(busy, random.random))),
        ("twenty targets by load", least(lambda: least_busy(busy, random.random, 0.0))),
        ("two targets by affinity, busy", least(lambda: by_affinity(busy[:2], 1))),
    ]
    table("choosing among the targets of a route", "µs", rows)


if __name__ == "__main__":
    main()
