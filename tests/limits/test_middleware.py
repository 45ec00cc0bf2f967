"""The limits middleware alone, in front of another app: its errors, and settling on every path."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from support.asgi import BODY, VERSION, Behind, Receiving, Sent, call, chunks, http_scope
from support.counts import count
from support.limited import stopped

from bud_asgi.exchange import Exchange, Principal, Reservation
from bud_asgi.limits import Charge, Grant, Limit, LimitStore, MemoryStore, RateLimitMiddleware
from bud_asgi.limits.amounts import Amounts
from bud_asgi.options import OptionError
from bud_asgi.protocol.usage import Usage


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def found(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("found")


FOUND = Starlette(routes=[Route("/search", found, methods=["POST"]), Route("/v1/messages", found, methods=["POST"])])
FOREIGN = Starlette(routes=[Route("/v1/messages", echo, methods=["POST"])])


def scope_of(name: str | None) -> Scope:
    scope = http_scope([VERSION])
    Exchange.of(scope).principal = None if name is None else Principal(id=name)
    return scope


async def test_a_foreign_app_is_called_as_often_as_may_be_and_then_refused_in_our_envelope() -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOREIGN, limits=[Limit("requests", 2)], store=store)
    for _ in range(2):
        sent = await call(app, scope_of(None), Receiving(*chunks(BODY[:10], BODY[10:])))
        assert (sent.status, sent.body) == (200, BODY)
    receive, scope = Receiving(), scope_of(None)
    sent = await call(app, scope, receive)
    assert sent.status == 429
    assert sent.error == {
        "type": "rate_limit_error",
        "message": "This request would exceed your rate limit of 2 requests per minute. Try again in 30 seconds.",
    }
    assert sent.headers[b"retry-after"] == b"30"
    assert sent.headers[b"anthropic-ratelimit-requests-limit"] == b"2"
    assert sent.headers[b"anthropic-ratelimit-requests-remaining"] == b"0"
    assert b"x-should-retry" not in sent.headers
    assert (receive.calls, Exchange.of(scope).outcome, store.open) == (0, "refused", 0)


async def test_a_foreign_app_gets_the_body_that_somebody_before_has_read() -> None:
    scope, receive = scope_of("a"), Receiving(*chunks(BODY[:10], b"", BODY[10:]))
    exchange = Exchange.of(scope)
    await exchange.request(receive)
    app = RateLimitMiddleware(FOREIGN, limits=[Limit("requests", 2)])
    sent = await call(app, scope, exchange.replay_body(receive))
    assert (sent.status, sent.body) == (200, BODY)


async def test_the_response_has_the_headers_of_the_tightest_limit() -> None:
    limits = [Limit("requests", 10), Limit("requests", 3, 30.0), Limit("requests", 1000, per="all")]
    app = RateLimitMiddleware(Behind(), limits=limits, store=MemoryStore(clock=stopped))
    for remaining in (b"2", b"1", b"0"):
        sent = await call(app, scope_of("a"))
        assert sent.headers[b"anthropic-ratelimit-requests-limit"] == b"3"
        assert sent.headers[b"anthropic-ratelimit-requests-remaining"] == remaining
        assert sent.headers[b"anthropic-ratelimit-requests-reset"].endswith(b"Z")
    assert (await call(app, scope_of("a"))).status == 429


async def test_principals_are_counted_apart() -> None:
    app = RateLimitMiddleware(Behind(), limits=[Limit("requests", 1)], store=MemoryStore(clock=stopped))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "b", "a", "b", None, None)]
    assert statuses == [200, 200, 429, 429, 200, 429]


async def test_all_are_counted_together() -> None:
    app = RateLimitMiddleware(Behind(), limits=[Limit("requests", 3, per="all")], store=MemoryStore(clock=stopped))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "b", None, "a", "c")]
    assert statuses == [200, 200, 200, 429, 429]


async def test_a_refused_request_takes_nothing_of_the_other_limits() -> None:
    limits = [Limit("requests", 2, per="all"), Limit("requests", 1)]
    app = RateLimitMiddleware(Behind(), limits=limits, store=MemoryStore(clock=stopped))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "a", "a", "b", "c")]
    assert statuses == [200, 429, 429, 200, 429]


async def test_the_record_holds_the_reservation_until_the_request_has_ended() -> None:
    store = MemoryStore()
    held: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert Exchange.of(scope).reservation is not None
        held.append(store.open)

    await call(RateLimitMiddleware(app, limits=[Limit("concurrent", 1)], store=store), scope_of("a"))
    assert held == [1]
    assert store.open == 0


async def test_an_app_that_fails_is_settled_and_its_error_travels_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    store = MemoryStore()
    with pytest.raises(ZeroDivisionError):
        await call(RateLimitMiddleware(app, limits=[Limit("concurrent", 9)], store=store), scope_of("a"))
    assert store.open == 0


@pytest.mark.parametrize("times", [1, 3])
async def test_an_app_that_is_cancelled_is_settled(times: int) -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await receive()

    store, scope = MemoryStore(), scope_of("a")
    guarded = RateLimitMiddleware(app, limits=[Limit("concurrent", 9)], store=store)
    task = asyncio.create_task(guarded(scope, Receiving(), Sent()))
    await begun.wait()
    assert store.open == 1
    for _ in range(times):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(scope)
    assert store.open == 0


async def settled(scope: Scope) -> None:
    """Wait for what outlives a request."""
    tasks = Exchange.of(scope).tasks
    assert tasks is not None
    await tasks.drain(5)


class SlowStore(MemoryStore):
    """A store that takes its time to settle."""

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        await asyncio.sleep(0.01)
        await super().settle(reservation, amounts)


async def test_a_slow_settlement_outlives_a_cancelled_request() -> None:
    store, scope = SlowStore(), scope_of("a")
    guarded = RateLimitMiddleware(_never, limits=[Limit("requests", 9)], store=store)
    task = asyncio.create_task(guarded(scope, Receiving(), Sent()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    task.cancel()
    assert (task.cancelled(), store.open) == (True, 1)
    await settled(scope)
    assert store.open == 0


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


class BrokenStore:
    """A store that grants and can't settle."""

    async def reserve(self, charges: Sequence[Charge]) -> Grant:
        return Grant(Reservation("x"), ())

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        raise OSError("no store")


async def test_a_settlement_that_fails_is_logged_and_no_matter_to_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store: LimitStore = BrokenStore()
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        sent = await call(RateLimitMiddleware(Behind(), limits=[Limit("requests", 1)], store=store), scope_of("a"))
    assert sent.status == 200
    assert [record.message for record in caplog.records] == ["background work failed"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_scopes_are_not_counted(kind: str) -> None:
    behind, scope = Behind(), {"type": kind}
    app = RateLimitMiddleware(behind, limits=[Limit("requests", 1)])
    for _ in range(3):
        await app(scope, Receiving(), Sent())
    assert behind.scopes == [scope] * 3


async def test_without_limits_everything_passes() -> None:
    app = RateLimitMiddleware(Behind(), limits=[])
    assert [(await call(app, scope_of("a"))).status for _ in range(100)] == [200] * 100


def amount_of(exchange: Exchange) -> Amounts:
    """What the client declares in a header."""
    return {"tokens": int(exchange.headers[b"x-tokens"])}


def status_cost(exchange: Exchange) -> Amounts:
    """Failures are free."""
    return {"requests": 1 if exchange.status == 200 else 0, "tokens": 7 if exchange.status == 200 else 0}


def declaring(tokens: int) -> Scope:
    scope = http_scope([(b"x-tokens", b"%d" % tokens)], path="/search")
    Exchange.of(scope).principal = Principal(id="a")
    return scope


async def used_of(store: MemoryStore, *limits: Limit) -> list[float]:
    return [one.used for one in await store.statuses([Charge(limit, "messages:a", 0) for limit in limits])]


TOKENS = Limit("tokens", 100)
REQUESTS = Limit("requests", 10)


async def test_a_cost_function_counts_before_the_app_is_called() -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS, REQUESTS], store=store, cost=amount_of)
    statuses = [(await call(app, declaring(tokens))).status for tokens in (60, 50, 40, 1, 0)]
    assert statuses == [200, 429, 200, 429, 200]
    assert await used_of(store, TOKENS, REQUESTS) == [100, 3]


async def test_a_request_that_costs_nothing_passes_a_limit_without_room() -> None:
    store = MemoryStore(clock=stopped)
    one = Limit("requests", 1)
    app = RateLimitMiddleware(
        FOUND, limits=[one], store=store, cost=lambda exchange: {"requests": len(exchange.method) - 3}
    )
    methods = ("HEAD", "HEAD", "GET", "GET")
    scopes = [scope_of("a") for _ in methods]
    for scope, method in zip(scopes, methods, strict=True):
        Exchange.of(scope).method = method
    assert [(await call(app, scope)).status for scope in scopes] == [200, 429, 200, 200]


async def test_a_used_function_counts_once_the_status_of_the_response_is_known() -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS, REQUESTS], store=store, used=status_cost)
    for path in ("/search", "/missing", "/search"):
        scope = http_scope([], path=path)
        Exchange.of(scope).principal = Principal(id="a")
        assert (await call(app, scope)).status == (404 if path == "/missing" else 200)
    assert await used_of(store, TOKENS, REQUESTS) == [14, 2]


async def test_what_used_does_not_mention_stays_as_it_was_reserved() -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(
        FOUND, limits=[TOKENS, REQUESTS], store=store, cost=amount_of, used=lambda _: {"tokens": 90}
    )
    assert (await call(app, declaring(20))).status == 200
    assert await used_of(store, TOKENS, REQUESTS) == [90, 1]
    assert (await call(app, declaring(20))).status == 429


async def test_the_usage_that_an_app_sets_is_booked() -> None:
    store = MemoryStore(clock=stopped)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        Exchange.of(scope).usage = Usage(input_tokens=30, output_tokens=7)
        await FOUND(scope, receive, send)

    assert (await call(RateLimitMiddleware(app, limits=[TOKENS], store=store), declaring(0))).status == 200
    assert await used_of(store, TOKENS) == [37]


FAULTS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "its result: missing; expected a mapping of kinds to whole numbers"),
    "a number": (5, "its result: expected a mapping of kinds to whole numbers, .*, got 5"),
    "a kind that does not exist": ({"token": 5}, 'its result: expected "requests", .*, got "token"'),
    "less than nothing": ({"tokens": -5}, "its result, tokens: expected a whole number, at least 0, got -5"),
    "half a token": ({"tokens": 0.5}, "its result, tokens: expected a whole number, at least 0, got 0.5"),
}


@pytest.mark.parametrize(("result", "fault"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_wrong_result_of_used_is_logged_and_what_was_reserved_stays_booked(
    result: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS, REQUESTS], store=store, cost=amount_of, used=lambda _: result)
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        assert (await call(app, declaring(20))).status == 200
    assert await used_of(store, TOKENS, REQUESTS) == [20, 1]
    assert store.open == 0
    (record,) = caplog.records
    assert record.getMessage().endswith(": `used` of the rate limits failed; what was reserved stays booked")
    assert record.exc_info is not None
    assert re.match(fault, str(record.exc_info[1]))


async def test_a_used_function_that_fails_is_logged_and_what_was_reserved_stays_booked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def used(_exchange: Exchange) -> Amounts:
        raise ZeroDivisionError

    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS, REQUESTS], store=store, cost=amount_of, used=used)
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        assert (await call(app, declaring(20))).status == 200
    assert (await used_of(store, TOKENS, REQUESTS), store.open) == ([20, 1], 0)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(("result", "fault"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_wrong_result_of_cost_is_a_500_and_takes_nothing(
    result: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS], store=store, cost=lambda _: result)
    with caplog.at_level(logging.ERROR, "bud_asgi"):
        sent = await call(app, declaring(20))
    assert sent.status == 500
    assert sent.error == {"type": "api_error", "message": "The rate limits of this gateway are misconfigured."}
    assert (await used_of(store, TOKENS), store.open) == ([0], 0)
    assert re.search(f"the function `cost` of the rate limits returned a wrong result: {fault}", caplog.text)


async def test_the_reply_of_another_app_has_its_own_headers_and_those_of_the_limits() -> None:
    store = MemoryStore(clock=stopped)
    app = RateLimitMiddleware(FOUND, limits=[TOKENS, REQUESTS], store=store, cost=amount_of)
    sent = await call(app, declaring(60))
    assert sent.headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert sent.headers[b"anthropic-ratelimit-tokens-remaining"] == b"40"
    assert sent.headers[b"anthropic-ratelimit-requests-remaining"] == b"9"


async def test_an_observed_limit_is_noted_and_not_reported() -> None:
    observed = Limit("requests", 1, mode="observe")
    app = RateLimitMiddleware(FOUND, limits=[observed, TOKENS], store=MemoryStore(clock=stopped), cost=amount_of)
    over: list[tuple[Limit, ...]] = []
    for _ in range(2):
        scope = declaring(1)
        sent = await call(app, scope)
        over.append(Exchange.of(scope).over_limits)
        assert (sent.status, b"anthropic-ratelimit-requests-limit" in sent.headers) == (200, False)
    assert over == [(), (observed,)]


def nothing_given() -> Amounts:
    return {}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"limits": [Limit("requests", 1), Limit("requests", 2)]}, r"limits\[1\]: counts the same as limits\[0\]"),
    ({"cost": 5}, "cost: expected a function of the Exchange that returns amounts by kind, got 5"),
    ({"cost": nothing_given}, "cost: expected a function of the Exchange that returns amounts by kind"),
    ({"used": 5}, "used: expected a function of the Exchange that returns amounts by kind, got 5"),
    ({"store": object()}, "store: expected an object with the methods of a LimitStore"),
    ({"store": MemoryStore}, "store: expected an object with the methods of a LimitStore, got the class MemoryStore"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message[:20] for _, message in WRONG])
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"limits": [REQUESTS], **options}
    with pytest.raises(OptionError, match=f"^{message}"):
        RateLimitMiddleware(FOUND, **given)


async def test_five_thousand_racing_requests_are_admitted_exactly_as_many_as_may() -> None:
    store = MemoryStore(clock=stopped)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await Behind()(scope, receive, send)

    guarded = RateLimitMiddleware(app, limits=[Limit("requests", 123), Limit("requests", 4000, per="all")], store=store)
    total = count(5_000, 50_000)
    sent = [Sent() for _ in range(total)]
    scopes = [scope_of(f"{index % 10}") for index in range(total)]
    await asyncio.gather(*(guarded(*three) for three in zip(scopes, [Receiving()] * total, sent, strict=True)))
    await settled(scopes[0])
    assert sum(answer.status == 200 for answer in sent) == 1230
    assert sum(answer.status == 429 for answer in sent) == total - 1230
    assert store.open == 0
