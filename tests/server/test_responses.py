"""The responses of a connection: framing, order, and the faults of an app."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from server.connected import EMPTY, GET, HEAD, POST, answering, connected, sending

START: Any = {"type": "http.response.start", "status": 200}
BODY: Any = {"type": "http.response.body", "body": b"Hello"}
MORE: Any = {**BODY, "more_body": True}
LAST = GET.replace(b"host: x", b"host: x\r\nconnection: close")
OLD = GET.replace(b"1.1", b"1.0")


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server has logged, without its access log, which another test may have turned on."""
    return [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"]


async def answer(app: Any, request: bytes = LAST, **options: Any) -> bytes:
    async with connected(app, **options) as client:
        await client.send(request)
        return await client.read_all()


async def test_a_response_with_a_length_leaves_the_connection_open() -> None:
    async with connected(answering()) as client:
        for _ in range(3):
            await client.send(GET)
            assert await client.read(b"Hello") == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHello"
        assert client.state.total_requests == 3


async def test_a_response_without_a_length_is_chunked() -> None:
    async with connected(sending(START, MORE, {**MORE, "body": b""}, MORE, {**BODY, "body": b""})) as client:
        for _ in range(2):
            await client.send(GET)
            received = await client.read(b"0\r\n\r\n")
            assert received == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"Hello", b"Hello")


async def test_an_app_may_ask_for_chunks_itself() -> None:
    async with connected(answering(b"", (b"Transfer-Encoding", b"Chunked"))) as client:
        await client.send(GET)
        assert (await client.read(b"0\r\n\r\n")).lower().count(b"transfer-encoding") == 1


@pytest.mark.parametrize("headers", [EMPTY, [(b"transfer-encoding", b"chunked")], []])
async def test_the_response_to_head_has_no_body(headers: list[tuple[bytes, bytes]]) -> None:
    async with connected(sending({**START, "headers": headers}, MORE, BODY)) as client:
        for _ in range(2):
            await client.send(HEAD)
            received = await client.read(b"\r\n\r\n")
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        await client.send(LAST.replace(b"GET", b"HEAD"))
        assert (await client.read_all()).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(status: int) -> None:
    async with connected(answering(b"", (b"etag", b"x"), status=status)) as client:
        for _ in range(2):
            await client.send(GET)
            assert b"chunked" not in await client.read(b"\r\n\r\n")


async def test_a_304_may_have_the_length_of_what_it_stands_for() -> None:
    async with connected(answering(b"", (b"content-length", b"9"), status=304)) as client:
        await client.send(GET + GET)
        assert (await client.read(b"9\r\n\r\n")) + (await client.read(b"9\r\n\r\n"))


async def test_an_old_client_gets_no_chunks_and_the_end_of_the_connection() -> None:
    assert await answer(sending(START, MORE, BODY), OLD) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nHelloHello"


@pytest.mark.parametrize("value", [b"close", b"Close", b"x-y, close"])
async def test_an_app_can_close_the_connection(value: bytes) -> None:
    received = await answer(answering(b"", *EMPTY, (b"connection", value)), GET)
    assert received.count(b"connection") == 1


async def test_a_client_can_close_the_connection() -> None:
    received = await answer(answering(), LAST + GET)
    assert received == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nHello"


async def test_requests_that_arrive_together_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.03 if scope["path"] == "/1" else 0.0)
        await answering(scope["path"].encode())(scope, receive, send)

    async with connected(app) as client:
        await client.send(b"".join(GET.replace(b"/ ", b"/%d " % number) for number in (1, 2)) + POST + LAST)
        received = await client.read_all()
    assert [part[-2:] for part in received.split(b"HTTP/1.1")[1:]] == [b"/1", b"/2", b"\n/", b"\n/"]


async def test_the_head_and_the_first_part_of_the_body_are_one_packet() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await asyncio.sleep(0.02)
        await send(MORE)
        await receive()

    async with connected(app, tick=60.0) as client:
        await client.send(POST)
        assert (await client.read(b"Hello")).startswith(b"HTTP/1.1 200")


async def test_a_head_without_a_body_is_sent_at_the_next_tick() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while (await receive())["type"] != "http.disconnect":
            pass

    async with connected(app) as client:
        await client.send(GET)
        await client.read(b"chunked\r\n\r\n")


@pytest.mark.parametrize("value", [b"c", b"\t", b" ", "µ".encode(), b"\xff"])
async def test_a_header_value_may_contain(value: bytes) -> None:
    received = await answer(answering(b"", *EMPTY, (b"X-Key", b"<" + value + b">")))
    assert b"\r\nx-key: <" + value + b">\r\n" in received


@pytest.mark.parametrize(
    "line",
    [
        (b"key", b"value\r\ncookie: smuggled"),
        (b"key", b"\n"),
        (b"key", b"\x00"),
        (b"key", b"\x7f"),
        (b"key\r\ncookie", b"smuggled"),
        (b"key:", b"x"),
        (b"key ", b"x"),
        (b"", b"x"),
        (b"k\xc3\xa9y", b"x"),
        (b"content-length", b"many"),
    ],
)
async def test_an_invalid_header_is_never_sent(line: tuple[bytes, bytes]) -> None:
    received = await answer(answering(b"", *EMPTY[:0], line), GET)
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"smuggled" not in received
    assert received.endswith(b"\r\n\r\nInternal Server Error")


async def test_headers_may_be_an_iterator() -> None:
    assert b"\r\na: b\r\n" in await answer(sending({**START, "headers": iter([(b"a", b"b")])}, BODY))


ERROR = RuntimeError("a fault")
CUT = {
    "too few bytes": [{**START, "headers": [(b"content-length", b"10")]}, BODY],
    "too many bytes": [{**START, "headers": [(b"content-length", b"2")]}, BODY],
    "an exception": [START, MORE, ERROR],
    "an end without an end": [START, MORE],
    "a head alone": [START],
    "two heads": [START, START],
}


@pytest.mark.parametrize("messages", CUT.values(), ids=CUT.keys())
async def test_a_response_that_has_started_breaks_off(messages: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    received = await answer(sending(*messages), GET)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b" 500 " not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert errors_in(caplog)


@pytest.mark.parametrize("messages", [[], [ERROR], [BODY], [{"type": "http.response.start", "status": 700}]])
async def test_a_response_that_has_not_started_is_a_500(messages: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    received = await answer(sending(*messages), GET)
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"\r\nconnection: close\r\n" in received
    assert errors_in(caplog)


async def test_a_fault_behind_a_complete_response_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults: list[Any] = [{**BODY, "body": b"twice"}, ERROR]
    for fault in faults:
        async with connected(sending({**START, "headers": EMPTY}, {**BODY, "body": b""}, fault)) as client:
            await client.send(GET)
            await client.read(b"\r\n\r\n")
            await client.send(GET)
            await client.read(b"\r\n\r\n")
    assert len([one for one in caplog.records if one.exc_info]) == 4


async def test_a_value_that_is_returned_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> int:
        await answering()(scope, receive, send)
        return 123

    assert (await answer(app)).endswith(b"Hello")
    assert "'123'" in caplog.text


async def test_send_waits_while_the_client_does_not_read() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(START)
        for _ in range(100):
            await send({**MORE, "body": b"x" * 100_000})
            sent += 1
        await send(BODY)

    async with connected(app) as client:
        await client.send(LAST)
        await asyncio.sleep(0.1)
        assert sent < 50
        assert len(await client.read_all()) > 10_000_000
        assert sent == 100


async def test_the_default_headers_of_the_server_come_first() -> None:
    async with connected(answering(), tick=0.01) as client:
        client.state.default_headers = [(b"date", b"today"), (b"server", b"x")]
        await asyncio.sleep(0.05)
        await client.send(LAST)
        assert (await client.read_all()).startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\nserver: x\r\ncontent-length")


@pytest.mark.parametrize("target", ["/", "/?foo", "/a%20b?foo=bar&baz=1"])
async def test_uvicorns_access_log_is_written(target: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "uvicorn.access"):
        await answer(answering(), LAST.replace(b"/ ", target.encode() + b" "))
    assert f'"GET {target} HTTP/1.1" 200' in caplog.messages[0]


async def test_nothing_of_a_request_is_kept_while_its_response_streams() -> None:
    class Headers(list[Any]):
        pass

    seen: list[weakref.ref[Any]] = []

    async def stream(receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send(MORE)
        await receive()

    def app(scope: Scope, receive: Receive, send: Send) -> Any:
        scope["state"]["mark"] = mark = Headers()
        seen.append(weakref.ref(mark))
        return stream(receive, send)

    async with connected(app, interface="asgi3") as client:
        await client.send(POST)
        await client.read(b"Hello")
        gc.collect()
        assert seen[0]() is None


@pytest.mark.parametrize("size", [5, 1 << 20])
async def test_a_response_is_whole_if_the_server_stops_in_the_same_step(size: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(b"a" * size)(scope, receive, send)
        client.connection.shutdown()

    async with connected(app) as client:
        await client.send(GET)
        assert (await client.read_all()).endswith(b"\r\n\r\n" + b"a" * size)


async def test_pipelined_responses_keep_their_order_whether_they_are_small_or_streams() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = scope["path"].encode()
        await send({**START, "headers": [(b"content-length", b"%d" % len(number))]})
        if len(number) % 2:
            await send({"type": "http.response.body", "body": number[:1], "more_body": True})
            number = number[1:]
        await send({"type": "http.response.body", "body": number})

    async with connected(app) as client:
        paths = [b"/" + b"a" * length for length in range(5)]
        await client.send(b"".join(GET.replace(b"/ ", path + b" ") for path in paths))
        for path in paths:
            assert (await client.read(b"\r\n\r\n" + path)).startswith(b"HTTP/1.1 200 OK")


async def test_a_client_that_is_gone_before_its_response_is_written_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        client.connection.abort()

    async with connected(app) as client:
        await client.send(GET)
        assert await client.read_all() == b""
        assert (client.state.total_requests, errors_in(caplog)) == (1, [])
