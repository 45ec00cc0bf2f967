"""The record of a request: what it is made of, how the body is read, how a refusal is written."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message
from support.asgi import BODY, DISCONNECT, VERSION, Receiving, chunks, http_scope
from support.counts import examples

from bud_asgi.budget import BodiesFull, BodyBudget, Upload
from bud_asgi.exchange import SCOPE_KEY, Exchange, Principal
from bud_asgi.protocol.errors import ClientGone, GatewayError, InvalidRequest, RequestTooLarge
from bud_asgi.protocol.request import LARGE_BODY
from bud_asgi.reading import MAX_BUFFERED

TOO_LARGE = "Request exceeds the maximum size of 33554432 bytes"


def exchange_of(*headers: tuple[bytes, bytes], method: str = "POST") -> Exchange:
    return Exchange.of(http_scope([VERSION, *headers], method=method))


def test_the_record_is_made_on_first_use_and_travels_in_the_scope() -> None:
    scope = http_scope([(b"A", b"1"), (b"a", b"2")])
    exchange = Exchange.of(scope)
    assert Exchange.of(scope) is exchange
    assert scope[SCOPE_KEY] is exchange
    assert SCOPE_KEY.startswith("bud_asgi")
    assert (exchange.method, exchange.headers) == ("POST", {b"a": b"1, 2"})
    assert exchange.principal is exchange.route is exchange.reservation is exchange.usage is exchange.outcome is None


def test_a_request_id_looks_like_one_of_the_service_and_is_another_each_time() -> None:
    ids = {exchange_of().request_id for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", request_id) for request_id in ids)


def test_a_principal_is_a_user_of_starlette_s() -> None:
    assert (Principal(id="p").display_name, Principal(id="p", name="n").display_name) == ("p", "n")
    assert (Principal(id="p").identity, Principal(id="p").is_authenticated) == ("p", True)
    assert Principal(id="p").models == ("*",)


@pytest.mark.parametrize("parts", [(BODY,), (BODY[:9], BODY[9:]), (b"", BODY, b""), tuple(bytes([b]) for b in BODY)])
async def test_the_body_is_read_once_however_it_comes(parts: tuple[bytes, ...]) -> None:
    exchange, receive = exchange_of((b"content-length", b"%d" % len(BODY))), Receiving(*chunks(*parts))
    request = await exchange.request(receive)
    assert request.body == BODY
    assert receive.calls == len(parts)
    assert await exchange.request(receive) is request
    assert receive.calls == len(parts)


@pytest.mark.parametrize(
    "message", [{"type": "http.request", "body": BODY}, {"type": "http.request", "body": BODY, "more_body": False}]
)
async def test_a_message_may_leave_out_what_asgi_lets_it(message: Message) -> None:
    assert (await exchange_of().request(Receiving(message))).body == BODY
    first: Message = {"type": "http.request", "more_body": True}
    assert (await exchange_of().request(Receiving(first, message))).body == BODY


async def test_an_empty_body_is_not_a_request() -> None:
    with pytest.raises(InvalidRequest, match=r"^The request body is not valid JSON: Input data was truncated$"):
        await exchange_of().request(Receiving({"type": "http.request"}))


ORDER: dict[str, tuple[list[tuple[bytes, bytes]], bytes, int, str]] = {
    "the version, then the length": (
        [(b"content-length", b"99999999")],
        b"{",
        0,
        "anthropic-version: header is required",
    ),
    "the version, then the body": ([], b"{", 0, "anthropic-version: header is required"),
    "the encoding, then the length": (
        [VERSION, (b"content-encoding", b"gzip"), (b"content-length", b"99999999")],
        b"{",
        0,
        "content-encoding: compressed request bodies are not supported",
    ),
    "the length, then the body": ([VERSION, (b"content-length", b"33554433")], b"{", 0, TOO_LARGE),
    "a length that is none, then the body": (
        [VERSION, (b"content-length", b"x")],
        b"{",
        0,
        "content-length: Input should be a valid integer",
    ),
    "the body": (
        [VERSION, (b"content-length", b"1")],
        b"{",
        1,
        "The request body is not valid JSON: Input data was truncated",
    ),
}


@pytest.mark.parametrize(("headers", "body", "calls", "words"), ORDER.values(), ids=ORDER.keys())
async def test_refusals_come_in_order_and_before_the_body_is_read(
    headers: list[tuple[bytes, bytes]], body: bytes, calls: int, words: str
) -> None:
    receive = Receiving(*chunks(body))
    with pytest.raises((InvalidRequest, RequestTooLarge)) as refused:
        await Exchange.of(http_scope(headers)).request(receive)
    assert (str(refused.value), receive.calls) == (words, calls)


async def test_a_body_that_grows_over_the_limit_is_refused_at_once() -> None:
    exchange, receive = exchange_of((b"content-length", b"10")), Receiving(*chunks(b"x" * 60, b"x" * 60, b"x" * 60))
    exchange.max_body = 100
    with pytest.raises(RequestTooLarge, match=r"^Request exceeds the maximum size of 100 bytes$"):
        await exchange.request(receive)
    assert receive.calls == 2


@pytest.mark.parametrize(("size", "calls"), [(MAX_BUFFERED, 1), (MAX_BUFFERED + 1, 0)])
async def test_a_body_that_a_server_may_have_buffered_is_read_before_it_waits_for_room(size: int, calls: int) -> None:
    bodies = BodyBudget(1 << 20, 1 << 20, 1 << 20, patience=0.0)
    other, exchange = Upload(), exchange_of((b"content-length", b"%d" % size))
    other.budget = exchange.upload.budget = bodies
    assert other.take(1 << 20)
    receive = Receiving(*chunks(BODY))
    with pytest.raises(BodiesFull):
        await exchange.request(receive)
    assert (receive.calls, exchange.upload.size, bodies.held) == (calls, 0, 1 << 20)


async def test_the_budget_has_the_bytes_of_a_request_until_its_body_is_released() -> None:
    bodies, exchange = BodyBudget(100, 1000, 1000), exchange_of()
    exchange.max_body, exchange.upload.budget, exchange.principal = 1000, bodies, Principal(id="ann")
    await exchange.request(Receiving(*chunks(BODY)))
    assert bodies.by_principal == {"ann": len(BODY)}
    exchange.release_body()
    exchange.release_body()
    assert (bodies.held, bodies.by_principal) == (0, {})


async def test_an_empty_body_leaves_nothing_in_the_budget() -> None:
    bodies, exchange = BodyBudget(100, 1000, 1000), exchange_of()
    exchange.upload.budget = bodies
    with pytest.raises(InvalidRequest):
        await exchange.request(Receiving({"type": "http.request"}))
    assert bodies.by_principal == {}


async def test_one_chunk_over_the_limit_is_refused_too() -> None:
    exchange = exchange_of()
    exchange.max_body = 3 * LARGE_BODY
    with pytest.raises(RequestTooLarge):
        await exchange.request(Receiving(*chunks(b" " * (3 * LARGE_BODY + 1))))


@pytest.mark.parametrize("before", [[], [b""], [BODY], [BODY[:5], BODY[5:]]])
async def test_a_client_that_leaves_before_its_body_is_whole_is_gone(before: list[bytes]) -> None:
    parts: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in before]
    with pytest.raises(ClientGone, match=r"^the client disconnected before its request was complete$"):
        await exchange_of().request(Receiving(*parts, DISCONNECT))


@pytest.mark.parametrize("size", [LARGE_BODY + 5, 2 * LARGE_BODY, 3 * LARGE_BODY + 1])
async def test_a_large_body_in_one_chunk_is_read_whole(size: int) -> None:
    words = "é€😀".encode()
    sent = (
        b'{"model":"m","max_tokens":1,"messages":[{"content":"'
        + b"x" * (size % 4)
        + words * (size // len(words))
        + b'"}]}'
    )
    request = await exchange_of().request(Receiving(*chunks(sent)))
    assert request.body == sent
    request = await exchange_of().request(Receiving(*chunks(sent[:1000], sent[1000:], b"")))
    assert request.body == sent


async def test_a_large_body_is_weighed_before_it_is_decoded() -> None:
    sent = BODY[:-1] + b',"k":1' * 400_000 + b"}"
    with pytest.raises(
        InvalidRequest, match=r"more than 1048576 bytes lie outside the known fields or in duplicate keys$"
    ):
        await exchange_of().request(Receiving(*chunks(sent)))


async def test_before_the_body_is_read_the_app_behind_has_the_servers_receive() -> None:
    receive = Receiving()
    assert exchange_of().replay_body(receive) is receive


async def test_once_the_body_is_read_the_next_app_gets_it_again_and_then_the_servers_messages() -> None:
    exchange, receive = exchange_of(), Receiving(*chunks(BODY[:5], BODY[5:]), DISCONNECT)
    await exchange.request(receive)
    replay = exchange.replay_body(receive)
    assert await replay() == {"type": "http.request", "body": BODY, "more_body": False}
    assert await replay() == DISCONNECT
    again = exchange.replay_body(receive)
    assert await again() == {"type": "http.request", "body": BODY, "more_body": False}


@pytest.mark.torture
@examples()
@given(body=st.binary(max_size=80), cuts=st.lists(st.integers(0, 80), max_size=4), more=st.booleans())
async def test_whatever_a_client_sends_is_a_request_or_refused(body: bytes, cuts: list[int], more: bool) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[a:b] for a, b in pairwise(edges)]
    messages = chunks(*parts)
    if more:
        messages[-1]["more_body"] = True
        messages.append(DISCONNECT)
    with pytest.raises(GatewayError) as refused:
        await exchange_of().request(Receiving(*messages))
    assert refused.value.status in ({400, 499} if more else {400})
