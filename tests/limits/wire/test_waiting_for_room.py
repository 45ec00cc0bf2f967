"""Requests that wait for room: in order, fairly between callers, and without a trace of those that leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from support.limited import AwaitingStore, Booked, Limited, encoded, limited, lines
from support.uploads import upload
from support.waiting import wait_until

from bud_asgi import Limit, MemoryStore
from bud_asgi.limits.fair_queue import MAX_WAITING
from bud_asgi.testing import Received, hang, late

STORES: dict[str, Callable[[], MemoryStore]] = {"memory": MemoryStore, "a store that awaits": AwaitingStore}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return STORES[request.param]()


class Clients:
    """Clients that each send a request in a thread of their own, one after another into the line."""

    def __init__(self, here: Limited, pool: ThreadPoolExecutor) -> None:
        self._here, self._pool = here, pool

    def post(self, caller: str, *, waits: bool = True) -> Future[httpx.Response]:
        """Send a request; return when it waits in the line, or else when it is at the upstream."""
        before, seen = waiting(self._here), len(self._here.upstream.requests)
        posted = self._pool.submit(self._here.post, caller, encoded(system=caller))
        if waits:
            wait_until(lambda: waiting(self._here) > before, f"{caller} waits")
        else:
            wait_until(lambda: len(self._here.upstream.requests) > seen, f"{caller} is at the upstream")
        return posted


@contextmanager
def clients(here: Limited) -> Generator[Clients]:
    with ThreadPoolExecutor(40) as pool:
        yield Clients(here, pool)


@contextmanager
def holding(here: Limited, caller: str, number: int = 1) -> Generator[Callable[[], None]]:
    """Requests that are at the upstream until the yielded function is called: their clients leave."""
    with ExitStack() as stack:
        here.upstream.enqueue(*[hang()] * number)
        for count in range(len(here.upstream.requests), number + len(here.upstream.requests)):
            stack.enter_context(here.began(caller, encoded(system=caller)))
            here.upstream.wait_requests(count + 1)
        yield stack.close


def waiting(here: Limited) -> int:
    """The number of requests that wait."""
    return sum(map(len, tuple(here.limiter._waiting.queues.values())))


def sent_by(request: Received) -> str:
    return request.json()["system"]


def test_six_at_once_with_room_for_two_are_all_answered_in_order(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 2, wait=30.0), store=store) as here, clients(here) as some:
        with holding(here, "ann", 2) as release:
            posted = [some.post("ann") for _ in range(6)]
            here.upstream.always(late(0.05))
            release()
            assert [one.result(30).status_code for one in posted] == [200] * 6
        assert waiting(here) == 0
        assert here.booked_now("ann") == Booked()


def test_those_of_a_caller_are_answered_in_the_order_in_which_they_came(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 1, per="all", wait=30.0), store=store) as here, clients(here) as some:
        names = ["a", "b", "c", "d"]
        with holding(here, "first") as release:
            posted = [some.post(name) for name in names]
            release()
            assert {one.result(30).status_code for one in posted} == {200}
        assert [sent_by(one) for one in here.upstream.requests] == ["first", *names]


def test_a_client_that_leaves_the_line_leaves_no_trace_and_its_place_goes_to_the_next(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 1, per="all", wait=60.0), Limit("requests", 9), store=store) as here:
        with clients(here) as some, holding(here, "first") as release:
            body = encoded(system="gone")
            with here.began("gone", body):
                wait_until(lambda: waiting(here) == 1, "the first waits")
                second = some.post("next")
            wait_until(lambda: waiting(here) == 1, "the client has left the line")
            account = here.account("gone")
            assert (account.outcome, account.attempts) == ("client_gone", [])
            began = time.monotonic()
            release()
            assert second.result(30).status_code == 200
            assert time.monotonic() - began < 15
        assert [sent_by(one) for one in here.upstream.requests] == ["first", "next"]
        assert here.booked_now("gone") == Booked()
        assert here.booked_now("next") == Booked(requests=1)


def test_a_caller_with_many_waiting_requests_delays_only_its_own(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 1, per="all", wait=60.0), store=store) as here, clients(here) as some:
        with holding(here, "heavy") as release:
            posted = [some.post("heavy") for _ in range(MAX_WAITING)]
            refused = here.post("heavy")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            posted += [some.post("light"), some.post("light")]
            release()
            assert {one.result(30).status_code for one in posted} == {200}
        order = [sent_by(one) for one in here.upstream.requests]
        assert [index for index, name in enumerate(order) if name == "light"] in ([2, 4], [2, 3], [1, 3])


OF_ALL_AND_OWN = [Limit("concurrent", 2, per="all", wait=60.0), Limit("concurrent", 1, wait=60.0)]


@pytest.mark.parametrize("limits", [OF_ALL_AND_OWN, OF_ALL_AND_OWN[::-1]], ids=["all first", "own first"])
def test_a_caller_at_its_own_limit_does_not_block_the_line_of_all(store: MemoryStore, limits: list[Limit]) -> None:
    """Its turn in the line of the limit of all comes while its own limit has no room."""
    with (
        limited(*limits, store=store) as here,
        clients(here) as some,
        holding(here, "heavy") as release_heavy,
        holding(here, "other") as release_other,
    ):
        behind = some.post("heavy")
        release_other()
        began = time.monotonic()
        assert here.post("light").status_code == 200
        assert time.monotonic() - began < 15
        assert not behind.done()
        release_heavy()
        assert behind.result(30).status_code == 200


def test_a_caller_at_its_own_limit_does_not_overtake_those_who_wait_for_the_limit_of_all(store: MemoryStore) -> None:
    limits = [Limit("concurrent", 1, per="all", wait=60.0), Limit("concurrent", 1, wait=60.0)]
    with limited(*limits, store=store) as here, clients(here) as some, holding(here, "heavy") as release:
        posted = [some.post("heavy") for _ in range(4)]
        posted += [some.post("light") for _ in range(2)]
        release()
        assert {one.result(30).status_code for one in posted} == {200}
        order = [sent_by(one) for one in here.upstream.requests]
        assert order[-2:] == ["heavy", "heavy"]
        assert sorted(order[1:5]) == ["heavy", "heavy", "light", "light"]


def test_a_request_behind_others_that_take_too_much_is_refused_at_once(store: MemoryStore) -> None:
    with limited(Limit("output_tokens", 100, 10.0, wait=8.0), store=store) as here, holding(here, "ann"):
        first = encoded(model="claude-1", max_tokens=60)
        with here.began("ann", first):
            wait_until(lambda: waiting(here) == 1, "the first waits 6 s")
            began = time.monotonic()
            refused = here.post("ann", model="claude-2", max_tokens=60)
            assert time.monotonic() - began < 15
        assert refused.status_code == 429
        assert 7 <= int(refused.headers["retry-after"]) <= 12


def test_a_request_waits_for_a_window_that_has_room_in_time(store: MemoryStore) -> None:
    with limited(Limit("requests", 1, 0.4, wait=30.0), store=store) as here:
        began = time.monotonic()
        assert [here.post("ann").status_code for _ in range(3)] == [200] * 3
        assert 0.7 < time.monotonic() - began < 15


def test_a_wait_that_cannot_be_long_enough_is_refused_at_once(store: MemoryStore) -> None:
    with limited(Limit("requests", 1, 50.0, wait=2.0), store=store) as here:
        assert here.post("ann").status_code == 200
        began = time.monotonic()
        refused = here.post("ann")
        assert time.monotonic() - began < 15
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "50")
        assert "x-should-retry" not in refused.headers


def test_a_request_that_has_waited_in_vain_is_refused_when_its_time_is_over(store: MemoryStore) -> None:
    with limited(Limit("concurrent", 1, wait=0.3), store=store) as here, holding(here, "ann"):
        began = time.monotonic()
        refused = here.post("ann")
        assert 0.25 < time.monotonic() - began < 15
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "Try again when one of the running requests has ended." in refused.json()["error"]["message"]
        assert waiting(here) == 0


def test_a_request_waits_with_its_body_read_so_that_its_client_may_leave(store: MemoryStore) -> None:
    """Whatever the store: a client that leaves is noticed while the request waits."""
    with limited(Limit("concurrent", 1, wait=60.0), store=store) as here, holding(here, "ann"):
        body = encoded(system="gone")
        with here.began("ann", body):
            wait_until(lambda: waiting(here) == 1, "it waits")
        wait_until(lambda: waiting(here) == 0, "it has left")
        assert len(here.upstream.requests) == 1


def test_a_client_that_waits_for_its_models_may_leave_too() -> None:
    with limited(Limit("requests", 1, 10.0, wait=60.0)) as here:
        assert here.models("ann").status_code == 200
        with upload(here.here, lines("ann"), method="GET", path="/v1/models"):
            wait_until(lambda: waiting(here) == 1, "it waits")
        wait_until(lambda: waiting(here) == 0, "it has left")
