"""The order of a group's targets: by weight, by load, and by the key of a conversation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import sqrt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count, examples

from bud_asgi.attempt import Target
from bud_asgi.options import OptionError
from bud_asgi.routing.balance import ALWAYS_FREE, FACTOR, Candidate, by_affinity, by_weight, least_busy

KEYS = 10_000


class Busy(msgspec.Struct):
    """A load of a target."""

    in_flight: int = 0
    first_byte_seconds: float | None = None
    since: float = 0.0

    def first_byte_weight(self, now: float) -> float:
        return 0.5 ** ((now - self.since) / 60.0)


def group(*weights: float, loads: Sequence[Busy] = ()) -> list[Candidate]:
    """Candidates of these weights, named `p0`, `p1` and so on."""
    loads = loads or [Busy() for _ in weights]
    pairs = zip(weights, loads, strict=True)
    return [Candidate(Target(f"p{number}"), load, weight) for number, (weight, load) in enumerate(pairs)]


def names(ordered: Sequence[Candidate]) -> list[str]:
    """The providers in their order."""
    return [candidate.target.provider for candidate in ordered]


def deviation(shares: Counter[str], candidates: Sequence[Candidate]) -> float:
    """The largest difference between the requests of a target and its share by weight, in standard deviations."""
    requests, weights = shares.total(), sum(candidate.weight for candidate in candidates)
    worst = 0.0
    for candidate in candidates:
        share = candidate.weight / weights
        expected = requests * share
        found = shares[candidate.target.provider]
        worst = max(worst, abs(found - expected) / sqrt(expected * (1.0 - share)))
    return worst


weights = st.lists(st.integers(1, 1000), min_size=1, max_size=20)
keys = st.integers(0, (1 << 64) - 1)
loads = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 50)), min_size=1, max_size=12)

WEIGHTS: dict[str, tuple[float, ...]] = {
    "two equal targets": (1, 1),
    "one of three weights": (3, 1, 1),
    "fractions": (0.5, 0.25, 0.25),
    "twenty equal targets": (1,) * 20,
    "a small one among large ones": (1, 30, 30, 30),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_conversations_are_spread_by_weight(case: str) -> None:
    candidates = group(*WEIGHTS[case])
    first = Counter(names(by_affinity(candidates, key))[0] for key in range(KEYS))
    assert deviation(first, candidates) < 4.0


@pytest.mark.parametrize("case", WEIGHTS)
def test_requests_are_spread_by_weight_at_random(case: str) -> None:
    candidates, fraction = group(*WEIGHTS[case]), random.Random(1).random
    first = Counter(names(by_weight(candidates, fraction))[0] for _ in range(KEYS))
    assert deviation(first, candidates) < 4.0


@pytest.mark.parametrize("order", ["by_affinity", "by_weight"])
def test_the_failovers_are_spread_by_weight_as_well(order: str) -> None:
    candidates, fraction = group(3, 2, 1, 1), random.Random(1).random
    orders = [
        by_affinity(candidates, key) if order == "by_affinity" else by_weight(candidates, fraction)
        for key in range(KEYS)
    ]
    second = Counter(names(each)[1] for each in orders if each[0].target.provider == "p0")
    assert deviation(second, candidates[1:]) < 4.0


@given(weights=weights, key=keys, seed=st.integers(0, 99))
@examples(50, 2_000)
def test_every_target_is_in_the_order_once(weights: list[int], key: int, seed: int) -> None:
    candidates, fraction = (
        group(*weights, loads=[Busy(number) for number in range(len(weights))]),
        random.Random(seed).random,
    )
    for ordered in (
        by_affinity(candidates, key),
        by_weight(candidates, fraction),
        least_busy(candidates, fraction, 0.0),
    ):
        assert sorted(names(ordered)) == sorted(names(candidates))


@given(weights=weights, key=keys, data=st.data())
@examples(75, 2_000)
def test_a_target_that_leaves_takes_only_its_own_keys_along(weights: list[int], key: int, data: st.DataObject) -> None:
    candidates = group(*weights)
    gone = data.draw(st.sampled_from(candidates))
    before = by_affinity(candidates, key)
    after = by_affinity([candidate for candidate in candidates if candidate is not gone], key)
    assert after == [candidate for candidate in before if candidate is not gone]


@given(weights=weights, key=keys, data=st.data())
@examples(50, 2_000)
def test_the_order_of_the_group_does_not_matter(weights: list[int], key: int, data: st.DataObject) -> None:
    candidates = group(*weights)
    shuffled = data.draw(st.permutations(candidates))
    assert by_affinity(shuffled, key) == by_affinity(candidates, key)


@given(loads=loads, key=keys)
@examples(100, 2_000)
def test_no_target_gets_more_than_its_bound(loads: list[tuple[int, int]], key: int) -> None:
    candidates = group(*(weight for weight, _ in loads), loads=[Busy(in_flight) for _, in_flight in loads])
    ordered = by_affinity(candidates, key)
    share = sum(in_flight for _, in_flight in loads) * ordered[0].weight / sum(weight for weight, _ in loads)
    assert ordered[0].load.in_flight <= max(ALWAYS_FREE, FACTOR * share + 0.75 * sqrt(share + 1.0))


@given(loads=loads, key=keys)
@examples(50, 2_000)
def test_an_overloaded_target_is_passed_over_and_the_rest_keeps_its_order(
    loads: list[tuple[int, int]], key: int
) -> None:
    candidates = group(*(weight for weight, _ in loads), loads=[Busy(in_flight) for _, in_flight in loads])
    usual = by_affinity(group(*(weight for weight, _ in loads)), key)
    first, *rest = names(by_affinity(candidates, key))
    assert rest == [name for name in names(usual) if name != first]


def test_a_target_at_its_bound_is_left_and_found_again() -> None:
    loads = [Busy(4) for _ in range(4)]
    candidates = group(1, 1, 1, 1, loads=loads)
    favourite, second = by_affinity(candidates, 7)[:2]
    favourite_load = loads[int(favourite.target.provider[1:])]
    favourite_load.in_flight = 12
    assert by_affinity(candidates, 7)[:2] == [second, favourite]
    assert by_affinity(candidates, 7, factor=2.0)[0] is favourite
    favourite_load.in_flight = 5
    assert by_affinity(candidates, 7)[0] is favourite


def test_an_idle_gateway_keeps_parallel_requests_of_a_conversation_together() -> None:
    loads = [Busy() for _ in range(20)]
    candidates = group(*[1.0] * 20, loads=loads)
    favourite = by_affinity(candidates, 7)[0]
    loads[int(favourite.target.provider[1:])].in_flight = ALWAYS_FREE
    assert by_affinity(candidates, 7)[0] is favourite


def test_targets_differ_by_provider_and_by_model() -> None:
    targets = [Target("a"), Target("b"), Target("a", "b"), Target("b", "a"), Target("ab"), Target("ba")]
    assert len({Candidate(target, Busy()).point for target in targets}) == len(targets)
    assert Candidate(Target("a", "b"), Busy()).point == Candidate(Target("a", "b"), Busy(3), 2.0).point


def test_the_orders_never_change() -> None:
    """They must be the same in every process, on every machine, and with every version of Python."""
    candidates = [Candidate(Target(name, "m"), Busy()) for name in "abcdef"]
    orders = {key: "".join(names(by_affinity(candidates, key))) for key in (0, 1, 2, (1 << 64) - 1)}
    assert orders == {0: "bfcade", 1: "aecfbd", 2: "cbedfa", (1 << 64) - 1: "dabcef"}


LEAST_BUSY: dict[str, tuple[Busy, Busy, float]] = {
    "the one with less in flight": (Busy(1, 1.0), Busy(2, 1.0), 1.0),
    "the quicker one": (Busy(2, 0.5), Busy(2, 0.6), 1.0),
    "the quicker one, though it has more in flight": (Busy(3, 0.2), Busy(1, 1.0), 1.0),
    "the one with less in flight, if a time is not known": (Busy(1, None), Busy(2, 0.1), 1.0),
    "the one with less in flight, if no time is known": (Busy(1), Busy(2), 1.0),
    "the heavier one": (Busy(3, 1.0), Busy(3, 1.0), 2.0),
}


@pytest.mark.parametrize("case", LEAST_BUSY)
def test_of_two_the_less_busy_comes_first(case: str) -> None:
    better, worse, weight = LEAST_BUSY[case]
    candidates = group(weight, 1.0, loads=[better, worse])
    for seed in range(20):
        assert names(least_busy(candidates, random.Random(seed).random, 0.0)) == ["p0", "p1"]


def test_behind_the_two_the_order_is_that_by_weight() -> None:
    candidates = group(4.0, 3.0, 2.0, 1.0, loads=[Busy(number, 1.0) for number in (9, 1, 5, 0)])
    for seed in range(20):
        expected = names(by_weight(candidates, random.Random(seed).random))
        ordered = names(least_busy(candidates, random.Random(seed).random, 0.0))
        assert ordered[2:] == expected[2:]
        assert sorted(ordered[:2]) == sorted(expected[:2])


def test_the_load_evens_out() -> None:
    """Requests that end at random: without a look at the load, the busiest would have half as many again."""
    loads, draw = [Busy() for _ in range(8)], random.Random(1)
    candidates = group(*[1.0] * 8, loads=loads)
    running: list[Busy] = []
    peaks: list[int] = []
    for _ in range(count(5_000, 50_000)):
        load = loads[int(least_busy(candidates, draw.random, 0.0)[0].target.provider[1:])]
        load.in_flight += 1
        running.append(load)
        if len(running) > 160:
            running.pop(draw.randrange(len(running))).in_flight -= 1
            peaks.append(max(each.in_flight for each in loads))
    assert sum(peaks) / len(peaks) < 1.2 * 20


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_zero(weight: float) -> None:
    with pytest.raises(OptionError, match="weight"):
        Candidate(Target("a"), Busy(), weight)


def test_no_candidates_give_no_order() -> None:
    assert by_affinity([], 1) == by_weight([], random.random) == least_busy([], random.random, 0.0) == []


def test_the_extremes_of_the_random_numbers_are_no_error() -> None:
    candidates = group(1.0, 2.0)
    for extreme in (0.0, 1.0 - 2.0**-53):
        assert len(by_weight(candidates, lambda extreme=extreme: extreme)) == 2


slow_and_fast = st.tuples(st.floats(0.01, 1.0), st.floats(1.2, 100.0))


@given(slow_and_fast, st.integers(0, 9), st.integers(0, 1 << 16))
@examples(75, 2_000)
def test_a_slow_target_is_avoided_at_first_and_forgotten_in_the_end(
    times: tuple[float, float], in_flight: int, seed: int
) -> None:
    fast, factor = times
    candidates = group(1, 1, loads=[Busy(in_flight, fast), Busy(in_flight, fast * factor)])
    assert names(least_busy(candidates, random.Random(seed).random, 0.0)) == ["p0", "p1"]
    firsts = {names(least_busy(candidates, random.Random(each).random, 3600.0))[0] for each in range(seed, seed + 40)}
    assert firsts == {"p0", "p1"}


@given(slow_and_fast, st.floats(0.0, 1200.0), st.floats(0.0, 1200.0), st.integers(0, 1 << 16))
@examples(75, 2_000)
def test_time_never_makes_a_slower_target_the_faster_one(
    times: tuple[float, float], age: float, other_age: float, seed: int
) -> None:
    fast, factor = times
    loads = [Busy(0, fast, since=-age), Busy(1, fast * factor, since=-other_age)]
    assert names(least_busy(group(1, 1, loads=loads), random.Random(seed).random, 0.0)) == ["p0", "p1"]


def test_an_old_time_is_drawn_to_that_of_the_target_beside_it() -> None:
    """Ten times as slow, it gets a request when the other has ten in flight, after a minute when it has seven."""
    for now, busy in ((0.0, 10), (60.0, 7), (120.0, 4), (600.0, 1)):
        loads = [Busy(busy, 1.0, since=now), Busy(0, 10.0)]
        candidates = group(1, 1, loads=loads)
        assert names(least_busy(candidates, random.Random(1).random, now)) == ["p1", "p0"], now
        loads[0].in_flight = busy - 1
        if busy > 1:
            assert names(least_busy(candidates, random.Random(1).random, now)) == ["p0", "p1"], now
