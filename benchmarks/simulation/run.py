"""One run of a scenario under a policy: conversations, replicas and upstreams, from a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from random import Random

import msgspec
from starlette.types import Message, Scope

from benchmarks.simulation.clients import Turn, conversation
from benchmarks.simulation.clock import Process, VirtualTime
from benchmarks.simulation.policies import MODEL, Policy
from benchmarks.simulation.replica import Replica, Served
from benchmarks.simulation.scenarios import Scenario
from benchmarks.simulation.upstream import PromptCache, Upstream
from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange
from bud_asgi.routing import Chooser


class Request(msgspec.Struct, frozen=True):
    """A request and what became of it.

    `ideal_cached` is how many tokens of its prompt a target that never fails and gets all requests has in its cache.
    """

    turn: Turn
    served: Served
    ideal_cached: int


class Run(msgspec.Struct, frozen=True):
    """All requests of a run, and what its upstreams have billed for them, in input tokens."""

    scenario: Scenario
    requests: list[Request]
    billed: float


def simulate(scenario: Scenario, policy: Policy, seed: int) -> Run:
    """Run a scenario to its end. The same seed gives the same run."""
    return _Simulation(scenario, policy, seed).run()


class _Simulation:
    def __init__(self, scenario: Scenario, policy: Policy, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._random = Random(seed)
        self._time = VirtualTime()
        targets = [Target(f"target-{number}") for number in range(scenario.targets)]
        self._upstreams = {target.provider: self._upstream(number) for number, target in enumerate(targets)}
        self._replicas = [self._replica(policy, targets) for _ in range(scenario.replicas)]
        self._ideal = PromptCache()
        self._requests: list[Request] = []

    def run(self) -> Run:
        conversations = asyncio.run(exchanges(self._scenario.conversations, self._seed))
        for number, exchange in enumerate(conversations):
            self._time.start(self._converse(exchange, conversation(number, self._scenario.turns, self._seed)))
        self._time.run()
        return Run(self._scenario, self._requests, sum(upstream.billed for upstream in self._upstreams.values()))

    def _upstream(self, number: int) -> Upstream:
        faults = [fault for fault in self._scenario.faults if fault.target == number]
        return Upstream(self._time, faults, self._random)

    def _replica(self, policy: Policy, targets: Sequence[Target]) -> Replica:
        chooser = Chooser(fraction=self._random.random)
        return Replica(self._time, self._upstreams, chooser.fleet, policy.arranger(chooser, targets))

    def _converse(self, exchange: Exchange, turns: Iterable[Turn]) -> Process:
        """A client: it sends a turn a while after the reply to the one before, to a random replica."""
        for turn in turns:
            yield turn.pause
            ideal_cached = self._ideal.read(turn, self._time.now)
            served = yield from self._random.choice(self._replicas).serve(exchange, turn)
            self._requests.append(Request(turn, served, ideal_cached))


async def exchanges(conversations: int, seed: int) -> list[Exchange]:
    """A request of each conversation that has been read; the client names its session."""
    return [await _exchange(f"{seed}-{number}".encode()) for number in range(conversations)]


async def _exchange(session: bytes) -> Exchange:
    headers = [
        (b"anthropic-version", b"2023-06-01"),
        (b"content-type", b"application/json"),
        (b"x-claude-code-session-id", session),
    ]
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": headers}
    exchange = Exchange.of(scope)
    exchange.operation = "messages.create"

    async def receive() -> Message:
        body = {"model": MODEL, "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello"}]}
        return {"type": "http.request", "body": msgspec.json.encode(body)}

    await exchange.request(receive)
    return exchange
