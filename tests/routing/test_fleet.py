"""The fleet: the order in which a request tries its targets, and the visible state of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.routing import fleet as fleet_module
from bud_asgi.routing.fleet import Fleet
from bud_asgi.routing.health import Call, Health, Verdict
from bud_asgi.state import TargetState

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NOW = 100.0
RESET = {
    b"anthropic-ratelimit-requests-limit": b"100",
    b"anthropic-ratelimit-requests-remaining": b"1",
    b"anthropic-ratelimit-requests-reset": b"2027-01-15T08:01:30Z",
}


def up(health: Health) -> None:
    health.end(health.begin(NOW), NOW, "ok")


def down(health: Health) -> None:
    for _ in range(5):
        health.end(health.begin(NOW), NOW, "failed")


def due(health: Health) -> None:
    for _ in range(5):
        health.end(health.begin(0.0), 0.0, "failed")


def probing(health: Health) -> None:
    due(health)
    health.begin(NOW)


def refused(health: Health) -> None:
    health.end(health.begin(NOW), NOW, "credential")


def busy(health: Health) -> None:
    health.end(health.begin(NOW), NOW, "busy")


def nearly_full(health: Health) -> None:
    health.note_limits(NOW, RESET, lambda: 1_800_000_000.0)


def full(health: Health) -> None:
    health.concurrency = 1
    health.begin(NOW)


Set = Callable[[Health], None]
ORDERS: dict[str, tuple[str, dict[str, Set], str]] = {
    "all are up": ("ab cd", {}, "ba dc"),
    "one is down": ("ab cd", {"b": down}, "a dc b"),
    "one is busy": ("ab cd", {"b": busy}, "a dc b"),
    "a group is down": ("ab cd", {"a": down, "b": down}, "dc ba"),
    "one is due for a probe": ("ab cd", {"b": due}, "ba dc"),
    "one has a probe": ("ab cd", {"b": probing}, "a dc b"),
    "one is nearly full": ("ab cd", {"b": nearly_full}, "a dc b"),
    "one is full": ("ab cd", {"b": full}, "a dc"),
    "the full are left out, those that are down come last": (
        "ab cd",
        {"b": full, "a": down, "d": nearly_full},
        "c d a",
    ),
    "all are down: the soonest first": ("abc", {"a": refused, "b": down, "c": busy}, "c b a"),
    "all are down, in several groups": ("a b c", {"a": refused, "b": down, "c": busy}, "c b a"),
    "all are down or full": ("abc", {"a": full, "b": refused, "c": down}, "c b"),
    "all are full": ("ab c", {"a": full, "b": full, "c": full}, ""),
    "no groups": ("", {}, ""),
    "an only target": ("a", {}, "a"),
    "an only target that is down": ("a", {"a": down}, "a"),
    "an only target that is nearly full": ("a", {"a": nearly_full}, "a"),
    "an only target that is full": ("a", {"a": full}, ""),
}


def backwards(targets: Sequence[Target]) -> Sequence[Target]:
    return targets[::-1]


@pytest.mark.parametrize(("groups", "states", "expected"), ORDERS.values(), ids=ORDERS.keys())
def test_the_order_of_the_targets(groups: str, states: dict[str, Set], expected: str) -> None:
    fleet = Fleet()
    for name, bring in states.items():
        bring(fleet.health(Target(name)))
    arranged = fleet.arrange([[Target(name) for name in group] for group in groups.split()], NOW, backwards)
    assert [target.provider for target in arranged] == list(expected.replace(" ", ""))


def test_a_group_of_one_is_not_ordered() -> None:
    def order(targets: Sequence[Target]) -> Sequence[Target]:
        raise AssertionError

    assert list(Fleet().arrange([[Target("a")], [Target("b")]], NOW, order)) == [Target("a"), Target("b")]


def test_a_target_is_a_provider_and_its_model() -> None:
    fleet = Fleet()
    down(fleet.health(Target("a", "opus")))
    assert fleet.health(Target("a", "opus")).state(NOW)[0] == "down"
    assert fleet.health(Target("a", "haiku")).state(NOW)[0] == "up"
    assert fleet.health(Target("a")).state(NOW)[0] == "up"


def test_concurrency_is_per_target() -> None:
    fleet = Fleet(lambda target: 2 if target.provider == "a" else None)
    groups = [[Target("a"), Target("b")]]
    assert list(fleet.arrange(groups, NOW, list)) == [Target("a"), Target("b")]
    calls = [fleet.health(target).begin(NOW) for target in (Target("a"), Target("a"), *[Target("b")] * 100)]
    assert list(fleet.arrange(groups, NOW, list)) == [Target("b")]
    fleet.health(Target("a")).end(calls[0], NOW, "ok")
    assert list(fleet.arrange(groups, NOW, list)) == [Target("a"), Target("b")]


def test_the_snapshot_has_the_state_of_all_targets() -> None:
    fleet = Fleet()
    health = fleet.health(Target("a", "opus"))
    health.first_byte(health.begin(NOW), NOW, 0.5)
    down(fleet.health(Target("b")))
    probing(fleet.health(Target("c")))
    nearly_full(fleet.health(Target("d")))
    no_reply = "no connection, no reply in time, an error of the server's, or a broken reply"
    failed, left = "5 calls in a row failed", "less than 5 % of the upstream's rate limit is left"
    assert list(fleet.snapshot(NOW)) == [
        TargetState(Target("a", "opus"), "up", "", None, 1, 0.5, 1, 0),
        TargetState(Target("b"), "down", failed, 5.0, 0, None, 5, 5, "open", no_reply, 0.0),
        TargetState(Target("c"), "probing", failed, None, 1, None, 6, 5, "half_open", no_reply, NOW),
        TargetState(Target("d"), "up", left, None, 0, None, 0, 0),
    ]


def test_the_number_of_targets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_TARGETS", 10)
    fleet = Fleet()
    running = fleet.health(Target("running"))
    running.begin(NOW)
    down(fleet.health(Target("down")))
    for number in range(100):
        fleet.health(Target(f"healthy {number}"))
        assert len(fleet.snapshot(NOW)) <= 10
    assert fleet.health(Target("running")) is running
    assert fleet.health(Target("down")).state(NOW)[0] == "down"


def test_targets_with_calls_are_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_TARGETS", 10)
    fleet = Fleet()
    for number in range(30):
        fleet.health(Target(f"running {number}")).begin(NOW)
    assert sum(state.in_flight for state in fleet.snapshot(NOW)) == 30


TARGETS = tuple(Target(name, model) for name in "abc" for model in (None, "opus"))
GROUPS = (TARGETS[:3], TARGETS[3:4], TARGETS[4:])
_moves = st.lists(
    st.tuples(
        st.sampled_from(TARGETS),
        st.sampled_from(["begin", "begin", "end", "limits"]),
        st.sampled_from(VERDICTS),
        st.none() | st.floats(0.0, 1000.0),
        st.floats(0.0, 30.0) | st.sampled_from([-3600.0, 3600.0]),
    ),
    max_size=80,
)
Move = tuple[Target, str, Verdict, float | None, float]


@given(_moves, st.none() | st.integers(1, 3))
@examples(100, 2_000)
def test_every_target_with_room_comes_once(moves: Sequence[Move], concurrency: int | None) -> None:
    fleet = Fleet(lambda _: concurrency)
    running: dict[Target, list[Call]] = {target: [] for target in TARGETS}
    now = 0.0
    for target, move, verdict, retry_after, seconds in moves:
        now += seconds
        health = fleet.health(target)
        if move == "begin":
            running[target].append(health.begin(now))
        elif move == "limits":
            health.note_limits(now, RESET, lambda: 1_800_000_000.0)
        elif running[target]:
            health.end(running[target].pop(), now, verdict, retry_after)
        arranged = fleet.arrange(GROUPS, now, backwards)
        healths = [fleet.health(target) for target in TARGETS]
        with_room = [target for target, health in zip(TARGETS, healths, strict=True) if not health.is_full]
        assert sorted(map(repr, arranged)) == sorted(map(repr, with_room))
        if arranged:
            first = fleet.health(arranged[0])
            assert first.may_take(now) or not any(health.may_take(now) for health in healths)
        assert all(state.in_flight == len(running[state.target]) for state in fleet.snapshot(now))
