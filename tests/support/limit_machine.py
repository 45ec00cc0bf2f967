"""Random steps on a limit store, beside the exact model. A store's tests make a subclass, and set `store`."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bud_asgi.exchange import Reservation
from bud_asgi.limits import Charge, Grant, InspectableStore, Limit, LimitStatus, LimitStore, RateLimited
from support.limit_model import LimitModel
from support.virtual_time import SetClock, at_once

T = TypeVar("T")


class InspectedStore(LimitStore, InspectableStore, Protocol):
    """A store that reports the status of buckets."""


# Amounts, windows and times are sums of powers of two, so that most floats are exact.
LIMITS = (
    Limit("requests", 4, 8.0),
    Limit("requests", 2, 1.0),
    Limit("input_tokens", 8, 16.0),
    Limit("tokens", 16, 4.0, "all"),
    Limit("concurrent", 2),
    Limit("concurrent", 4, per="all"),
    Limit("output_tokens", 4, 8.0, mode="observe"),
)
KEYS = "ab"
_ANCHORS = 6
_EXACT_ENOUGH = 2e-6

_charges = st.lists(
    st.tuples(st.sampled_from(LIMITS), st.sampled_from(KEYS), st.integers(0, 20)).map(
        lambda one: Charge(one[0], one[1], min(one[2], 5) if one[0].kind == "requests" else one[2])
    ),
    max_size=5,
    unique_by=lambda charge: (charge.limit, charge.key),
)


def about(value: Fraction) -> object:
    """A figure of the model: a store's may differ by rounding."""
    return pytest.approx(float(value), rel=1e-9, abs=_EXACT_ENOUGH)


class LimitMachine(RuleBasedStateMachine):
    """Reserves, settles, and lets time pass or the clock jump.

    Stores may forget that they have read the time, but not that they have written it: `_anchors`, reservations of
    nothing, make them write it before and after a clock is set back.
    """

    store: InspectedStore

    def __init__(self) -> None:
        super().__init__()
        self.clock = SetClock()
        self.store = self.new_store(self.clock)
        self.model = LimitModel(Fraction(self.clock.now))
        self.open: list[tuple[int, Reservation]] = []
        self.settled: list[tuple[Reservation, int]] = []
        self.went_back = False
        nothing = [Charge(limit, key, 0) for limit in LIMITS for key in KEYS]
        self._anchors = [(self.model.reserve(nothing), self._grant(nothing).reservation) for _ in range(_ANCHORS)]

    def new_store(self, clock: SetClock) -> InspectedStore:
        """Make an empty store with this clock, whose reservations do not expire."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call of the store to its end. One in memory never waits."""
        return at_once(work)

    def _grant(self, charges: Sequence[Charge]) -> Grant:
        return self.run(self.store.reserve(charges))

    def _set_clock(self, seconds: Fraction) -> None:
        self.model.now += seconds
        self.clock.now = float(self.model.now)

    @rule(quarters=st.integers(1, 40))
    def time_passes(self, quarters: int) -> None:
        """A little time passes."""
        self._set_clock(Fraction(quarters, 4))

    @rule(seconds=st.sampled_from([100, 86_400, 10**7]))
    def much_time_passes(self, seconds: int) -> None:
        """So much time passes that every bucket that refills is full."""
        self._set_clock(Fraction(seconds))

    @precondition(lambda self: len(self._anchors) >= 2)
    @rule(quarters=st.integers(1, 100))
    def the_clock_is_set_back(self, quarters: int) -> None:
        """The clock is set back, by more than the windows of some limits."""
        self._touch()
        self._set_clock(Fraction(-quarters, 4))
        self._touch()
        self.went_back = True

    def _touch(self) -> None:
        number, reservation = self._anchors.pop()
        self._settle(number, reservation, [0] * len(self.model.running[number]))

    @rule(charges=_charges)
    def reserve(self, charges: list[Charge]) -> None:
        """A request arrives."""
        longest = max(self.model.waits(charges), default=Fraction(0))
        if longest > 0:
            with pytest.raises(RateLimited) as error:
                self._grant(charges)
            assert error.value.retry_after == about(longest)
            self._assert_statuses(charges, error.value.statuses)
            return
        granted = self._grant(charges)
        self.open.append((self.model.reserve(charges), granted.reservation))
        self._assert_statuses(charges, granted.statuses)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A request ends, after it has used any amounts."""
        number, reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        charges = self.model.running[number]
        amounts = [0 if one.limit.kind == "concurrent" else data.draw(st.integers(0, 30)) for one in charges]
        self._settle(number, reservation, amounts)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), as_reserved=st.booleans())
    def end(self, data: st.DataObject, *, as_reserved: bool) -> None:
        """A request ends, after it has used exactly what it had reserved, or nothing."""
        number, reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        charges = self.model.running[number]
        used = [one.amount if as_reserved and one.limit.kind != "concurrent" else 0 for one in charges]
        self._settle(number, reservation, used)

    def _settle(self, number: int, reservation: Reservation, amounts: list[int]) -> None:
        self.model.settle(number, amounts)
        self.run(self.store.settle(reservation, amounts))
        self.settled.append((reservation, len(amounts)))

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        """A settlement is repeated, with other amounts: it changes nothing."""
        reservation, number = data.draw(st.sampled_from(self.settled))
        self.run(self.store.settle(reservation, [data.draw(st.integers(0, 30))] * number))

    def _assert_statuses(self, charges: Sequence[Charge], statuses: Sequence[LimitStatus]) -> None:
        known = {(status.charge.limit, status.charge.key): status for status in statuses}
        assert len(known) == len(statuses) == len(charges)
        for charge in charges:
            assert known[charge.limit, charge.key].used == about(self.model.bucket(charge.limit, charge.key).used)

    @invariant()
    def the_store_reports_what_the_model_has(self) -> None:
        """No bucket is below 0, and running requests hold no more than what is used."""
        buckets = [Charge(limit, key, 0) for limit in LIMITS for key in KEYS]
        statuses = self.run(self.store.statuses(buckets))
        self._assert_statuses(buckets, statuses)
        for status in statuses:
            reserved = self.model.bucket(status.charge.limit, status.charge.key).reserved
            assert status.reserved == about(reserved)
            assert -_EXACT_ENOUGH <= status.reserved <= status.used + _EXACT_ENOUGH

    @invariant()
    def no_more_requests_run_at_once_than_may(self) -> None:
        """Unless a single one takes more than the whole amount, no more is held of a limit on concurrency."""
        for bucket in self.model.buckets.values():
            if bucket.limit.kind == "concurrent":
                parts = [part for part in bucket.held.values() if part]
                assert bucket.used == sum(parts) <= bucket.capacity or len(parts) == 1

    def teardown(self) -> None:
        """No period of time has seen more than the limits allow."""
        if not self.went_back:
            self.model.assert_never_over()
