"""Refusals before the body: what memory knows at once, and what a store of one's own has refused before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from support.asgi import http_scope

from bud_asgi import Limit, Principal
from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limits import Charge, Grant, Limiter, LimitStatus, MemoryStore, RateLimited, refusals
from bud_asgi.limits.refusals import Refusals
from bud_asgi.limits.store import charges_of
from bud_asgi.tasks import BackgroundTasks

ONE_AN_HOUR = Limit("requests", 1, 3600.0)


def exchange_of(principal: str, path: str = "/v1/messages") -> Exchange:
    exchange = Exchange.of(http_scope(path=path))
    exchange.principal = Principal(id=principal)
    return exchange


async def test_a_store_in_memory_refuses_before_the_body_and_takes_nothing() -> None:
    limiter = Limiter([ONE_AN_HOUR])
    for _ in range(3):
        limiter.check(exchange_of("ann"))
    reservation = await limiter.admit(exchange_of("ann"))
    with pytest.raises(RateLimited) as refused:
        limiter.check(exchange_of("ann"))
    assert refused.value.headers["retry-after"] == "3600"
    limiter.check(exchange_of("bob"))
    limiter.check(exchange_of("ann", "/v1/messages/count_tokens"))
    limiter.settle(reservation, BackgroundTasks())
    with pytest.raises(RateLimited):  # a request is one request, whatever becomes of it
        limiter.check(exchange_of("ann"))


class Shared:
    """A store of one's own, which can only be asked for a reservation."""

    def __init__(self) -> None:
        self.asked = 0

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        self.asked += 1
        raise RateLimited(LimitStatus(charges[0], 0, 30.0), 20.0)

    def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        raise AssertionError


async def test_what_another_store_has_refused_is_refused_again_without_asking_it() -> None:
    store = Shared()
    limiter, now = Limiter([ONE_AN_HOUR], store), [100.0]
    limiter._refusals = Refusals(clock=lambda: now[0])
    limiter.check(exchange_of("ann"))
    with pytest.raises(RateLimited):
        await limiter.admit(exchange_of("ann"))
    now[0] += 5
    with pytest.raises(RateLimited) as refused:
        limiter.check(exchange_of("ann"))
    assert (refused.value.headers["retry-after"], store.asked) == ("15", 1)
    limiter.check(exchange_of("bob"))
    now[0] += 15
    limiter.check(exchange_of("ann"))
    assert len(limiter._refusals) == 0


def test_refusals_are_bounded_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_REFUSALS", 10)
    now = [0.0]
    noted = Refusals(clock=lambda: now[0])
    for name in range(30):
        charge = Charge(ONE_AN_HOUR, str(name), 1)
        noted.note((charge,), RateLimited(LimitStatus(charge, 0, 1.0), 1.0))
        assert len(noted) <= 10
    now[0] = 2.0
    charge = Charge(ONE_AN_HOUR, "later", 1)
    noted.note((charge,), RateLimited(LimitStatus(charge, 0, 1.0), 1.0))
    assert len(noted) == 1


@pytest.mark.parametrize("name", ["count_tokens:victim", "messages:victim", ":victim", "victim", "count_tokens", ""])
def test_no_id_that_a_caller_may_choose_reaches_the_bucket_of_another(name: str) -> None:
    limits = (ONE_AN_HOUR, Limit("requests", 1, per="all"))
    paths = ["/v1/messages", "/v1/messages/count_tokens"]
    mine = {charge.key for path in paths for charge in charges_of(limits[:1], exchange_of(name or "x", path))}
    theirs = {charge.key for path in paths for charge in charges_of(limits, exchange_of("other:victim", path))}
    assert len(mine) == 2
    assert not mine & theirs


class Counted(MemoryStore):
    """A store of one's own on top of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved = 0

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        self.reserved += 1
        return await super().reserve(charges)


async def test_a_subclass_s_own_reserve_is_called() -> None:
    store = Counted()
    limiter = Limiter([ONE_AN_HOUR], store)
    assert limiter.check(exchange_of("ann")) is None
    reservation = await limiter.admit(exchange_of("ann"))
    with pytest.raises(RateLimited):
        limiter.check(exchange_of("ann"))
    limiter.settle(reservation, BackgroundTasks())
    assert (store.reserved, store.open) == (1, 0)


async def test_what_is_remembered_of_principals_is_bounded() -> None:
    limiter = Limiter([Limit("requests", 5), Limit("requests", 100_000, per="all")])
    accounts = limiter._accounts
    for number in range(10_000):
        reserve(limiter, exchange_of(f"p{number}"))
        assert len(accounts) <= 4096
    known = len(accounts)
    exchange = exchange_of("x" * 100_000)
    for remaining in (b"4", b"3", b"2"):
        reserve(limiter, exchange)
        assert exchange.reply_headers[-2] == (b"anthropic-ratelimit-requests-remaining", remaining)
    assert len(accounts) == known


def reserve(limiter: Limiter, exchange: Exchange) -> Reservation:
    """Check and reserve as the gateway does, from a store that never waits."""
    account = limiter.check(exchange)
    assert account is not None
    return limiter.take(exchange, account)


def test_a_bucket_that_was_removed_while_the_body_arrived_is_looked_up_again() -> None:
    now = [0.0]
    limiter = Limiter([Limit("requests", 2, 10.0)], MemoryStore(clock=lambda: now[0]))
    slow = limiter.check(exchange_of("ann"))
    assert slow is not None
    for number in range(9):  # each removes the oldest buckets that are full: that of ann, too
        reserve(limiter, exchange_of(f"p{number}"))
    assert slow.draws[0].bucket.tokens == -math.inf
    for _ in range(2):
        reserve(limiter, exchange_of("ann"))
    with pytest.raises(RateLimited):
        limiter.take(exchange_of("ann"), slow)
    now[0] = 5.0
    limiter.take(exchange_of("ann"), slow)
    with pytest.raises(RateLimited):
        limiter.check(exchange_of("ann"))


async def test_idle_buckets_are_dropped() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    for second in range(20):
        now[0] = second * 10.0
        for caller in range(500):
            await store.reserve([Charge(Limit("requests", 5, 1.0), f"{second}-{caller}", 1)])
    assert len(store._buckets) <= 1000  # twice those that are in use
