"""Options that change while the app runs: new requests get the new ones, running ones end on the former ones."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware
from support.asgi import Receiving, Sent, http_scope
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, messages_app, provider
from support.waiting import until, wait_until

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKeys,
    AuthMiddleware,
    Limit,
    MessagesApp,
    Observer,
    RateLimitMiddleware,
    Route,
    hash_api_key,
)
from bud_asgi.auth import ApiKey, MemoryKeyStore
from bud_asgi.exchange import Exchange, Reservation
from bud_asgi.http.seam import _usual
from bud_asgi.limits import Charge, MemoryStore
from bud_asgi.options import OptionError
from bud_asgi.parts import Parts
from bud_asgi.testing import StandIn, ThreadedStandIn, error, text

LONG = 1e9
"""Seconds: a window of which nothing is refilled during a test."""
OTHER_KEY = "sk-bud-another-callers-key"
STREAM = {**BODY, "stream": True}

CHANGES = 1000 if os.environ.get("BUD_ASGI_TORTURE") else 100
LARGE = 987_000
"""The limits of one app only, among all that the tests of a process make."""


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as started:
        yield started


@pytest.fixture(scope="module")
def other_upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as started:
        yield started


@contextmanager
def streaming(here: Gateway) -> Generator[Callable[[], bytes]]:
    """A stream that has begun. Calling what this yields reads it to its end."""
    with httpx.stream("POST", f"{here.base_url}/v1/messages", headers=HEADERS, json=STREAM, timeout=30) as reply:
        assert reply.status_code == 200
        pieces = reply.iter_raw()
        first = next(pieces)
        yield lambda: first + b"".join(pieces)


def slow() -> Any:
    """A reply whose stream takes half a second."""
    return text("one two three four five six", delay=0.08)


def test_a_key_that_is_removed_stops_at_once_and_a_new_one_works(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url) as here:
        assert here.post().status_code == 200
        here.messages.reload(auth=ApiKeys({"other": hash_api_key(OTHER_KEY)}))
        assert here.post().status_code == 401
        assert here.post(headers={**HEADERS, "x-api-key": OTHER_KEY}).status_code == 200
        assert [(one.principal and one.principal.id, one.revision) for one in here.accounts(3)] == [
            ("me", 1),
            (None, 2),
            ("other", 2),
        ]


def test_a_stream_ends_whole_on_the_former_options_and_is_settled_in_the_same_bucket(
    upstream: ThreadedStandIn, other_upstream: ThreadedStandIn
) -> None:
    limits = [Limit("output_tokens", 10_000, LONG), Limit("concurrent", 5)]
    with gateway(upstream.base_url, limits=limits) as here:
        upstream.enqueue(slow())
        with streaming(here) as rest:
            changed = [Limit("output_tokens", 20_000, LONG), Limit("concurrent", 6)]
            here.messages.reload(providers=[provider(other_upstream.base_url)], limits=changed)
            assert here.post().status_code == 200  # at the other upstream
            assert b"message_stop" in rest()
        assert [one.revision for one in here.accounts(2)] == [1, 2]
        assert all(one.outcome == "answered" for one in here.settled)
        assert len(other_upstream.requests) == 1
        used = [one.usage.output_tokens or 0 for one in here.settled if one.usage]
        tokens, running = asyncio.run(here.messages.limits.standing("me"))
        assert (tokens.limit.amount, tokens.used, tokens.reserved) == (20_000, sum(used), 0)
        assert (running.used, running.reserved) == (0, 0)
        wait_until(lambda: upstream.connections_open == 0, "the connections to the former server are closed")


def test_buckets_go_on_where_a_limit_stays_the_same_but_for_its_amount(upstream: ThreadedStandIn) -> None:
    def statuses(count: int) -> list[int]:
        return [here.post().status_code for _ in range(count)]

    with gateway(upstream.base_url, limits=[Limit("requests", 2, LONG)]) as here:
        assert statuses(3) == [200, 200, 429]
        here.messages.reload(auth=ApiKeys({"me": hash_api_key(KEY)}))
        assert statuses(1) == [429]
        here.messages.reload(limits=[Limit("requests", 3, LONG)])
        assert statuses(2) == [200, 429]
        here.messages.reload(limits=())
        assert statuses(1) == [200]
        here.messages.reload(limits=[Limit("requests", 3, LONG)])
        assert statuses(1) == [429]
        here.messages.reload(store=MemoryStore())
        assert statuses(1) == [200]


def test_a_request_that_waits_for_room_is_woken_by_the_end_of_one_after_the_change(upstream: ThreadedStandIn) -> None:
    limits = [Limit("concurrent", 1, wait=20.0)]
    with gateway(upstream.base_url, limits=limits) as here:
        upstream.enqueue(slow())
        with streaming(here) as rest:
            waiting = _in_thread(here.post)
            wait_until(lambda: bool(here.messages.limits._waiting.queues), "it waits")
            here.messages.reload(limits=[Limit("concurrent", 1, wait=30.0)])
            later = _in_thread(here.post)
            rest()
            assert [waiting().status_code, later().status_code] == [200, 200]
        wait_until(lambda: [one.revision for one in here.settled] == [1, 1, 2], "the one that came first is first")


def _in_thread(work: Callable[[], httpx.Response]) -> Callable[[], httpx.Response]:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    return pool.submit(work).result


def test_health_is_kept_for_a_provider_that_is_the_same_object(upstream: ThreadedStandIn) -> None:
    same = provider(upstream.base_url, name="same")

    def state() -> tuple[str, int]:
        (one,) = here.messages.state().targets
        return one.state, one.calls

    with gateway("", providers=[same], routes=[Route("*", to=["same"])]) as here:
        upstream.enqueue(*[error(500, "api_error", "no")] * 5)
        assert {here.post().status_code for _ in range(5)} == {500}
        assert state() == ("down", 5)
        here.messages.reload(routes=[Route("claude-*", to=["same"])])
        assert state() == ("down", 5)
        here.messages.reload(providers=[provider(upstream.base_url, name="same")])
        assert state() == ("up", 0)
        assert here.post().status_code == 200
        assert state() == ("up", 1)


def test_a_new_credential_is_used_on_the_same_connections(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, providers=[provider(upstream.base_url, api_key="sk-ant-of-yesterday")]) as here:
        assert here.post().status_code == 502  # a rejected credential
        here.messages.reload(providers=[provider(upstream.base_url)])
        assert here.post().status_code == 200
        assert upstream.requests[-1].connection == upstream.requests[-2].connection


def test_a_middleware_stack_stays_around_new_providers(
    upstream: ThreadedStandIn, other_upstream: ThreadedStandIn
) -> None:
    layers = [
        Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(KEY)})),
        Middleware(RateLimitMiddleware, limits=[Limit("requests", 2, LONG)]),
    ]
    before = len(other_upstream.requests)
    with gateway(upstream.base_url, middleware=layers) as here:
        assert here.post().status_code == 200
        here.messages.reload(providers=[provider(other_upstream.base_url)])
        assert [here.post().status_code for _ in range(2)] == [200, 429]
        assert len(other_upstream.requests) == before + 1
        with pytest.raises(ValueError, match="middleware= replaces"):
            here.messages.reload(auth=Anonymous())


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no provider": ({"providers": []}, OptionError, "providers: at least one is needed"),
    "a route to nowhere": ({"routes": [Route("*", to=["x"])]}, OptionError, "routes: unknown provider 'x'"),
    "no auth": ({"auth": None}, OptionError, "auth: missing"),
    "a limit twice": ({"limits": [Limit("requests", 1), Limit("requests", 2)]}, OptionError, r"limits\[1\]"),
    "a store": ({"store": 3}, OptionError, "store: expected"),
    "a budget": ({"max_body": 10, "body_budget": 5}, OptionError, "body_budget: expected at least max_body"),
    "a field": ({"field_policy": {"speed": "no"}}, OptionError, "speed"),
    "a flag": ({"route_header": 1}, OptionError, "route_header: expected"),
    "what stays": ({"timing": None}, OptionError, "timing: cannot be changed while the app runs; expected providers, "),
    "what does not exist": ({"provider": 1}, TypeError, "unexpected option 'provider'"),
    "one right, one wrong": ({"auth": Anonymous(), "max_body": 0}, OptionError, "max_body: expected"),
}


@pytest.mark.parametrize(("changes", "kind", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_changes_nothing(changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    messages = MessagesApp(auth=Anonymous(), providers=[Anthropic(api_key="k")])
    before = messages._revisions.current
    with pytest.raises(kind, match=words):
        messages.reload(**changes)
    assert messages._revisions.current is before
    assert messages.revision == 1


class Shared(MemoryStore):
    """A store with connections: it notes when they are closed."""

    lease = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    async def renew(self, reservations: Sequence[Reservation]) -> None: ...

    async def aclose(self) -> None:
        self.closed += 1


def test_a_store_is_closed_when_the_last_request_that_uses_it_has_been_settled(upstream: ThreadedStandIn) -> None:
    stores = [Shared(), Shared()]
    with gateway(upstream.base_url, limits=[Limit("output_tokens", 9_999, LONG)], store=stores[0]) as here:
        upstream.enqueue(slow())
        with streaming(here) as rest:
            here.messages.reload(store=stores[1])
            here.messages.reload(max_body=1000)
            assert here.post().status_code == 200
            assert [store.closed for store in stores] == [0, 0]
            rest()
        wait_until(lambda: stores[0].closed == 1, "the former store is closed")
        statuses = asyncio.run(stores[0].statuses([Charge(Limit("output_tokens", 9_999, LONG), "messages:me", 0)]))
        assert round(statuses[0].used) == 6
        assert statuses[0].reserved == 0
        assert stores[1].closed == 0
    assert stores[0].closed == 1
    assert stores[1].closed


class Counted(MemoryKeyStore):
    """A key store that counts its calls, and notes when it is closed."""

    calls = closed = 0

    async def find(self, key_hash: str) -> ApiKey | None:
        self.calls += 1
        return await super().find(key_hash)

    async def aclose(self) -> None:
        self.closed += 1


def test_what_is_known_of_a_key_store_is_kept_and_closed_once(upstream: ThreadedStandIn) -> None:
    store = Counted()
    asyncio.run(store.add(ApiKey(name="stored", hash=hash_api_key(KEY))))
    with gateway(upstream.base_url, auth=ApiKeys(store=store)) as here:
        assert here.post().status_code == 200
        for _ in range(3):
            here.messages.reload(auth=[ApiKeys({"other": hash_api_key(OTHER_KEY)}, store=store)])
            assert here.post().status_code == 200
        assert (store.calls, store.closed) == (1, 0)
        here.messages.reload(auth=ApiKeys({"me": hash_api_key(KEY)}))
        wait_until(lambda: store.closed == 1, "the store is closed")


def test_what_a_body_may_take_is_changed_with_what_is_held_still_counted(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url) as here:
        here.messages.reload(max_body=20)
        assert here.post().status_code == 413
        here.messages.reload(max_body=2000, body_budget=4000)
        assert here.post().status_code == 200
        bodies = here.messages._revisions.current.bodies
        assert (bodies.max_body, bodies.total, bodies.held) == (2000, 4000, 0)


def test_the_access_log_can_be_turned_on(upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bud_asgi.access")
    with gateway(upstream.base_url) as here:
        here.post()
        here.messages.reload(access_log=True)
        here.post()
        here.accounts(2)
        here.messages.reload(access_log=False)
        here.post()
    assert len([one for one in caplog.records if one.name == "bud_asgi.access"]) == 1


def test_an_override_is_served_within_its_block_only(
    upstream: ThreadedStandIn, other_upstream: ThreadedStandIn
) -> None:
    before = len(other_upstream.requests)
    with gateway(upstream.base_url, limits=[Limit("requests", 2, LONG)]) as here:
        assert here.post().status_code == 200
        with here.messages.override(providers=[provider(other_upstream.base_url)]):
            assert [here.post().status_code for _ in range(3)] == [200, 200, 429]
            with here.messages.override(auth=Anonymous()):
                assert here.post(headers={"anthropic-version": "2023-06-01"}).status_code == 200
        assert [here.post().status_code for _ in range(2)] == [200, 429]
        assert len(other_upstream.requests) == before + 3
        assert here.messages.revision == 1


class Held(Observer):
    """Notes the revision of each request that has been settled."""

    def __init__(self) -> None:
        self.revisions: list[int] = []

    def settled(self, exchange: Exchange) -> None:
        self.revisions.append(exchange.revision)


@pytest.mark.torture
async def test_nothing_grows_over_many_changes() -> None:
    held = Held()
    messages = messages_app("http://127.0.0.1:9", limits=[Limit("requests", LARGE)], observers=[held])
    async with messages.lifespan():
        await _refused(messages)
        await asyncio.sleep(0)
        tasks, origins = len(asyncio.all_tasks()), len(_usual)
        for number in range(CHANGES):
            messages.reload(
                auth=ApiKeys({"me": hash_api_key(KEY)}),
                providers=[provider(f"http://127.0.0.1:{10 + number}")],
                limits=[Limit("requests", LARGE + number)],
                routes=[Route(f"m{number}", to=["anthropic"])],
            )
            if not number % 100:
                await _refused(messages)
            if not number % 10:
                await asyncio.sleep(0)
        await until(lambda: len(asyncio.all_tasks()) == tasks)
        ((resources, _),) = messages._loops._by_loop.values()
        assert (resources._retired, len(resources.tasks)) == ({}, 0)
        gc.collect()
        kept = [one for one in gc.get_objects() if type(one) is Parts and one.options.limits]
        assert len([one for one in kept if one.options.limits[0].amount >= LARGE]) == 1
        assert len(_usual) <= origins + 1
        assert held.revisions == [1, *(2 + 100 * number for number in range(CHANGES // 100))]


async def _refused(messages: MessagesApp) -> None:
    """A request that reaches the limits, and no upstream."""
    sent = Sent()
    lines = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    body = {"type": "http.request", "body": b"{}", "more_body": False}
    await messages(http_scope(lines), Receiving(body), sent)
    assert sent.status == 400
