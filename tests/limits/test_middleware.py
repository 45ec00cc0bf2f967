"""The limits middleware alone, in front of another app: its errors, and settling on every path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from support.asgi import BODY, VERSION, Behind, Receiving, Sent, call, chunks, http_scope
from support.counts import count

from bud_asgi.exchange import Exchange, Principal, Reservation
from bud_asgi.limits import Charge, Grant, Limit, LimitStore, MemoryStore, RateLimitMiddleware


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


FOREIGN = Starlette(routes=[Route("/v1/messages", echo, methods=["POST"])])


def scope_of(name: str | None) -> Scope:
    scope = http_scope([VERSION])
    Exchange.of(scope).principal = None if name is None else Principal(id=name)
    return scope


def still() -> float:
    return 1000.0


async def test_a_foreign_app_is_called_as_often_as_may_be_and_then_refused_in_our_envelope() -> None:
    store = MemoryStore(clock=still)
    app = RateLimitMiddleware(FOREIGN, limits=[Limit("requests", 2)], store=store)
    for _ in range(2):
        sent = await call(app, scope_of(None), Receiving(*chunks(BODY[:10], BODY[10:])))
        assert (sent.status, sent.body) == (200, BODY)
    receive, scope = Receiving(), scope_of(None)
    sent = await call(app, scope, receive)
    assert sent.status == 429
    assert sent.error == {
        "type": "rate_limit_error",
        "message": "This request would exceed your rate limit of 2 requests in 60 seconds.",
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
    app = RateLimitMiddleware(Behind(), limits=limits, store=MemoryStore(clock=still))
    for remaining in (b"2", b"1", b"0"):
        sent = await call(app, scope_of("a"))
        assert sent.headers[b"anthropic-ratelimit-requests-limit"] == b"3"
        assert sent.headers[b"anthropic-ratelimit-requests-remaining"] == remaining
        assert sent.headers[b"anthropic-ratelimit-requests-reset"].endswith(b"Z")
    assert (await call(app, scope_of("a"))).status == 429


async def test_principals_are_counted_apart() -> None:
    app = RateLimitMiddleware(Behind(), limits=[Limit("requests", 1)], store=MemoryStore(clock=still))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "b", "a", "b", None, None)]
    assert statuses == [200, 200, 429, 429, 200, 429]


async def test_all_are_counted_together() -> None:
    app = RateLimitMiddleware(Behind(), limits=[Limit("requests", 3, per="all")], store=MemoryStore(clock=still))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "b", None, "a", "c")]
    assert statuses == [200, 200, 200, 429, 429]


async def test_a_refused_request_takes_nothing_of_the_other_limits() -> None:
    limits = [Limit("requests", 2, per="all"), Limit("requests", 1)]
    app = RateLimitMiddleware(Behind(), limits=limits, store=MemoryStore(clock=still))
    statuses = [(await call(app, scope_of(name))).status for name in ("a", "a", "a", "b", "c")]
    assert statuses == [200, 429, 429, 200, 429]


async def test_the_record_holds_the_reservation_until_the_request_has_ended() -> None:
    store = MemoryStore()
    held: list[tuple[Reservation | None, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        held.append((Exchange.of(scope).reservation, store.open))

    await call(RateLimitMiddleware(app, limits=[Limit("requests", 1)], store=store), scope_of("a"))
    assert held == [(Reservation("1"), 1)]
    assert store.open == 0


async def test_an_app_that_fails_is_settled_and_its_error_travels_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    store = MemoryStore()
    with pytest.raises(ZeroDivisionError):
        await call(RateLimitMiddleware(app, limits=[Limit("requests", 9)], store=store), scope_of("a"))
    assert store.open == 0


@pytest.mark.parametrize("times", [1, 3])
async def test_an_app_that_is_cancelled_is_settled(times: int) -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await receive()

    store, scope = MemoryStore(), scope_of("a")
    guarded = RateLimitMiddleware(app, limits=[Limit("requests", 9)], store=store)
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
        super().settle(reservation, amounts)


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


async def test_five_thousand_racing_requests_are_admitted_exactly_as_many_as_may() -> None:
    store = MemoryStore(clock=still)

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
