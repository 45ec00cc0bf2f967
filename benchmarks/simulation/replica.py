"""A replica of the gateway: the loop over the targets of a request, as in `bud_asgi.attempts`, in virtual time."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import msgspec

from benchmarks.simulation.clients import Turn
from benchmarks.simulation.clock import VirtualTime
from benchmarks.simulation.policies import Arrange
from benchmarks.simulation.upstream import Upstream
from bud_asgi.attempt import Attempt, Target
from bud_asgi.clock import Timing
from bud_asgi.exchange import Exchange
from bud_asgi.failover import LOADS_UPSTREAMS, MAX_ATTEMPTS, Failure, RetryBudget, classify, may_try_next, verdict_on
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.routing import Call, Fleet, Health

_FAILOVER_WITHIN = Timing().failover_within


class Served(msgspec.Struct):
    """What became of a request. Times are in seconds of virtual time.

    `targets` are the providers that it was sent to, the last of which gave the reply, if there is one. `cached` is how
    many tokens of its prompt came from the prompt cache.
    """

    started: float
    targets: list[str] = []
    first_event: float | None = None
    cached: int = 0
    succeeded: bool = False


class Replica:
    """A process of the gateway. It observes the health of targets by its own requests only."""

    def __init__(self, time: VirtualTime, upstreams: Mapping[str, Upstream], fleet: Fleet, arrange: Arrange) -> None:
        self._time = time
        self._upstreams = upstreams
        self._fleet = fleet
        self._arrange = arrange
        self._budget = RetryBudget()

    def serve(self, exchange: Exchange, turn: Turn) -> Generator[float, None, Served]:
        """Try the targets in order until one has answered."""
        served = Served(self._time.now)
        failures: list[Failure] = []
        deadline = served.started + _FAILOVER_WITHIN
        for target in self._arrange(exchange, served.started)[:MAX_ATTEMPTS]:
            if failures and not may_try_next(failures, self._budget, self._time.now, deadline):
                break
            retried = bool(failures) and failures[-1].end in LOADS_UPSTREAMS
            failure = yield from self._attempt(Attempt(target), turn, served, retried=retried)
            if failure is None:
                served.succeeded = True
                break
            failures.append(failure)
        return served

    def _attempt(
        self, attempt: Attempt, turn: Turn, served: Served, *, retried: bool
    ) -> Generator[float, None, Failure | None]:
        """One call. `retried`: it was taken from the retry budget."""
        now, target = self._time.now, attempt.target
        self._budget.count(now)
        served.targets.append(target.provider)
        health = self._fleet.health(target)
        call = health.begin(now)
        try:
            yield from self._call(target, turn, health, call, served, retried=retried)
        except GatewayError as error:
            attempt.end = classify(error, committed=served.first_event is not None)
            health.end(call, self._time.now, *verdict_on(attempt, error, self._time.now))
            return Failure(attempt.end, error)
        health.end(call, self._time.now, "ok")
        return None

    def _call(
        self, target: Target, turn: Turn, health: Health, call: Call, served: Served, *, retried: bool
    ) -> Generator[float, None, None]:
        upstream, started = self._upstreams[target.provider], self._time.now
        reply = yield from upstream.send(turn)
        now = self._time.now
        health.note_limits(now, reply.headers, lambda: now)
        health.first_byte(call, now, now - started)
        if retried:
            self._budget.give_back(now)
        served.first_event, served.cached = now, reply.cached
        yield from upstream.stream(reply)
