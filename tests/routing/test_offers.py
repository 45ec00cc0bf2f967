"""The route table beyond names: what it offers, and where it leads a request that names state of one account."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.asgi import BODY, VERSION, Behind, Receiving, call, chunks, http_scope

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware

ONE, TWO, THREE = Target("one"), Target("two", "other-model"), Target("one", "second")
TABLE = RouteTable([Route("*", to=["one"]), Route("b", to=["two"]), Route("a*", to=[ONE, TWO]), Route("a", to=[TWO])])
OFFERS = [Offer("b", (Target("two"),)), Offer("a", (TWO,)), Offer("*", (ONE,)), Offer("a*", (ONE, TWO))]


@pytest.mark.parametrize("principal", [None, Principal(id="p"), Principal(id="p", models=())])
def test_exact_names_are_offered_first_then_patterns_as_they_are_looked_up(principal: Principal | None) -> None:
    assert list(TABLE.offers(principal)) == OFFERS


def test_an_empty_table_offers_nothing() -> None:
    assert list(RouteTable([]).offers(None)) == []


@pytest.mark.parametrize("operation", ["models.list", "models.retrieve"])
async def test_for_the_models_api_the_offers_stand_in_the_record_and_no_body_is_read(operation: str) -> None:
    scope, receive, behind = http_scope(method="GET"), Receiving(), Behind()
    exchange = Exchange.of(scope)
    exchange.operation = operation  # pyright: ignore[reportAttributeAccessIssue] - one of the two
    assert (await call(RoutingMiddleware(behind, router=TABLE), scope, receive)).status == 200
    assert exchange.offers == OFFERS
    assert (receive.calls, exchange.route, len(behind.scopes)) == (0, None, 1)


async def test_for_a_message_there_are_no_offers_but_a_route() -> None:
    scope = http_scope([VERSION])
    await call(RoutingMiddleware(Behind(), router=TABLE), scope, Receiving(*chunks(BODY)))
    assert Exchange.of(scope).offers is None
    assert Exchange.of(scope).route is not None


async def chosen(to: Sequence[str | Target], more: bytes) -> list[Target]:
    """Where a request with these fields is led."""
    exchange = Exchange.of(http_scope([VERSION]))
    body = b'{"model":"m","max_tokens":1' + more + (b"" if b'"messages"' in more else b',"messages":[{}]') + b"}"
    await exchange.request(Receiving(*chunks(body)))
    return list(RouteTable([Route("m", to)]).resolve("m", None).choose(exchange))


HARD: dict[str, bytes] = {
    "a thread": b',"thread":{"type":"continue","previous_message_id":"msg_1"}',
    "a container": b',"container":"container_1"',
    "a skill": b',"container":{"skills":[{"type":"custom","skill_id":"skill_1"}]}',
    "a credit": b',"fallback_credit_token":"t"',
    "a file": b',"messages":[{"role":"user","content":[{"source":{"file_id":"file_1"}}]}]',
}
SOFT: dict[str, bytes] = {
    "nothing": b"",
    "thinking": b',"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"s"}]}]',
    "a compaction": b',"messages":[{"role":"user","content":[{"type":"compaction","content":"c"}]}]',
    "an encrypted result": b',"messages":[{"role":"user","content":[{"encrypted_content":"e"}]}]',
    "a new thread": b',"thread":{"type":"create"}',
}


@pytest.mark.parametrize("more", HARD.values(), ids=HARD.keys())
async def test_state_of_one_account_goes_only_to_its_first_provider(more: bytes) -> None:
    assert await chosen([ONE, TWO, THREE], more) == [ONE, THREE]
    assert await chosen([TWO, ONE, THREE], more) == [TWO]
    assert await chosen([ONE], more) == [ONE]
    assert await chosen([ONE, THREE], more) == [ONE, THREE]


@pytest.mark.parametrize("more", SOFT.values(), ids=SOFT.keys())
async def test_what_another_account_can_serve_too_is_led_to_all(more: bytes) -> None:
    assert await chosen([ONE, TWO, THREE], more) == [ONE, TWO, THREE]


async def test_a_request_that_has_not_been_read_is_routed_to_all() -> None:
    assert list(RouteTable([Route("m", [ONE, TWO])]).resolve("m", None).choose(Exchange.of(http_scope()))) == [ONE, TWO]
