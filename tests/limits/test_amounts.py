"""What a finished request has used of its limits."""

from __future__ import annotations

from typing import Any

import pytest
from support.asgi import exchange_of

from bud_asgi.attempt import Attempt, AttemptEnd, Target
from bud_asgi.exchange import Exchange
from bud_asgi.limit import Limit
from bud_asgi.limits.amounts import used_by, used_tokens
from bud_asgi.limits.store import Charge
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.usage import Iteration, Usage

REQUESTS = Limit("requests", 5)


def tokens_of(exchange: Exchange) -> tuple[int | None, int | None] | None:
    return None if exchange.usage is None else used_tokens(exchange.usage)


def used(usage: Usage | None, limits: list[Limit], *, end: AttemptEnd | None = "answered", reserved: int = 1000) -> Any:
    """What a request of ours has used of some limits. `end`: how its last attempt ended; `None` for no attempt."""
    exchange = exchange_of("ann", "messages.create")
    exchange.usage = usage
    exchange.attempts = [] if end is None else [Attempt(Target("a"), end=end)]
    return used_by(exchange, [Charge(limit, "a", 1) for limit in limits], [reserved] * len(limits), tokens_of(exchange))


LIMITS = [
    Limit("requests", 5),
    Limit("input_tokens", 5),
    Limit("output_tokens", 5),
    Limit("tokens", 5),
    Limit("input_tokens", 5, cache_reads=True),
    Limit("tokens", 5, cache_reads=True),
    Limit("concurrent", 5),
]
R = 1000
"""What was reserved of each."""

BOOKED: dict[str, tuple[Usage | None, tuple[int, ...]]] = {
    "input and output": (Usage(input_tokens=30, output_tokens=7), (R, 30, 7, 37, 30, 37, 0)),
    "what was written to the cache counts": (Usage(30, 7, 100, None), (R, 130, 7, 137, 130, 137, 0)),
    "what was read from it is free": (Usage(30, 7, None, 5000), (R, 30, 7, 37, 5030, 5037, 0)),
    "all of it was read": (Usage(0, 7, 0, 5000), (R, 0, 7, 7, 5000, 5007, 0)),
    "zero is a number": (Usage(0, 0, 0, 0), (R, 0, 0, 0, 0, 0, 0)),
    "output is missing": (Usage(input_tokens=30), (R, 30, R, R, 30, R, 0)),
    "input is missing": (Usage(output_tokens=7), (R, R, 7, R, R, R, 0)),
    "input is missing, but what was read": (Usage(output_tokens=7, cache_read_input_tokens=9), (R, R, 7, R, 9, 16, 0)),
    "an empty usage": (Usage(), (R, R, R, R, R, R, 0)),
    "no usage in a reply": (None, (R, R, R, R, R, R, 0)),
    "more than was reserved": (Usage(2000, 3000), (R, 2000, 3000, 5000, 2000, 5000, 0)),
    "a stream that was cut": (
        Usage(input_tokens=30, output_tokens=4, estimated=True),
        (R, 30, 4, 34, 30, 34, 0),
    ),
    "iterations that are more than the message": (
        Usage(10, 1, None, 5, iterations=(Iteration(None, None, 10, 1, 20, 5), Iteration(None, None, 3, 4, None, 7))),
        (R, 33, 5, 38, 45, 50, 0),
    ),
    "iterations that are less than the message": (
        Usage(100, 50, iterations=(Iteration(None, None, 10, 1),)),
        (R, 100, 50, 150, 100, 150, 0),
    ),
    "iterations without counts": (Usage(iterations=(Iteration("message"),)), (R, R, R, R, R, R, 0)),
    "iterations only": (Usage(iterations=(Iteration(None, None, 10, 0),)), (R, 10, 0, 10, 10, 10, 0)),
}


@pytest.mark.parametrize(("usage", "amounts"), BOOKED.values(), ids=BOOKED.keys())
def test_what_is_booked_for_a_reply(usage: Usage | None, amounts: tuple[int, ...]) -> None:
    assert tuple(used(usage, LIMITS)) == amounts


ENDS: dict[str, tuple[AttemptEnd | None, Usage | None, tuple[int, int, int, int]]] = {
    "no attempt was made": (None, None, (0, 0, 0, 0)),
    "nothing was sent": ("not_sent", None, (R, 0, 0, 0)),
    "the upstream refused": ("refused", None, (R, 0, 0, 0)),
    "the upstream was overloaded": ("overloaded", None, (R, 0, 0, 0)),
    "the stream broke off": ("broken", Usage(30, 4, estimated=True), (R, 30, 4, 34)),
    "the client left": ("client_gone", Usage(30, estimated=True), (R, 30, R, R)),
    "it was cancelled before the first event": ("cancelled", None, (R, 0, 0, 0)),
}


@pytest.mark.parametrize(("end", "usage", "amounts"), ENDS.values(), ids=ENDS.keys())
def test_what_is_booked_if_there_was_no_whole_reply(
    end: AttemptEnd | None, usage: Usage | None, amounts: tuple[int, ...]
) -> None:
    assert tuple(used(usage, LIMITS[:4], end=end)) == amounts


def test_of_another_app_it_is_what_was_reserved_unless_it_sets_a_usage() -> None:
    charges = [Charge(limit, "a", 1) for limit in LIMITS]
    exchange = exchange_of()
    assert used_by(exchange, charges, [R] * 7, tokens_of(exchange)) == [R, R, R, R, R, R, 0]
    exchange.usage = Usage(30, 7)
    assert used_by(exchange, charges, [R] * 7, tokens_of(exchange)) == [R, 30, 7, 37, 30, 37, 0]


def test_counting_tokens_is_one_request_once_it_is_attempted() -> None:
    exchange = exchange_of("ann", "messages.count_tokens")
    charges = [Charge(REQUESTS, "a", 1)]
    assert used_by(exchange, charges, [1], tokens_of(exchange)) == [0]
    exchange.attempts = [Attempt(Target("a"), end="answered")]
    assert used_by(exchange, charges, [1], tokens_of(exchange)) == [1]


@pytest.mark.parametrize("operation", ["models.list", "models.retrieve"])
def test_a_request_of_the_models_api_is_one_without_attempts(operation: Operation) -> None:
    assert used_by(exchange_of("ann", operation), [Charge(REQUESTS, "a", 1)], [1], None) == [1]


def test_tokens_are_known_one_by_one() -> None:
    assert used_tokens(Usage(30, None, 5, 7)) == (35, None)
    assert used_tokens(Usage(None, 3, 5, 7), cache_reads=True) == (12, 3)
