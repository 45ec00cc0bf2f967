"""`RedisStore` on a real server beside the exact model: also with leases that expire, are renewed, or settled late."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from support.counts import examples
from support.limit_machine import LimitMachine
from support.valkey import CountedRedisStore, Valkey
from support.virtual_time import SetClock

from bud_asgi.exchange import Reservation
from bud_asgi.limit import limit_id
from bud_asgi.limits.store import MAX_DEBT

T = TypeVar("T")

LEASE = 32.0


class RedisMachine(LimitMachine):
    """The steps of every store, and those of a shared one. The server is set by the test."""

    server: Valkey
    runner: asyncio.Runner
    shared: CountedRedisStore

    def __init__(self) -> None:
        self.expires: dict[int, float] = {}
        self.given_back: set[int] = set()
        super().__init__()

    def new_store(self, clock: SetClock) -> CountedRedisStore:
        """A store with a prefix of its own."""
        self.shared = CountedRedisStore(self.server, clock=clock, lease=LEASE)
        return self.shared

    def teardown(self) -> None:
        """Close the store."""
        self.runner.run(self.shared.aclose())
        super().teardown()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call to its end, over the wire."""
        result = self.runner.run(work)
        self._note_new()
        return result

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Running requests are renewed; what has expired is reserved again."""
        chosen = data.draw(st.lists(st.sampled_from(self.open), unique_by=lambda one: one[0]))
        for number, _ in chosen:
            if number in self.given_back:
                self.given_back.discard(number)
                self.went_back = True  # it is taken whether there is room or not
                for charge in self.model.running[number]:
                    bucket = self.model.bucket(charge.limit, charge.key)
                    bucket.used += charge.amount
                    bucket.held[number] = Fraction(charge.amount)
            self.expires[number] = self.clock.now + LEASE
        self.run(self.shared.renew([reservation for _, reservation in chosen]))

    @invariant()
    def no_more_requests_run_at_once_than_may(self) -> None:
        """Unless one was taken again that had expired."""
        if not self.went_back:
            super().no_more_requests_run_at_once_than_may()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_process_dies(self, data: st.DataObject) -> None:
        """A request is never settled: what it holds comes back when its lease ends."""
        self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))

    def _note_new(self) -> None:
        for number in self.model.running:
            self.expires.setdefault(number, self.clock.now + LEASE)

    def _set_clock(self, seconds: Fraction) -> None:
        self._note_new()
        super()._set_clock(seconds)
        for number, expires in self.expires.items():
            if expires <= self.clock.now and number in self.model.running and number not in self.given_back:
                self.given_back.add(number)
                for charge in self.model.running[number]:
                    self.model.bucket(charge.limit, charge.key).settle(number, charge.amount, 0)
                    self.model.taken[limit_id(charge.limit), charge.key][number].actual = 0

    def _settle(self, number: int, reservation: Reservation, amounts: list[int]) -> None:
        if number not in self.given_back:
            super()._settle(number, reservation, amounts)
            return
        self.went_back = True
        for charge, actual in zip(self.model.running.pop(number), amounts, strict=True):
            bucket = self.model.bucket(charge.limit, charge.key)
            bucket.used = max(bucket.used, min(bucket.used + actual, (1 + MAX_DEBT) * bucket.capacity))
        self.run(self.store.settle(reservation, amounts))
        self.settled.append((reservation, len(amounts)))


@pytest.mark.torture
def test_a_shared_store_does_what_the_model_does(valkey: Valkey) -> None:
    with asyncio.Runner() as runner:
        RedisMachine.server, RedisMachine.runner = valkey, runner
        steps = settings(examples(10, 1_000), stateful_step_count=30, phases=(Phase.generate,))
        run_state_machine_as_test(RedisMachine, settings=steps)
