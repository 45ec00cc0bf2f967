"""What a limit is: its options, whom it applies to, and what identifies it."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import KINDS, Limit, check_limits, check_own_limits, limit_id, limit_words
from bud_asgi.options import OptionError


def region(exchange: Exchange) -> str | None:
    """A dimension of a host's own."""
    return exchange.method


class Tenant:
    """The same as an object that can be called."""

    def __call__(self, exchange: Exchange) -> str | None:
        return exchange.method


async def looked_up(exchange: Exchange) -> str | None:
    return exchange.method


def limit(**options: Any) -> Limit:
    given: dict[str, Any] = {"kind": "requests", "amount": 5, **options}
    return Limit(**given)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "nothing could pass": ({"amount": 0}, "amount: expected a whole number, at least 1, got 0", None),
    "less than nothing": ({"amount": -1}, "amount: expected a whole number, at least 1, got -1", None),
    "more than can be counted": (
        {"amount": 1 << 54},
        f"amount: expected a whole number, at least 1, got {1 << 54}",
        None,
    ),
    "no time": ({"window": 0}, "window: expected a number of seconds, more than 0, got 0", None),
    "time that runs back": ({"window": -1}, "window: expected a number of seconds, more than 0, got -1", None),
    "for ever": ({"window": float("inf")}, "window: expected a number of seconds, .*, got inf", None),
    "concurrency has no window": (
        {"kind": "concurrent", "window": 60.0},
        "window: meaningless for concurrent, the requests that run at the same time",
        "kind",
    ),
    "a limit that refuses nothing has no wait": (
        {"mode": "observe", "wait": 1.0},
        'wait: meaningless with mode = "observe", which refuses nothing',
        "mode",
    ),
    "requests are not read from a cache": (
        {"cache_reads": True},
        "cache_reads: meaningless for requests, which do not count input",
        "kind",
    ),
    "nor is output": (
        {"kind": "output_tokens", "cache_reads": True},
        "cache_reads: meaningless for output_tokens, which do not count input",
        "kind",
    ),
    "a mode of its own": ({"mode": "log"}, 'mode: expected "enforce" or "observe", got "log"', None),
    "a wait that is not a number": ({"wait": None}, "wait: missing; expected a number of seconds", None),
    "one letter after the other": ({"models": "opus"}, "models: expected a list of names or patterns", None),
    "models that match nothing": ({"models": []}, "models: an empty list matches nothing", None),
    "teams that match nothing": ({"teams": ()}, "teams: an empty list matches nothing", None),
    "principals that match nothing": ({"principals": []}, "principals: an empty list matches nothing", None),
    "a function of nothing": ({"per": lambda: "a"}, "per: expected a function of the Exchange that returns", None),
    "a function that waits": ({"per": looked_up}, "per: must not be an async function", None),
    "no dimension": ({"per": None}, "per: missing; expected", None),
}


@pytest.mark.parametrize(("options", "message", "other"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradictory_or_meaningless_limit_is_refused(
    options: dict[str, Any], message: str, other: str | None
) -> None:
    with pytest.raises(OptionError, match=f"^{message}") as error:
        limit(**options)
    assert error.value.other == other


def test_a_limit_is_per_minute_and_per_principal_by_default() -> None:
    assert Limit("requests", 5) == Limit("requests", 5, 60.0, "principal", mode="enforce", wait=0.0)
    assert Limit("concurrent", 5).window is None


def test_lists_become_tuples_and_a_list_with_the_pattern_for_all_is_that_pattern() -> None:
    one: Any = limit(models=["opus-*", "haiku"], teams=["a", "*"], principals={"p"})
    assert (one.models, one.teams, one.principals) == (("opus-*", "haiku"), ("*",), ("p",))
    assert hash(one) == hash(msgspec.structs.replace(one))
    assert limit_id(limit(teams=["a", "*"])) == limit_id(limit())


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_any_length_refills_evenly_and_concurrency_does_not(kind: Any) -> None:
    assert Limit(kind, 6, None if kind == "concurrent" else 3).rate == (0 if kind == "concurrent" else 2)
    assert Limit(kind, 6).is_tokens == ("tokens" in kind)


APPLIES: dict[str, tuple[dict[str, Any], str, str | None, bool]] = {
    "to all": ({}, "ann", None, True),
    "for all principals": ({}, "", None, True),
    "to a principal by name": ({"principals": ["ann", "bob"]}, "bob", None, True),
    "to principals by pattern": ({"principals": ["ci-*"]}, "ci-7", "a", True),
    "not to others": ({"principals": ["ci-*"]}, "ann", "a", False),
    "to a team": ({"teams": ["core"]}, "ann", "core", True),
    "not to another team": ({"teams": ["core"]}, "ann", "web", False),
    "not to those without a team": ({"teams": ["core*"]}, "core", None, False),
    "to those without a team if to all": ({"teams": ["core", "*"]}, "ann", None, True),
    "to both at once": ({"teams": ["core"], "principals": ["ann"]}, "ann", "core", True),
    "not to one of both": ({"teams": ["core"], "principals": ["ann"]}, "bob", "core", False),
}


@pytest.mark.parametrize(("options", "principal", "team", "expected"), APPLIES.values(), ids=APPLIES.keys())
def test_a_limit_applies(options: dict[str, Any], principal: str, team: str | None, *, expected: bool) -> None:
    assert limit(**options).applies_to(principal=principal, team=team) is expected


def test_a_limit_applies_to_the_models_that_it_names() -> None:
    one = limit(models=["claude-opus-*", "fast"])
    assert [one.applies_to_model(name) for name in ("claude-opus-4", "fast", "claude-haiku", "")] == [1, 1, 0, 0]


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"kind": "tokens"},
    {"kind": "tokens", "cache_reads": True},
    {"kind": "concurrent", "window": None},
    {"window": 30.0},
    {"window": 1_234_567.0},
    {"window": 1_234_568.0},
    {"window": 0.1},
    {"per": "team"},
    {"per": region},
    {"per": Tenant()},
    {"mode": "observe"},
    {"models": ["a"]},
    {"models": ["a", "b"]},
    {"models": ["a/models=b"]},
    {"models": ["a%2Fmodels=b"]},
    {"teams": ["a"]},
    {"principals": ["a"]},
]


def test_limits_that_count_different_requests_have_different_ids() -> None:
    ids = [limit_id(limit(**options)) for options in DIFFERENT]
    assert len(set(ids)) == len(ids), ids


def test_the_amount_and_the_wait_are_not_part_of_the_identity() -> None:
    assert limit_id(limit(amount=7, wait=2.0)) == limit_id(limit()) == "requests/60/principal/enforce"
    assert limit_id(limit(models=["b", "a"])) == limit_id(limit(models=["a", "b", "a"]))


def test_the_identity_names_the_function_of_a_host() -> None:
    assert limit_id(limit(per=region)) == f"requests/60/{__name__}.region/enforce"
    assert limit_id(limit(per=Tenant())) == f"requests/60/{__name__}.Tenant/enforce"
    assert limit_id(limit(per=partial(region))) == "requests/60/functools.partial/enforce"


def test_two_limits_that_count_the_same_are_refused_whatever_their_amounts() -> None:
    for other in (limit(), limit(amount=9), limit(wait=1.0), limit(models=["x", "*"])):
        with pytest.raises(OptionError, match=r"^limits\[2\]: counts the same as limits\[0\]; expected one limit"):
            check_limits([limit(), limit(window=1.0), other])
    several = [limit(**options) for options in DIFFERENT]
    assert check_limits(several) == tuple(several)


CARRIED: dict[str, tuple[dict[str, Any], str]] = {
    "per team": ({"per": "team"}, "limits[0].per: a limit that a caller carries counts for that caller alone"),
    "per function": ({"per": region}, "limits[0].per: a limit that a caller carries counts for that caller alone"),
    "of teams": ({"teams": ["a"]}, "limits[0].teams: meaningless on a limit that a caller carries"),
    "of principals": ({"principals": ["a"]}, "limits[0].principals: meaningless on a limit that a caller carries"),
}


@pytest.mark.parametrize(("options", "message"), CARRIED.values(), ids=CARRIED.keys())
def test_a_caller_carries_limits_for_itself_only(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        Principal(id="p", limits=(limit(**options),))
    assert str(error.value) == message


def test_a_caller_may_carry_limits_of_every_kind() -> None:
    several: Any = [limit(), limit(kind="concurrent", window=None), limit(kind="tokens", models=["opus"], wait=2.0)]
    assert Principal(id="p", limits=several).limits == check_own_limits(several) == tuple(several)


WORDS: dict[str, Limit] = {
    "60 requests per minute": Limit("requests", 60),
    "1 request per minute": Limit("requests", 1),
    "1,000 requests per day": Limit("requests", 1000, 86_400.0),
    "5 requests in 0.5 seconds": Limit("requests", 5, 0.5),
    "40,000 input tokens per minute": Limit("input_tokens", 40_000),
    "1 output token per hour": Limit("output_tokens", 1, 3600),
    "7 tokens per second": Limit("tokens", 7, 1),
    "1 concurrent request": Limit("concurrent", 1),
    "12 concurrent requests": Limit("concurrent", 12),
}


@pytest.mark.parametrize("words", WORDS)
def test_a_limit_in_words(words: str) -> None:
    assert limit_words(WORDS[words]) == words
