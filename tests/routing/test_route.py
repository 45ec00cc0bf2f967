"""A route: the forms of its targets, what it refuses, and which routes can never be used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.test_patterns import by_hand
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.options import OptionError
from bud_asgi.routing import Route, unreachable
from bud_asgi.routing.conditions import covers

A, B, C = Target("a"), Target("b"), Target("c")
HEAVY = Target("b", weight=3)

GROUPS: dict[str, tuple[list[Any], tuple[tuple[Target, ...], ...], str | None]] = {
    "names are tried in order": (["a", "b"], ((A,), (B,)), None),
    "a nested list is a group": ([["a", "b"], "c"], ((A, B), (C,)), "affinity"),
    "a nested list of one is a group of one": ([["a"], "b"], ((A,), (B,)), None),
    "a nested list may stand behind": (["a", ["b", "c"]], ((A,), (B, C)), "affinity"),
    "a tuple is a list": ([("a", "b")], ((A, B),), "affinity"),
    "a weight makes a group of the whole list": (["a", HEAVY, "c"], ((A, HEAVY, C),), "affinity"),
    "a weight of 1 does too": (["a", Target("b", weight=1)], ((A, Target("b", weight=1)),), "affinity"),
    "a weight in a nested list makes no other group": ([["a", HEAVY], "c"], ((A, HEAVY), (C,)), "affinity"),
    "a concurrency makes no group": (["a", Target("b", concurrency=2)], ((A,), (Target("b", concurrency=2),)), None),
}


@pytest.mark.parametrize(("to", "groups", "balance"), GROUPS.values(), ids=GROUPS.keys())
def test_targets_form_groups(to: list[Any], groups: tuple[tuple[Target, ...], ...], balance: str | None) -> None:
    route = Route("m*", to)
    assert route.groups == groups
    assert route.targets == tuple(target for group in groups for target in group)
    assert route.balance == balance
    assert msgspec.structs.replace(route, model="n*").groups == groups


def test_a_route_may_choose_how_its_groups_share_the_load() -> None:
    assert Route("m", [["a", "b"]], balance="least_busy").balance == "least_busy"
    assert Route("m", [["a", "b"]]) == Route("m", [["a", "b"]], balance="affinity")


TARGETS = "expected a list of targets: names of providers, or pairs of a provider and its model"
ONE = "expected the name of a provider, or a provider with a model"
PATTERNS = 'expected a list of names or patterns with *, such as ["team-*"]'
HEADERS = 'expected a mapping of header names to values or patterns with *, such as {"x-tier": "gold-*"}'
ALONE = "meaningless for a target that shares its load with no other; expected a group: to = [[...]]"
BALANCES = 'expected "affinity", "least_busy" or "weighted"'
NEVER = "an empty list matches nothing, so that the route would never be used"

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty group": ({"to": ["a", []]}, f"to[1]: {TARGETS}, got an empty list"),
    "a group in a group": ({"to": [[["a"]]]}, f"to[0][0]: {ONE}, got a list"),
    "a number in a group": ({"to": [["a", 3]]}, f"to[0][1]: {ONE}, got 3"),
    "a mapping for a list": ({"to": {"a": "b"}}, f"to: {TARGETS}, got a dict"),
    "a target twice": ({"to": ["a", "b", "a"]}, "to[2]: the same provider and model as to[0]"),
    "a target twice, in groups": ({"to": ["a", ["b", "a"]]}, "to[1][1]: the same provider and model as to[0]"),
    "a target twice, with another weight": ({"to": [["a", Target("a", weight=2)]]}, "to[0][1]: the same provider and"),
    "the own name of an exact model": (
        {"model": "m", "to": ["a", Target("a", "m")]},
        "to[1]: the same provider and model as to[0]",
    ),
    "a weight alone": ({"to": [HEAVY]}, f"to[0].weight: {ALONE}"),
    "a weight beside a group": ({"to": [["a", "c"], HEAVY]}, f"to[1].weight: {ALONE}"),
    "a weight in a group of one": ({"to": [[HEAVY], "a"]}, f"to[0][0].weight: {ALONE}"),
    "a balance of nothing": (
        {"to": ["a", "b"], "balance": "weighted"},
        "balance: meaningless without a group of several targets: to = [[...]]",
    ),
    "an unknown balance": (
        {"to": [["a", "b"]], "balance": "weight"},
        f'balance: {BALANCES}, got "weight" (did you mean "weighted"?)',
    ),
    "another attempt that is no flag": (
        {"retry_without_thinking": 1},
        "retry_without_thinking: expected true or false, got 1",
    ),
    "one principal": ({"principals": "ci"}, f'principals: {PATTERNS}, got "ci"'),
    "no principals": ({"principals": []}, f"principals: {NEVER}"),
    "teams that are no strings": ({"teams": [1]}, f"teams: {PATTERNS}, got 1 in it"),
    "no teams": ({"teams": ()}, f"teams: {NEVER}"),
    "headers in a list": (
        {"headers": ["x-tier"]},
        f"headers: {HEADERS}, got a list",
    ),
    "a header of a wrong name": ({"headers": {"x tier": "a"}}, 'headers."x tier": expected the name of a header'),
    "a header without a pattern": (
        {"headers": {"x-tier": ""}},
        'headers.x-tier: expected a value or a pattern with *, got ""',
    ),
    "a header twice": (
        {"headers": {"x-tier": "a", "X-Tier": "b"}},
        "headers.X-Tier: duplicate header: the case of its name does not matter",
    ),
    "a credential": (
        {"headers": {"Authorization": "Bearer *"}},
        "headers.Authorization: carries a credential; expected another header, or principals or teams",
    ),
    "no features": ({"features": []}, "features: an empty list matches nothing"),
    "a feature without a list": (
        {"features": "thinking"},
        'features: expected a list of beta flags and top-level fields, or patterns with *, such as ["context-1m-*",',
    ),
    "a size of zero": ({"min_bytes": 0}, "min_bytes: expected a number of bytes, at least 1, got 0"),
    "a size that is no number": ({"max_bytes": "1K"}, 'max_bytes: expected a number of bytes, at least 1, got "1K"'),
    "sizes that exclude each other": (
        {"min_bytes": 10, "max_bytes": 9},
        "max_bytes: expected at least min_bytes (10), got 9",
    ),
}


@pytest.mark.parametrize(("options", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_a_route_refuses(options: dict[str, Any], problem: str) -> None:
    given: dict[str, Any] = {"model": "m*", "to": ["a"], **options}
    with pytest.raises(OptionError) as refused:
        Route(**given)
    assert str(refused.value).startswith(problem)


TARGET_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no weight": ({"weight": 0}, "weight: expected a whole number, 1 to 1000, got 0"),
    "a huge weight": ({"weight": 1001}, "weight: expected a whole number, 1 to 1000, got 1001"),
    "half a weight": ({"weight": 0.5}, "weight: expected a whole number, 1 to 1000, got 0.5"),
    "no concurrency": ({"concurrency": 0}, "concurrency: expected a number of requests, at least 1, got 0"),
    "a flag": ({"concurrency": True}, "concurrency: expected a number of requests, at least 1, got True"),
}


@pytest.mark.parametrize(("options", "problem"), TARGET_REFUSED.values(), ids=TARGET_REFUSED.keys())
def test_a_target_refuses(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        Target("a", **options)
    assert str(refused.value) == problem


def test_a_pattern_may_have_one_provider_under_two_names() -> None:
    assert len(Route("m*", ["a", Target("a", "x"), Target("a", "y")]).targets) == 3


HIDDEN: dict[str, tuple[list[Route], list[tuple[int, int]]]] = {
    "nothing": ([Route("a*", ["p"]), Route("b*", ["p"]), Route("a", ["p"])], []),
    "a pattern behind a wider one": ([Route("*", ["p"]), Route("a*", ["p"])], [(1, 0)]),
    "no exact name behind a pattern": ([Route("*", ["p"]), Route("a", ["p"])], []),
    "no pattern behind an exact name": ([Route("a", ["p"]), Route("a*", ["p"])], []),
    "a name behind itself": ([Route("a", ["p"]), Route("a", ["p"], teams=["t"])], [(1, 0)]),
    "no wider conditions behind narrower ones": ([Route("a", ["p"], teams=["t"]), Route("a", ["p"])], []),
    "narrower principals": (
        [Route("a", ["p"], principals=["ci-*", "x"]), Route("a", ["p"], principals=["ci-1*"])],
        [(1, 0)],
    ),
    "one further principal": (
        [Route("a", ["p"], principals=["ci-*"]), Route("a", ["p"], principals=["ci-1", "x"])],
        [],
    ),
    "one more header": (
        [Route("a", ["p"], headers={"x": "g*"}), Route("a", ["p"], headers={"x": "go*", "y": "*"})],
        [(1, 0)],
    ),
    "another header": ([Route("a", ["p"], headers={"x": "*"}), Route("a", ["p"], headers={"y": "*"})], []),
    "fewer features": (
        [Route("a", ["p"], features=["b-*", "c"]), Route("a", ["p"], features=["b-1*"]), Route("a", ["p"])],
        [(1, 0)],
    ),
    "further features": ([Route("a", ["p"], features=["b-*"]), Route("a", ["p"], features=["b-1", "c"])], []),
    "a smaller size": (
        [Route("a", ["p"], max_bytes=9), Route("a", ["p"], max_bytes=9, min_bytes=2), Route("a", ["p"], max_bytes=10)],
        [(1, 0)],
    ),
    "a larger size": ([Route("a", ["p"], min_bytes=9), Route("a", ["p"], min_bytes=10), Route("a", ["p"])], [(1, 0)]),
}


@pytest.mark.parametrize(("routes", "hidden"), HIDDEN.values(), ids=HIDDEN.keys())
def test_a_route_behind_a_wider_one_is_unreachable(routes: list[Route], hidden: list[tuple[int, int]]) -> None:
    assert list(unreachable(routes)) == hidden


_patterns = st.text("ab*", min_size=1, max_size=5)


@pytest.mark.torture
@examples(75)
@given(wide=_patterns, narrow=_patterns, name=st.text("abc", max_size=6))
def test_a_pattern_covers_exactly_those_whose_names_it_matches(wide: str, narrow: str, name: str) -> None:
    if not covers(wide, narrow):
        assert not by_hand(wide, narrow.replace("*", "c"))  # a letter that is in no pattern
    elif by_hand(narrow, name):
        assert by_hand(wide, name)
