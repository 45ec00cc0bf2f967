"""The budget for request bodies: what fits, for whom, and which sizes make sense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi import budget
from bud_asgi.budget import BodiesFull, BodyBudget, Upload, body_budget
from bud_asgi.options import OptionError

MB = 1 << 20


def upload(bodies: BodyBudget, principal: str) -> Upload:
    one = Upload()
    one.budget, one.principal = bodies, principal
    return one


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans()), max_size=40))
@examples(50, 2_000)
def test_whatever_is_taken_and_given_back_the_bounds_hold(steps: list[tuple[str, int, bool]]) -> None:
    bodies = BodyBudget(50, 100, 60)
    held: list[Upload] = []
    for principal, size, back in steps:
        if back and held:
            held.pop().release()
        else:
            mine = sum(one.size for one in held if one.principal == principal)
            fits = bodies.held + size <= 100 and mine + size <= 60
            one = upload(bodies, principal)
            assert (one.has_room(size), one.take(size)) == (fits, fits)
            held.append(one)
        assert bodies.held == sum(one.size for one in held) <= 100
    for one in held:
        one.release()
    assert (bodies.held, bodies.by_principal) == (0, {})


async def test_a_request_waits_for_room_and_is_refused_after_its_patience() -> None:
    bodies = BodyBudget(10, 10, 10, patience=0.1)
    first, second = upload(bodies, "a"), upload(bodies, "b")
    assert first.take(8)
    assert second.has_room(2)
    assert not second.take(3)
    with pytest.raises(BodiesFull) as refused:
        await second.wait_to_take(3)
    assert (refused.value.status, refused.value.type) == (529, "overloaded_error")
    bodies.patience = 5.0
    waiting = asyncio.create_task(second.wait_to_take(3))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    first.release()
    first.release()
    await waiting
    assert bodies.held == 3


async def test_the_log_names_the_option_and_the_caller_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    bodies = BodyBudget(10, 20, 10)
    assert upload(bodies, "ann").take(9)
    for _ in range(3):
        bodies.refuse("ann")
    (record,) = caplog.records
    assert record.getMessage() == (
        "request bodies fill their memory budget: 9 of 20 bytes held, 9 of 10 by the principal 'ann'; "
        "requests get a 529 until others are answered (body_budget)"
    )


SIZES: dict[str, tuple[tuple[Any, ...], int | None, tuple[int, int]]] = {
    "the defaults": ((32 * MB,), None, (256 * MB, 128 * MB)),
    "a process with 512 MB": ((32 * MB,), 512 * MB, (128 * MB, 64 * MB)),
    "a process with hardly any memory": ((32 * MB,), 64 * MB, (32 * MB, 32 * MB)),
    "larger bodies than the default": ((300 * MB,), None, (300 * MB, 300 * MB)),
    "a total": ((32 * MB, 100 * MB), 64 * MB, (100 * MB, 50 * MB)),
    "a total of one body": ((32 * MB, 32 * MB), None, (32 * MB, 32 * MB)),
    "both": ((32 * MB, 100 * MB, 90 * MB), None, (100 * MB, 90 * MB)),
    "only a share": ((32 * MB, None, 400 * MB), None, (400 * MB, 400 * MB)),
}


@pytest.mark.parametrize(("sizes", "limit", "expected"), SIZES.values(), ids=SIZES.keys())
def test_defaults_follow_from_what_is_set(
    sizes: tuple[Any, ...], limit: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "memory_limit", lambda: limit)
    made = body_budget(*sizes)
    assert (made.total, made.per_principal, made.max_body) == (*expected, sizes[0])


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "no size": ((0,), "max_body: expected a number of bytes, more than 0, got 0"),
    "a text": ((10, "x"), 'body_budget: expected a number of bytes, more than 0, got "x"'),
    "true": ((10, True), "body_budget: expected a number of bytes, more than 0, got True"),
    "less than one body": ((10, 9), "body_budget: expected at least max_body (10 bytes), got 9"),
    "a share of less than one body": (
        (10, None, 9),
        "body_budget_per_principal: expected at least max_body (10 bytes), got 9",
    ),
    "a share of more than all": (
        (10, 20, 21),
        "body_budget_per_principal: expected at most body_budget (20 bytes), got 21",
    ),
}


@pytest.mark.parametrize(("sizes", "words"), WRONG.values(), ids=WRONG.keys())
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[Any, ...], words: str) -> None:
    with pytest.raises(OptionError) as refused:
        body_budget(*sizes)
    assert str(refused.value) == words
