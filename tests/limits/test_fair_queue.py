"""Fair queues, against a model that is a list for each principal."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.counts import examples

from bud_asgi.limits.fair_queue import MAX_WAITING, FairQueue, Waiter


def waiter(principal: str, amount: int = 1) -> Waiter:
    return Waiter(principal, amount, asyncio.Event())


def in_order(queue: FairQueue) -> list[Waiter]:
    """Empty the queue, one turn after the other."""
    order: list[Waiter] = []
    while (first := queue.first) is not None:
        order.append(first)
        queue.leave(first)
    assert len(queue) == 0
    return order


def joined(names: str) -> tuple[FairQueue, list[Waiter]]:
    """A queue, and a waiter for each letter."""
    queue, waiters = FairQueue(), [waiter(name) for name in names]
    for one in waiters:
        queue.join(one)
    return queue, waiters


def test_principals_take_turns_and_the_requests_of_each_keep_their_order() -> None:
    queue, waiters = joined("aaaabbc")
    a1, a2, a3, a4, b1, b2, c1 = waiters
    assert list(map(id, in_order(queue))) == list(map(id, [a1, b1, c1, a2, b2, a3, a4]))


def test_only_the_first_is_woken() -> None:
    queue, waiters = joined("ab")
    assert [one.wake.is_set() for one in waiters] == [False, False]
    queue.wake()
    assert [one.wake.is_set() for one in waiters] == [True, False]
    queue.leave(waiters[0])
    assert waiters[1].wake.is_set()
    FairQueue().wake()


def test_a_request_that_leaves_from_behind_changes_no_one_s_turn() -> None:
    queue, (a1, a2, b1, b2) = joined("aabb")
    queue.leave(a2)
    assert queue.first is a1
    queue.leave(b2)
    assert [one.principal for one in in_order(queue)] == ["a", "b"]
    assert b1.wake.is_set()


def test_so_many_requests_of_one_principal_may_wait() -> None:
    queue, _ = joined("a" * (MAX_WAITING - 1))
    assert not queue.is_full("a")
    queue.join(waiter("a"))
    assert queue.is_full("a")
    assert not queue.is_full("b")


def test_whether_others_wait() -> None:
    queue, (a1, b1) = joined("ab")
    assert queue.has_others("a")
    assert queue.has_others("c")
    queue.leave(b1)
    assert not queue.has_others("a")
    queue.leave(a1)
    assert not queue.has_others("a")


@pytest.mark.torture
@examples(75)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12),
    st.integers(0, 6),
    st.sampled_from("abcd"),
)
def test_what_is_ahead_of_a_further_request_is_what_is_taken_before_its_turn(
    waiting: list[tuple[str, int]], turns: int, principal: str
) -> None:
    queue = FairQueue()
    for name, amount in waiting:
        queue.join(waiter(name, amount))
    for _ in range(min(turns, len(queue))):
        first = queue.first
        assert first is not None
        queue.leave(first)
    ahead, further = queue.ahead(principal), waiter(principal)
    queue.join(further)
    order = in_order(queue)
    assert ahead == sum(one.amount for one in order[: [one is further for one in order].index(True)])


class QueueMachine(RuleBasedStateMachine):
    """Requests join and leave, from the front and from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.turns: list[list[Waiter]] = []  # of each principal that waits, the one whose turn it is first

    @property
    def waiting(self) -> list[Waiter]:
        return [one for waiting in self.turns for one in waiting]

    @rule(principal=st.sampled_from("abcd"), amount=st.integers(1, 5))
    def join(self, principal: str, amount: int) -> None:
        one = waiter(principal, amount)
        self.queue.join(one)
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
        self.queue.leave(one)
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
        assert self.queue.first is (self.turns[0][0] if self.turns else None)
        assert len(self.queue) == len(self.waiting)
        for name in "abcd":
            own = sum(one.principal == name for one in self.waiting)
            assert self.queue.is_full(name) == (own >= MAX_WAITING)
            assert self.queue.has_others(name) == (len(self.waiting) > own)


QueueMachine.TestCase.settings = examples(50, 5_000)
TestQueues = pytest.mark.torture(QueueMachine.TestCase)
