"""The leases of running requests in a shared store: renewed until they are settled, whatever a renewal meets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from support.asgi import exchange_of
from support.virtual_time import run_in_virtual_time

from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.limits import Charge, Grant, Limit, Limiter, SharedStore, StoreUnavailable
from bud_asgi.tasks import BackgroundTasks

LIMIT = Limit("requests", 5)
LEASE = 30.0


class Shared:
    """A store that notes when what was renewed. It fails as often as `failures`, by not answering."""

    lease = LEASE

    def __init__(self, failures: int = 0, error: type[Exception] | None = None) -> None:
        self.failures = failures
        self.error = error
        self.renewed: list[tuple[float, list[str]]] = []
        self.settled: list[str] = []
        self.closed = 0
        self._count = 0

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        self._count += 1
        return Grant(Reservation(str(self._count)))

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        self.settled.append(reservation.id)

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        self.renewed.append((asyncio.get_running_loop().time() - 1000, [one.id for one in reservations]))
        self.failures -= 1
        if self.failures >= 0:
            raise self.error() if self.error else StoreUnavailable("it did not answer")

    async def aclose(self) -> None:
        self.closed += 1


def exchange_with(tasks: BackgroundTasks) -> Exchange:
    exchange = exchange_of("ann")
    exchange.tasks = tasks
    return exchange


def run(store: Shared, seconds: Sequence[float]) -> None:
    """Run requests at once, each for so many seconds, and wait for what they leave."""
    limiter, tasks = Limiter([LIMIT], store), BackgroundTasks()

    async def request(duration: float) -> None:
        exchange = exchange_with(tasks)
        admission = await limiter.admit(exchange)
        await asyncio.sleep(duration)
        limiter.settle(admission, exchange, tasks)

    async def all_of_them() -> None:
        await asyncio.gather(*map(request, seconds))
        await asyncio.sleep(10 * LEASE)
        await tasks.drain(1)
        assert len(limiter._leases[asyncio.get_running_loop()]) == 0

    run_in_virtual_time(all_of_them())
    assert sorted(store.settled) == [str(number) for number in range(1, len(seconds) + 1)]


def test_a_store_that_renews_is_a_shared_store() -> None:
    assert isinstance(Shared(), SharedStore)


def test_running_requests_are_renewed_three_times_in_each_lease_and_not_after_they_end() -> None:
    store = Shared()
    run(store, [35.0, 15.0])
    assert store.renewed == [(10, ["1", "2"]), (20, ["1"]), (30, ["1"])]


def test_a_short_request_is_never_renewed() -> None:
    store = Shared()
    run(store, [5.0] * 3)
    assert store.renewed == []


@pytest.mark.parametrize("failures", [1, 2])
def test_a_renewal_that_fails_is_tried_again_before_the_lease_ends(
    failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = Shared(failures)
    run(store, [45.0])
    assert [at for at, _ in store.renewed] == [10, 20, 30, 40]
    assert caplog.records == []  # the store reports that itself


def test_another_failure_of_a_store_is_logged_and_the_next_renewal_comes(caplog: pytest.LogCaptureFixture) -> None:
    store = Shared(1, ZeroDivisionError)
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        run(store, [25.0])
    assert [at for at, _ in store.renewed] == [10, 20]
    assert [record.message for record in caplog.records] == ["background work failed"]


def test_the_timer_begins_again_with_the_next_request() -> None:
    store = Shared()
    limiter, tasks = Limiter([LIMIT], store), BackgroundTasks()

    async def one_after_the_other() -> None:
        for _ in range(2):
            exchange = exchange_with(tasks)
            admission = await limiter.admit(exchange)
            await asyncio.sleep(12)
            limiter.settle(admission, exchange, tasks)
            await asyncio.sleep(88)

    run_in_virtual_time(one_after_the_other())
    assert [at for at, _ in store.renewed] == [10, 110]


def test_the_leases_of_loops_that_are_closed_are_forgotten() -> None:
    limiter = Limiter([LIMIT], Shared())

    async def one() -> None:
        await limiter.admit(exchange_with(BackgroundTasks()))

    for _ in range(5):
        run_in_virtual_time(one())
        assert len(limiter._leases) == 1


def test_closing_ends_what_belongs_to_the_running_loop() -> None:
    store = Shared()
    limiter = Limiter([LIMIT], store)

    async def one() -> None:
        await limiter.admit(exchange_with(BackgroundTasks()))
        await limiter.aclose()
        assert limiter._leases == {}

    run_in_virtual_time(one())
    assert store.closed == 1
