"""Inspection: what a caller has used of its limits. The figures add up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import exchange_of
from support.counts import examples
from support.virtual_time import SetClock

from bud_asgi import Limit, Principal
from bud_asgi.attempt import Attempt, Target
from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limits import Charge, Grant, Limiter, MemoryStore, Standing, standing
from bud_asgi.tasks import BackgroundTasks

REQUESTS = Limit("requests", 10)
TOKENS = Limit("tokens", 1000)
CONCURRENT = Limit("concurrent", 3)
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing.time, "time", lambda: NOW)


async def test_what_is_used_reserved_and_left_adds_up_to_the_amount() -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    limiter = Limiter([REQUESTS, TOKENS, CONCURRENT], store)
    charges = [
        Charge(REQUESTS, "messages:ann", 1),
        Charge(TOKENS, "messages:ann", 300),
        Charge(CONCURRENT, "messages:ann", 1),
    ]
    ended, _ = (await store.reserve(charges)).reservation, await store.reserve(charges)
    await store.settle(ended, [1, 100, 0])
    assert await limiter.standing("ann") == [
        Standing(REQUESTS, 1, 1, 8, NOW + 12),
        Standing(TOKENS, 100, 300, 600, NOW + 24),
        Standing(CONCURRENT, 0, 1, 2, None),
    ]
    clock.now += 12  # what has ended is refilled first
    assert await limiter.standing("ann") == [
        Standing(REQUESTS, 0, 0, 10, None),
        Standing(TOKENS, 0, 200, 800, NOW + 12),
        Standing(CONCURRENT, 0, 1, 2, None),
    ]


async def test_a_request_that_only_its_number_limits_is_used_at_once_and_given_back_if_no_upstream_was_tried() -> None:
    for attempts, used in (([Attempt(Target("anthropic"))], 1), ([], 0)):
        limiter, running = Limiter([REQUESTS], MemoryStore(clock=SetClock())), exchange_of("ann", "messages.create")
        admission = await limiter.admit(running)
        assert [(one.used, one.reserved) for one in await limiter.standing("ann")] == [(1, 0)]
        running.attempts = attempts
        limiter.settle(admission, running, BackgroundTasks())
        assert [(one.used, one.reserved) for one in await limiter.standing("ann")] == [(used, 0)]


async def test_a_caller_that_has_used_nothing_has_everything_left() -> None:
    limiter = Limiter([REQUESTS, CONCURRENT])
    assert await limiter.standing("ann") == [Standing(REQUESTS, 0, 0, 10), Standing(CONCURRENT, 0, 0, 3)]
    assert await Limiter([]).standing("ann") == []


async def test_debt_is_used_and_nothing_is_left() -> None:
    store = MemoryStore(clock=SetClock())
    granted = await store.reserve([Charge(TOKENS, "messages:ann", 10)])
    await store.settle(granted.reservation, [1500])
    assert await Limiter([TOKENS], store).standing("ann") == [Standing(TOKENS, 1500, 0, 0, NOW + 90)]


async def test_the_limits_are_those_that_apply_to_the_caller_and_the_model() -> None:
    per_model, opus = Limit("requests", 5, per="model"), Limit("requests", 5, 1.0, models=("opus*",))
    team, everyones = Limit("requests", 5, per="team"), Limit("requests", 50, per="all")
    per_function = Limit("requests", 5, per=method_of)
    own = Limit("requests", 7)
    limiter = Limiter([REQUESTS, per_model, opus, team, everyones, per_function])

    async def listed(principal: Principal | str, model: str | None = None) -> list[Limit]:
        return [one.limit for one in await limiter.standing(principal, model=model)]

    assert await listed("ann") == [REQUESTS, everyones]
    assert await listed("ann", "haiku") == [REQUESTS, per_model, everyones]
    assert await listed("ann", "opus-4") == [REQUESTS, per_model, opus, everyones]
    assert await listed(Principal(id="ann", team="core")) == [REQUESTS, team, everyones]
    assert await listed(Principal(id="ann", limits=(own,))) == [own, everyones]


def method_of(exchange: Exchange) -> str | None:
    return exchange.method


class Uninspectable:
    """A store that can only reserve and settle."""

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        raise AssertionError

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        raise AssertionError


async def test_a_store_that_cannot_report_is_named() -> None:
    with pytest.raises(TypeError, match="the store Uninspectable has no method `statuses`"):
        await Limiter([REQUESTS], Uninspectable()).standing("ann")


@pytest.mark.torture
@examples(50)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 2000), st.booleans()), max_size=5), st.floats(0, 100))
async def test_the_figures_add_up_whatever_happens(requests: list[tuple[int, int, bool]], seconds: float) -> None:
    clock = SetClock()
    store = MemoryStore(clock=clock)
    limit = Limit("tokens", 1000, mode="observe")
    for reserved, actual, ends in requests:
        granted = await store.reserve([Charge(limit, "messages:ann", reserved)])
        clock.now += seconds / 10
        if ends:
            await store.settle(granted.reservation, [actual])
    (one,) = await Limiter([limit], store).standing("ann")
    assert min(one.used, one.reserved, one.remaining) >= 0
    assert one.used + one.reserved + one.remaining == max(limit.amount, one.used + one.reserved)
    assert (one.full_at is None) == (one.used + one.reserved == 0)
