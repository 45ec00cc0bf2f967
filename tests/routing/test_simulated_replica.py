"""The simulated replica beside the real gateway: the same targets for the same requests, and the same health after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import get_args

import pytest
from support.asgi import VERSION, Receiving, Sent, chunks, http_scope

from benchmarks.simulation.clients import Turn
from benchmarks.simulation.clock import Process, VirtualTime
from benchmarks.simulation.policies import MODEL
from benchmarks.simulation.replica import Replica
from benchmarks.simulation.run import exchanges
from benchmarks.simulation.scenarios import ErrorKind, Fault
from benchmarks.simulation.upstream import Upstream
from bud_asgi import Anonymous, Anthropic, Exchange, MessagesApp, Route
from bud_asgi.routing import Chooser, RouteTable
from bud_asgi.state import TargetState
from bud_asgi.testing import Reply, StandIn, error, reset_before_head, text

NAMES = ("one", "two", "three")
REQUESTS = 8
BODY = {"model": MODEL, "max_tokens": 1, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}

REPLIES: dict[ErrorKind, Reply | None] = {
    "connect": None,
    "server_error": error(500, "api_error", "no words"),
    "reset": reset_before_head(),
    "overloaded": error(529, "overloaded_error", "no words"),
    "credential": error(401, "authentication_error", "no words"),
}
"""What a target does whose requests fail so; it refuses connections for `connect`."""


class Observed:
    """The targets of each request, whether it succeeded, and the health of the targets afterwards."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[str], bool]] = []
        self.health: list[tuple[str, str, str, int, int, int]] = []

    def note_health(self, states: Sequence[TargetState]) -> None:
        """Keep what does not depend on the time."""
        self.health = [
            (each.target.provider, each.state, each.reason, each.in_flight, each.calls, each.failures)
            for each in states
        ]


async def in_the_gateway(reply: Reply | None, requests: int) -> Observed:
    observed = Observed()

    async def settle(exchange: Exchange) -> None:
        targets = [attempt.target.provider for attempt in exchange.attempts]
        observed.requests.append((targets, exchange.attempts[-1].end == "answered"))

    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(StandIn(strict=False)) for _ in NAMES]
        for upstream in upstreams:
            upstream.always(text("Hello"))
        if reply is None:
            await upstreams[0].refuse_connections()
        else:
            upstreams[0].always(reply)
        providers = [
            Anthropic(name=name, api_key=upstream.api_key, base_url=upstream.base_url)
            for name, upstream in zip(NAMES, upstreams, strict=True)
        ]
        routes = [Route("*", to=NAMES)]
        app = MessagesApp(auth=Anonymous(), providers=providers, routes=routes, on_settled=settle)
        await stack.enter_async_context(app.lifespan())
        for _ in range(requests):
            await app(http_scope([VERSION]), Receiving(*chunks(json.dumps(BODY).encode())), Sent())
        observed.note_health(app.state().targets)
    return observed


async def in_the_simulation(kind: ErrorKind, requests: int) -> Observed:
    observed, time, chooser = Observed(), VirtualTime(), Chooser()
    route = RouteTable([Route(MODEL, NAMES)]).resolve(MODEL, None)
    always = Fault(since=0.0, until=1000.0, errors={kind: 1.0})
    upstreams = {name: Upstream(time, [always] if name == NAMES[0] else [], Random(1)) for name in NAMES}
    replica = Replica(
        time, upstreams, chooser.fleet, lambda exchange, now: chooser.arrange(exchange, route, route.targets, now)
    )
    (exchange,) = await exchanges(1, seed=1)

    def client() -> Process:
        for number in range(requests):
            turn = Turn(0, 0, number, tokens=100 + number, pause=0.0, reply=0.01, jitter=0.0)
            served = yield from replica.serve(exchange, turn)
            observed.requests.append((served.targets, served.succeeded))

    time.start(client())
    time.run()
    observed.note_health(chooser.fleet.snapshot(time.now))
    return observed


@pytest.mark.parametrize("kind", get_args(ErrorKind))
async def test_a_simulated_replica_decides_as_the_gateway_does(kind: ErrorKind) -> None:
    requests = (
        1 if kind == "overloaded" else REQUESTS
    )  # a busy target is paused for a second, less than two requests take
    real, simulated = await in_the_gateway(REPLIES[kind], requests), await in_the_simulation(kind, requests)
    assert simulated.requests == real.requests
    assert simulated.health == real.health
