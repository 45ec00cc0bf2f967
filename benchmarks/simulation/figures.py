"""The figures of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from benchmarks.simulation.run import Request, Run
from benchmarks.simulation.upstream import first_event_seconds, input_price, output_price

BUCKET = 30
"""Seconds that are one point of a plot."""
PLOTTED = 720
"""Seconds that are plotted; most conversations have ended by then."""


class Figures(msgspec.Struct, frozen=True):
    """What a policy comes to in a scenario. Shares are from 0 to 1, times in seconds.

    `succeeded`: the requests that got a whole reply. `added_p50`, `added_p99`: how much later their first event came
    than from an idle target with the whole conversation in its cache. `wasted`: the attempts without a whole reply.
    `spent_twice`: what was billed for such attempts, of all that was billed. `cached`: the tokens that were read from
    the prompt cache, of those that a single target which never fails would have read. `input_cost`: the price of all
    prompts, relative to that target's. `busiest`: the attempts at the busiest target, relative to the mean of all.
    """

    succeeded: float
    added_p50: float
    added_p99: float
    wasted: float
    spent_twice: float
    cached: float
    input_cost: float
    busiest: float


class Point(msgspec.Struct, frozen=True):
    """Half a minute of a plot: shares from 0 to 1, and a time in seconds. `affected` are attempts at faulty targets."""

    succeeded: float
    cached: float
    added_p95: float
    affected: float


def figures_of(runs: Sequence[Run]) -> Figures:
    """The figures of several runs of a scenario taken together; `busiest` is the mean of theirs."""
    requests = list(chain.from_iterable(run.requests for run in runs))
    served = [request for request in requests if request.served.succeeded]
    added = _added_seconds(served)
    billed = sum(run.billed for run in runs)
    output = sum(output_price(request.turn) for request in served)
    delivered = output + sum(input_price(request.turn, request.served.cached) for request in served)
    return Figures(
        succeeded=len(served) / len(requests),
        added_p50=_percentile(added, 0.5),
        added_p99=_percentile(added, 0.99),
        wasted=1.0 - len(served) / sum(len(request.served.targets) for request in requests),
        spent_twice=max(0.0, 1.0 - delivered / billed),
        cached=_cached_share(requests),
        input_cost=(billed - output) / sum(input_price(request.turn, request.ideal_cached) for request in served),
        busiest=sum(_busiest(run) for run in runs) / len(runs),
    )


def points_of(runs: Sequence[Run]) -> list[Point]:
    """The course of several runs of a scenario taken together, by the time at which requests began."""
    buckets: list[list[Request]] = [[] for _ in range(PLOTTED // BUCKET)]
    for request in chain.from_iterable(run.requests for run in runs):
        index = int(request.served.started // BUCKET)
        if index < len(buckets):
            buckets[index].append(request)
    affected = {f"target-{fault.target}" for fault in runs[0].scenario.faults}
    return [_point(requests, affected) for requests in buckets]


def _point(requests: Sequence[Request], affected: set[str]) -> Point:
    served = [request for request in requests if request.served.succeeded]
    attempts = [target for request in requests for target in request.served.targets]
    return Point(
        succeeded=len(served) / len(requests),
        cached=_cached_share(requests),
        added_p95=_percentile(_added_seconds(served), 0.95),
        affected=sum(target in affected for target in attempts) / len(attempts),
    )


def _added_seconds(served: Iterable[Request]) -> list[float]:
    """How much later the first event of each came than it could, in ascending order."""
    return sorted(
        (request.served.first_event or 0.0)
        - request.served.started
        - first_event_seconds(request.turn, request.ideal_cached)
        for request in served
    )


def _cached_share(requests: Sequence[Request]) -> float:
    cached = sum(request.served.cached for request in requests if request.served.succeeded)
    return cached / max(1, sum(request.ideal_cached for request in requests))


def _busiest(run: Run) -> float:
    counts = Counter(target for request in run.requests for target in request.served.targets)
    return max(counts.values()) / counts.total() * run.scenario.targets


def _percentile(ordered: Sequence[float], share: float) -> float:
    """A percentile of numbers in ascending order; 0 if there are none."""
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0
