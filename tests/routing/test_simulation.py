"""The simulation of `make simulate`: the goals of its main scenario, and what docs/simulation.md concludes from it."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest

from benchmarks.simulation.clients import Turn, conversation
from benchmarks.simulation.clock import Process, VirtualTime
from benchmarks.simulation.figures import Figures, figures_of
from benchmarks.simulation.policies import (
    AFFINITY,
    LEAST_BUSY,
    PRIORITY,
    ROUND_ROBIN,
    Policy,
    affinity_within,
)
from benchmarks.simulation.run import Run, simulate
from benchmarks.simulation.scenarios import MAIN, OUTAGE, SCENARIOS, UNDISTURBED, Scenario
from benchmarks.simulation.upstream import CACHE_SECONDS, LOOKBACK, PromptCache

SEED = 13
"""Without a bound on the load of a target, the main scenario misses its goal in this run: 1.28 instead of 1.25."""

UNEVEN_SEED = 22
"""In this run, 34 % more conversations than its share belong to one target."""

NAMES = [scenario.name for scenario in SCENARIOS]


_runs: dict[tuple[str, str, int], Run] = {}


def run(scenario: Scenario, policy: Policy, seed: int = SEED) -> Run:
    """One run; it is made once."""
    key = scenario.name, policy.name, seed
    if key not in _runs:
        _runs[key] = simulate(scenario, policy, seed)
    return _runs[key]


def figures(scenario: Scenario, policy: Policy, seed: int = SEED) -> Figures:
    return figures_of([run(scenario, policy, seed)])


def lost(scenario: Scenario, policy: Policy) -> float:
    """The share of the requests that failed although no reply had begun."""
    requests = run(scenario, policy).requests
    failed = [each for each in requests if not each.served.succeeded and each.served.first_event is None]
    return len(failed) / len(requests)


def test_the_main_scenario_meets_its_goals() -> None:
    reached = figures(MAIN, AFFINITY)
    assert reached.succeeded >= 0.999
    assert reached.cached >= 0.95
    assert reached.busiest <= 1.25


def test_the_bound_keeps_both_the_cache_and_the_load() -> None:
    chosen, strict, none = (
        figures(UNDISTURBED, policy, UNEVEN_SEED) for policy in (AFFINITY, affinity_within(0.0), affinity_within(inf))
    )
    assert strict.cached < 0.95 < chosen.cached
    assert chosen.busiest < none.busiest - 0.05
    assert none.busiest > 1.25


def test_without_health_more_attempts_are_wasted() -> None:
    for policy in (ROUND_ROBIN, PRIORITY):
        assert figures(MAIN, policy).wasted > 3 * figures(MAIN, AFFINITY).wasted


def test_with_priority_order_one_target_has_the_load_of_three() -> None:
    assert figures(MAIN, PRIORITY).busiest > 3


def test_without_affinity_the_input_costs_more() -> None:
    for policy in (LEAST_BUSY, ROUND_ROBIN):
        others = figures(MAIN, policy)
        assert others.cached < 0.85
        assert others.input_cost > 1.6 * figures(MAIN, AFFINITY).input_cost


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_in_every_scenario_affinity_loses_no_request_and_reads_from_the_cache(scenario: Scenario) -> None:
    reached, round_robin, priority = (figures(scenario, policy) for policy in (AFFINITY, ROUND_ROBIN, PRIORITY))
    assert lost(scenario, AFFINITY) <= 0.001
    assert reached.cached > 0.9
    assert reached.cached > round_robin.cached + 0.1
    assert reached.wasted < min(round_robin.wasted, priority.wasted)
    assert reached.added_p99 < round_robin.added_p99


def test_where_most_targets_are_out_requests_fail_without_health() -> None:
    assert lost(OUTAGE, LEAST_BUSY) <= 0.001
    assert lost(OUTAGE, ROUND_ROBIN) > 0.03
    assert lost(OUTAGE, PRIORITY) > 0.2


def test_a_seed_gives_the_same_run_each_time() -> None:
    assert simulate(MAIN, AFFINITY, SEED).requests == run(MAIN, AFFINITY).requests
    assert simulate(MAIN, AFFINITY, 1).requests != run(MAIN, AFFINITY).requests


def test_processes_go_on_in_the_order_of_their_times() -> None:
    time, seen = VirtualTime(), list[tuple[str, float]]()

    def waiting(name: str, *seconds: float) -> Process:
        for each in seconds:
            yield each
            seen.append((name, time.now))

    time.start(waiting("a", 3.0, 3.0))
    time.start(waiting("b", 2.0, 4.0))
    time.run()
    assert seen == [("b", 2.0), ("a", 3.0), ("b", 6.0), ("a", 6.0)]


def turn(number: int, tokens: int) -> Turn:
    return Turn(conversation=0, application=0, number=number, tokens=tokens, pause=0.0, reply=1.0, jitter=0.0)


def test_a_prompt_is_read_from_the_cache_within_five_minutes_of_the_last_read() -> None:
    cache, now = PromptCache(), 0.0
    assert cache.read(turn(0, 20_000), now) == 0
    for number in (1, 2):
        now += CACHE_SECONDS - 1.0
        assert cache.read(turn(number, 20_000 + number), now) == 20_000 + number - 1
    assert cache.read(turn(3, 20_003), now + CACHE_SECONDS) == 0


def test_a_prefix_too_many_turns_back_is_not_found_but_that_of_the_application_is() -> None:
    cache = PromptCache()
    cache.read(turn(0, 20_000), 0.0)
    assert cache.read(turn(LOOKBACK, 30_000), 1.0) == 20_000
    assert cache.read(turn(2 * LOOKBACK + 1, 40_000), 2.0) == 12_000


def test_the_turns_of_a_conversation_grow_its_prompt() -> None:
    turns = list(conversation(7, 20, seed=1))
    assert [turn.number for turn in turns] == list(range(20))
    assert all(one.tokens < other.tokens for one, other in pairwise(turns))
    assert all(2.0 <= turn.reply <= 30.0 for turn in turns)
