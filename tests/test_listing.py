"""The upstreams' own lists of models: asked for on first use, waited for briefly, kept, and asked for again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio
from auth.driver import call, http_scope

from bud_asgi import Anonymous, MessagesApp
from bud_asgi.catalogue import served_at
from bud_asgi.http import Engine, HttpRequest
from bud_asgi.models import upstream_lists as listing
from bud_asgi.models.upstream_lists import Listings, Told
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import Anthropic, UpstreamUnavailable
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


class Known(Anthropic):
    """A server at another address that is known to serve what Anthropic's own does."""

    @property
    def models(self) -> Sequence[str]:
        return served_at("anthropic")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn(api_key="k") as stand_in:
        yield stand_in


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine that has no call open in the end, and nobody asks any more."""
    one = Engine()
    yield one
    await asyncio.sleep(0)
    assert one.open == one.idle
    assert not [task for task in asyncio.all_tasks() if "Listings" in repr(task.get_coro())]
    await one.aclose()


Ask = Callable[..., Listings]


@pytest_asyncio.fixture
async def ask(upstream: StandIn, engine: Engine) -> AsyncIterator[Ask]:
    """Makes lists of providers, all of them at the stand-in."""
    made: list[Listings] = []

    def make(*kinds: type[Anthropic]) -> Listings:
        providers = [kind(api_key="k", base_url=upstream.base_url, name=f"p{n}") for n, kind in enumerate(kinds)]
        made.append(Listings(providers, engine))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def timed(listings: Listings) -> tuple[dict[str, list[str]], float]:
    """What is known, and the seconds that it took to say so."""
    began = time.monotonic()
    told: Told = await listings.told()
    return {name: list(models) for name, models in told.items()}, time.monotonic() - began


async def until(listings: Listings, name: str = "p0") -> list[str]:
    """What a provider has told, once it has."""
    for _ in range(300):
        told, _took = await timed(listings)
        if name in told:
            return told[name]
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} tells nothing")


async def test_nothing_is_asked_before_somebody_wants_to_know(upstream: StandIn, ask: Ask) -> None:
    listings = ask(Anthropic)
    await asyncio.sleep(0.02)
    assert upstream.connections_made == 0
    upstream.enqueue(LISTED)
    assert (await timed(listings))[0] == {"p0": ["claude-a"]}
    (asked,) = upstream.requests
    assert asked.refusal is None
    assert asked.header("x-api-key") == b"k"
    assert asked.target == (
        b"/v1/models?beta=true&limit=1000&lifecycle%5B%5D=active&lifecycle%5B%5D=deprecated&lifecycle%5B%5D=retired"
    )


async def test_it_is_asked_once_for_all_who_ask_at_once_and_then_for_a_while(upstream: StandIn, ask: Ask) -> None:
    listings = ask(Anthropic)
    upstream.always(late(0.05, LISTED))
    answers = await asyncio.gather(*(timed(listings) for _ in range(50)))
    assert {tuple(told) for told, _ in answers} == {("p0",)}
    await timed(listings)
    assert len(upstream.requests) == 1


async def test_an_old_list_serves_while_it_is_asked_for_again(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FRESH_FOR", 0.0)
    listings = ask(Anthropic)
    upstream.enqueue(LISTED, late(0.1, json_body({"data": []})), hang())
    assert (await timed(listings))[0] == {"p0": ["claude-a"]}
    told, took = await timed(listings)
    assert told == {"p0": ["claude-a"]}
    assert took < 0.05
    await upstream.wait_requests(2)
    await asyncio.sleep(0.2)
    assert (await timed(listings))[0] == {"p0": []}


FAULTS: dict[str, Callable[[], Reply]] = {
    "refuses the key": lambda: error(401, "authentication_error", "invalid x-api-key"),
    "has no list": lambda: html(404),
    "fails": lambda: empty(500),
    "resets": reset_before_head,
    "answers a page": html,
    "answers nothing": empty,
    "redirects": lambda: redirect("http://127.0.0.1:1/"),
    "compresses": lambda: gzip_unasked(LISTED),
    "is no HTTP halfway": garbage_chunks,
    "lists in an error": lambda: json_body({"data": [{"id": "claude-a"}]}, status=500),
    "lists something else": lambda: json_body({"models": [{"name": "llama"}]}),
    "lists without end": lambda: json_body({"data": [{"id": "a", "x": "y" * (5 << 20)}]}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_an_upstream_that_fails_is_asked_again_after_a_while(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], Reply]
) -> None:
    listings = ask(Anthropic)
    upstream.enqueue(fault(), LISTED)
    for _ in range(2):
        assert (await timed(listings))[0] == {}
    await asyncio.sleep(0.02)
    assert len(upstream.requests) == 1
    monkeypatch.setattr(listing, "AGAIN_AFTER", 0.0)
    assert await until(listings) == ["claude-a"]
    assert len(upstream.requests) == 2


async def test_a_failure_later_leaves_what_was_told(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FRESH_FOR", 0.0)
    listings = ask(Anthropic)
    upstream.enqueue(LISTED, html(500), hang())
    for count in (1, 2, 3):
        assert (await timed(listings))[0] == {"p0": ["claude-a"]}
        await upstream.wait_requests(count)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [1, 4])
async def test_where_the_catalogue_can_stand_in_nobody_waits_long_whatever_hangs(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(listing, "AGAIN_AFTER", 0.0)  # as long as it is asked for, it is asked for once
    listings = ask(*[Known] * number)
    upstream.always(hang())
    for _ in range(3):
        told, took = await timed(listings)
        assert told == {}
        assert took < 0.05
    await asyncio.sleep(0.02)
    assert len(upstream.requests) == number


async def test_where_nothing_can_stand_in_it_is_waited_for_once_and_for_all_together(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "WAIT_WITHOUT", 0.2)
    listings = ask(Anthropic, Anthropic, Known)
    upstream.always(hang())
    assert 0.15 < (await timed(listings))[1] < 0.3
    assert (await timed(listings))[1] < 0.05


async def test_a_list_that_comes_late_is_there_for_the_next(upstream: StandIn, ask: Ask) -> None:
    listings = ask(Known)
    upstream.enqueue(late(0.1, LISTED))
    assert (await timed(listings))[0] == {}
    assert await until(listings) == ["claude-a"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("reply", [one_byte_a_second(0.02, LISTED), stall(60, after_bytes=3, reply=LISTED)])
async def test_a_list_that_never_ends_is_given_up(
    upstream: StandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    monkeypatch.setattr(listing, "WITHIN", 0.2)
    monkeypatch.setattr(listing, "AGAIN_AFTER", 0.0)
    listings = ask(Known)
    upstream.enqueue(reply, LISTED)
    await timed(listings)
    await upstream.wait_aborted(2.0)
    assert await until(listings) == ["claude-a"]
    assert [said.getMessage() for said in caplog.records] == ["p0: its list of models can't be had: it took too long"]


async def test_who_leaves_while_waiting_takes_nothing_from_the_others(upstream: StandIn, ask: Ask) -> None:
    listings = ask(Anthropic)
    upstream.enqueue(late(0.1, LISTED))
    first, second = (asyncio.create_task(timed(listings)) for _ in range(2))
    await upstream.wait_requests()
    first.cancel()
    assert (await second)[0] == {"p0": ["claude-a"]}
    assert first.cancelled()
    assert len(upstream.requests) == 1


async def test_closing_gives_up_what_is_asked_for(upstream: StandIn, ask: Ask) -> None:
    listings = ask(Known, Known)
    upstream.always(hang())
    await timed(listings)
    await upstream.wait_requests(2)
    listings.close()
    for _ in range(2):
        await upstream.wait_aborted(1.0)


class NoCredential:
    """What finds no credential to put on."""

    is_operators = True

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        raise UpstreamUnavailable("upstream authentication failed")

    async def refresh(self, refused: HttpRequest) -> bool:
        return False

    def redact(self, text: str) -> str:
        return text


async def test_without_a_credential_there_is_no_list_and_one_line_in_the_log(
    upstream: StandIn, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    bare = Known(api_key="k", base_url=upstream.base_url, name="bare")
    bare.credential = NoCredential()
    listings = Listings([bare], engine)
    assert (await timed(listings))[0] == {}
    assert upstream.requests == []
    (said,) = caplog.records
    assert said.getMessage() == "bare: its list of models can't be had: upstream authentication failed"
    assert (said.levelname, said.exc_info) == ("INFO", None)


async def test_with_the_client_s_own_credential_nothing_is_asked(upstream: StandIn, engine: Engine) -> None:
    passing = Anthropic(auth="client", base_url=upstream.base_url)
    assert (await timed(Listings([passing], engine)))[0] == {}
    assert upstream.connections_made == 0


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/claude-opus-5", "/v1/models/x"])
async def test_a_head_has_no_body_whatever_the_server_does_with_one(path: str) -> None:
    app = MessagesApp(providers=[Anthropic(auth="client")], auth=Anonymous())
    scope = http_scope(method="HEAD", path=path, raw_path=path.encode())
    async with app.lifespan():
        sent = await call(app, scope)
    assert sent.body == b""
    assert int(sent.headers[b"content-length"]) > 2
    assert sent.status == (404 if path.endswith("x") else 200)
