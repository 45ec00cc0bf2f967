"""The upstreams' model lists: fetched on first use, waited for briefly, cached, and refreshed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import CoroutineType
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from bud_asgi.catalogue import served_at
from bud_asgi.http import Engine, HttpRequest
from bud_asgi.models import upstream_lists
from bud_asgi.models.upstream_lists import DEFAULT_TIMING, ListTiming, ModelsByProvider, UpstreamModelLists
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import Anthropic, Provider, UpstreamUnavailable
from bud_asgi.testing import (
    Reply,
    StandIn,
    empty,
    error,
    garbage_chunks,
    gzip_unasked,
    hang,
    html,
    json_body,
    late,
    one_byte_a_second,
    redirect,
    reset_before_head,
    stall,
)

LISTED = json_body({"data": [{"id": "claude-a"}]})
PATIENT = ListTiming(wait_with_catalogue=10.0, wait_without_catalogue=10.0)
"""Waits for the first list until the fetch has ended."""


class Known(Anthropic):
    """A provider at another address whose models are in the catalogue."""

    @property
    def models(self) -> Sequence[str]:
        return served_at("anthropic")


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn(api_key="k") as stand_in:
        yield stand_in


def fetches() -> list[asyncio.Task[Any]]:
    """The tasks that run code of the module under test."""
    return [
        task
        for task in asyncio.all_tasks()
        if isinstance(coroutine := task.get_coro(), CoroutineType)
        and coroutine.cr_code.co_filename == upstream_lists.__file__
    ]


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine; at the end no request is open and no fetch is running."""
    one = Engine()
    yield one
    await asyncio.sleep(0)
    assert one.open == one.idle
    assert fetches() == []
    await one.aclose()


class Lists:
    """The lists of some providers."""

    def __init__(self, providers: Sequence[Provider], engine: Engine, **options: Any) -> None:
        self._providers = providers
        self._lists = UpstreamModelLists(engine, **options)

    async def current(self) -> ModelsByProvider:
        return await self._lists.current(self._providers)

    def close(self) -> None:
        self._lists.close()


Make = Callable[..., Lists]


@pytest_asyncio.fixture
async def make(upstream: StandIn, engine: Engine, clock: FakeClock) -> AsyncIterator[Make]:
    """Creates model lists of providers p0, p1, ..., all at the stand-in."""
    made: list[Lists] = []

    def lists_of(*kinds: type[Anthropic], timing: ListTiming = PATIENT) -> Lists:
        providers = [kind(api_key="k", base_url=upstream.base_url, name=f"p{n}") for n, kind in enumerate(kinds)]
        made.append(Lists(providers, engine, timing=timing, clock=clock))
        return made[-1]

    yield lists_of
    for one in made:
        one.close()


async def ids(lists: Lists) -> dict[str, list[str]]:
    """The ids that are known now, by provider."""
    return {name: list(models) for name, models in (await lists.current()).items()}


async def settled() -> None:
    """Wait until all fetches have ended."""
    while running := fetches():
        await asyncio.wait(running)


async def seconds(waiting: Awaitable[object]) -> float:
    began = time.monotonic()
    await waiting
    return time.monotonic() - began


async def test_nothing_is_fetched_before_the_first_use(upstream: StandIn, make: Make) -> None:
    lists = make(Anthropic)
    assert fetches() == []
    assert upstream.connections_made == 0
    upstream.enqueue(LISTED)
    assert await ids(lists) == {"p0": ["claude-a"]}
    (request,) = upstream.requests
    assert request.refusal is None
    assert request.header("x-api-key") == b"k"
    assert request.target == (
        b"/v1/models?beta=true&limit=1000&lifecycle%5B%5D=active&lifecycle%5B%5D=deprecated&lifecycle%5B%5D=retired"
    )


async def test_concurrent_and_later_callers_share_one_fetch(upstream: StandIn, make: Make, clock: FakeClock) -> None:
    lists = make(Anthropic)
    upstream.always(late(0.05, LISTED))
    answers = await asyncio.gather(*(ids(lists) for _ in range(50)))
    assert answers == [{"p0": ["claude-a"]}] * 50
    clock.now += PATIENT.ttl - 1
    await ids(lists)
    assert len(upstream.requests) == 1


async def test_an_expired_list_is_served_while_it_is_refreshed(upstream: StandIn, make: Make, clock: FakeClock) -> None:
    lists = make(Anthropic)
    upstream.enqueue(LISTED, late(0.1, json_body({"data": []})))
    assert await ids(lists) == {"p0": ["claude-a"]}
    clock.now += PATIENT.ttl
    for _ in range(3):
        assert await ids(lists) == {"p0": ["claude-a"]}
    await settled()
    assert await ids(lists) == {"p0": []}
    assert len(upstream.requests) == 2


async def test_a_compressed_list_is_read(upstream: StandIn, make: Make) -> None:
    upstream.enqueue(gzip_unasked(LISTED))
    assert await ids(make(Anthropic)) == {"p0": ["claude-a"]}


FAULTS: dict[str, Callable[[], Reply]] = {
    "rejects the key": lambda: error(401, "authentication_error", "invalid x-api-key"),
    "has no list": lambda: html(404),
    "fails": lambda: empty(500),
    "resets": reset_before_head,
    "sends a web page": html,
    "sends an empty body": empty,
    "redirects": lambda: redirect("http://127.0.0.1:1/"),
    "compresses and breaks off": lambda: replace(gzip_unasked(LISTED), cut=20),
    "breaks off in mid-body": garbage_chunks,
    "sends a list with an error status": lambda: json_body({"data": [{"id": "claude-a"}]}, status=500),
    "lists something else": lambda: json_body({"models": [{"name": "llama"}]}),
    "sends an oversized list": lambda: json_body({"data": [{"id": "a", "x": "y" * (5 << 20)}]}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_failed_fetch_is_retried_after_an_interval(
    upstream: StandIn, make: Make, clock: FakeClock, fault: Callable[[], Reply]
) -> None:
    lists = make(Anthropic)
    upstream.enqueue(fault(), LISTED)
    assert await ids(lists) == {}
    clock.now += PATIENT.retry_after - 1
    assert await ids(lists) == {}
    assert len(upstream.requests) == 1
    clock.now += 1
    assert await ids(lists) == {"p0": ["claude-a"]}
    assert len(upstream.requests) == 2


async def test_a_failed_refresh_keeps_the_list(upstream: StandIn, make: Make, clock: FakeClock) -> None:
    lists = make(Anthropic)
    upstream.enqueue(LISTED, html(500), json_body({}))
    for count in (1, 2, 3):
        assert await ids(lists) == {"p0": ["claude-a"]}
        await settled()
        assert len(upstream.requests) == count
        clock.now += PATIENT.ttl
    upstream.enqueue(hang())
    assert await ids(lists) == {"p0": ["claude-a"]}
    await upstream.wait_requests(4)


@pytest.mark.parametrize("number", [1, 4])
async def test_with_a_catalogue_callers_wait_briefly_and_a_running_fetch_is_not_repeated(
    upstream: StandIn, make: Make, clock: FakeClock, number: int
) -> None:
    lists = make(*[Known] * number, timing=ListTiming(wait_with_catalogue=0.0))
    upstream.always(hang())
    for _ in range(3):
        assert await ids(lists) == {}
        clock.now += DEFAULT_TIMING.ttl
    await upstream.wait_requests(number)
    assert len(fetches()) == number
    assert len(upstream.requests) == number


async def test_without_a_catalogue_all_callers_wait_until_one_deadline(upstream: StandIn, engine: Engine) -> None:
    """On the real clock: the deadline counts from the start of the fetch, for all providers together."""
    providers = [kind(api_key="k", base_url=upstream.base_url, name=kind.__name__) for kind in (Anthropic, Known)]
    providers.append(Anthropic(api_key="k", base_url=upstream.base_url, name="third"))
    lists = Lists(providers, engine, timing=ListTiming(wait_without_catalogue=0.5))
    upstream.always(hang())
    assert 0.45 < await seconds(lists.current()) < 0.95
    assert await seconds(lists.current()) < 0.4
    lists.close()


async def test_a_late_list_is_available_to_the_next_caller(upstream: StandIn, make: Make) -> None:
    lists = make(Known, timing=ListTiming(wait_with_catalogue=0.0))
    upstream.enqueue(late(0.05, LISTED))
    assert await ids(lists) == {}
    await settled()
    assert await ids(lists) == {"p0": ["claude-a"]}
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("reply", [one_byte_a_second(0.02, LISTED), stall(60, after_bytes=3, reply=LISTED)])
async def test_a_fetch_that_does_not_end_times_out(
    upstream: StandIn, make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    timing = ListTiming(timeout=0.2, wait_without_catalogue=10.0)
    lists = make(Anthropic, timing=timing)
    upstream.enqueue(reply, LISTED)
    assert await ids(lists) == {}
    await upstream.wait_aborted(30.0)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["p0: could not fetch the model list: timed out after 0.2 s"]
    clock.now += timing.retry_after
    assert await ids(lists) == {"p0": ["claude-a"]}


async def test_a_cancelled_caller_does_not_cancel_the_fetch(upstream: StandIn, make: Make) -> None:
    lists = make(Anthropic)
    upstream.enqueue(late(0.1, LISTED))
    first, second = (asyncio.create_task(ids(lists)) for _ in range(2))
    await upstream.wait_requests()
    first.cancel()
    assert await second == {"p0": ["claude-a"]}
    assert first.cancelled()
    assert len(upstream.requests) == 1


async def test_closing_cancels_the_fetches(upstream: StandIn, make: Make) -> None:
    lists = make(Known, Known, timing=ListTiming(wait_with_catalogue=0.0))
    upstream.always(hang())
    await ids(lists)
    await upstream.wait_requests(2)
    lists.close()
    for _ in range(2):
        await upstream.wait_aborted(30.0)


class NoCredential:
    """A credential that is unavailable."""

    is_operators = True

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        raise UpstreamUnavailable("upstream authentication failed")

    async def refresh(self, refused: HttpRequest) -> bool:
        return False

    def redact(self, text: str) -> str:
        return text


async def test_without_a_credential_there_is_no_list_and_one_log_line(
    upstream: StandIn, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    bare = Known(api_key="k", base_url=upstream.base_url, name="bare")
    bare.credential = NoCredential()
    assert await ids(Lists([bare], engine)) == {}
    assert upstream.requests == []
    (record,) = caplog.records
    assert record.getMessage() == "bare: could not fetch the model list: upstream authentication failed"
    assert (record.levelname, record.exc_info) == ("INFO", None)


async def test_a_programming_error_is_logged_with_its_traceback(
    upstream: StandIn, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Known(api_key="k", base_url=upstream.base_url, name="broken")
    broken.credential = NoCredential()

    async def fail(_request: HttpRequest, _client: Headers) -> HttpRequest:
        raise LookupError("a fault in a credential")

    monkeypatch.setattr(broken.credential, "apply", fail)
    assert await ids(Lists([broken], engine)) == {}
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "broken: could not fetch the model list")
    assert record.exc_info is not None


async def test_with_the_clients_credential_nothing_is_fetched(upstream: StandIn, engine: Engine) -> None:
    passing = Anthropic(auth="client", base_url=upstream.base_url)
    assert await ids(Lists([passing], engine)) == {}
    assert upstream.connections_made == 0
