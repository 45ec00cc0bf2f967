"""Waiting lines, against a model that is a list for each principal."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.counts import examples

from bud_asgi.limits.lines import MAX_WAITING, Line, Waiter


def waiter(principal: str, amount: int = 1) -> Waiter:
    return Waiter(principal, amount, asyncio.Event())


def in_order(line: Line) -> list[Waiter]:
    """Empty the line, one turn after the other."""
    order: list[Waiter] = []
    while (first := line.first) is not None:
        order.append(first)
        line.leave(first)
    assert len(line) == 0
    return order


def joined(names: str) -> tuple[Line, list[Waiter]]:
    """A line, and a waiter for each letter."""
    line, waiters = Line(), [waiter(name) for name in names]
    for one in waiters:
        line.join(one)
    return line, waiters


def test_principals_take_turns_and_the_requests_of_each_keep_their_order() -> None:
    line, waiters = joined("aaaabbc")
    a1, a2, a3, a4, b1, b2, c1 = waiters
    assert list(map(id, in_order(line))) == list(map(id, [a1, b1, c1, a2, b2, a3, a4]))


def test_only_the_first_is_woken() -> None:
    line, waiters = joined("ab")
    assert [one.wake.is_set() for one in waiters] == [False, False]
    line.wake()
    assert [one.wake.is_set() for one in waiters] == [True, False]
    line.leave(waiters[0])
    assert waiters[1].wake.is_set()
    Line().wake()


def test_a_request_that_leaves_from_behind_changes_no_one_s_turn() -> None:
    line, (a1, a2, b1, b2) = joined("aabb")
    line.leave(a2)
    assert line.first is a1
    line.leave(b2)
    assert [one.principal for one in in_order(line)] == ["a", "b"]
    assert b1.wake.is_set()


def test_so_many_requests_of_one_principal_may_wait() -> None:
    line, _ = joined("a" * (MAX_WAITING - 1))
    assert not line.is_full("a")
    line.join(waiter("a"))
    assert line.is_full("a")
    assert not line.is_full("b")


def test_whether_others_wait() -> None:
    line, (a1, b1) = joined("ab")
    assert line.has_others("a")
    assert line.has_others("c")
    line.leave(b1)
    assert not line.has_others("a")
    line.leave(a1)
    assert not line.has_others("a")


@pytest.mark.torture
@examples(200)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12),
    st.integers(0, 6),
    st.sampled_from("abcd"),
)
def test_what_is_ahead_of_a_further_request_is_what_is_taken_before_its_turn(
    waiting: list[tuple[str, int]], turns: int, principal: str
) -> None:
    line = Line()
    for name, amount in waiting:
        line.join(waiter(name, amount))
    for _ in range(min(turns, len(line))):
        first = line.first
        assert first is not None
        line.leave(first)
    ahead, further = line.ahead(principal), waiter(principal)
    line.join(further)
    order = in_order(line)
    assert ahead == sum(one.amount for one in order[: [one is further for one in order].index(True)])


class LineMachine(RuleBasedStateMachine):
    """Requests join and leave, from the front and from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.turns: list[list[Waiter]] = []  # of each principal that waits, the one whose turn it is first

    @property
    def waiting(self) -> list[Waiter]:
        return [one for waiting in self.turns for one in waiting]

    @rule(principal=st.sampled_from("abcd"), amount=st.integers(1, 5))
    def join(self, principal: str, amount: int) -> None:
        one = waiter(principal, amount)
        self.line.join(one)
        for waiting in self.turns:
            if waiting[0].principal == principal:
                waiting.append(one)
                return
        self.turns.append([one])

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), from_the_front=st.booleans())
    def leave(self, data: st.DataObject, *, from_the_front: bool) -> None:
        index = 0 if from_the_front else data.draw(st.integers(0, len(self.waiting) - 1))
        one = self.waiting[index]
        was_first = index == 0
        self.line.leave(one)
        mine = next(waiting for waiting in self.turns if waiting[0].principal == one.principal)
        position = self.turns.index(mine)
        del self.turns[position]
        rest = [other for other in mine if other is not one]
        if rest and was_first:
            self.turns.append(rest)
        elif rest:
            self.turns.insert(position, rest)

    @invariant()
    def the_first_is_the_one_whose_turn_it_is(self) -> None:
        assert self.line.first is (self.turns[0][0] if self.turns else None)
        assert len(self.line) == len(self.waiting)
        for name in "abcd":
            own = sum(one.principal == name for one in self.waiting)
            assert self.line.is_full(name) == (own >= MAX_WAITING)
            assert self.line.has_others(name) == (len(self.waiting) > own)


LineMachine.TestCase.settings = examples(50, 5_000)
TestLines = pytest.mark.torture(LineMachine.TestCase)
