"""A head that is sent again is recognised by its bytes: the app sees what it would see if it were parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from support.counts import examples

from bud_asgi.http.fields import Header
from bud_asgi.server.repeated import RepeatedHead, repeated_head
from server.connected import EMPTY, GET, Client, answering, connected, sending

REQUEST_LINES = (b"POST / HTTP/1.1", b"POST /a%20b?c=%64 HTTP/1.1", b"PUT http://h/x HTTP/1.1")
LENGTHS = (b"Content-Length: %d", b"content-length:%d", b"content-LENGTH: \t%d ", b"Content-Length: 00%d")
USUAL = (b"Host: x", b"X-A: 1", b"x-a:  2 ", b"X-B: content-length: 7", b"X-C: \xff", b"Connection: keep-alive")
ODD = (
    b"Content-Length: 3",
    b"Content-Length-: 3",
    b" content-length: 3",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Connection: upgrade\r\nUpgrade: h2c",
)


class Request:
    """The head of a request, whose body may have any length."""

    def __init__(self, line: bytes, length: bytes, others: Sequence[bytes], at: int) -> None:
        self._lines = [line, *others[:at], length, *others[at:]]

    def of(self, size: int) -> bytes:
        """The request with a body of this size."""
        lines = [line % size if b"%d" in line else line for line in self._lines]
        return b"\r\n".join(lines) + b"\r\n\r\n" + b"x" * size

    def __repr__(self) -> str:
        return f"Request({self._lines!r})"


requests = st.builds(
    Request,
    st.sampled_from(REQUEST_LINES),
    st.sampled_from(LENGTHS),
    st.lists(st.sampled_from(USUAL), max_size=4),
    st.integers(0, 4),
)
sizes = st.sampled_from(((3, 7), (0, 9), (5, 5), (9, 10), (10, 99), (990, 5000), (25_000, 31_000), (31_000, 33_000)))


async def seen(*sent: Sequence[bytes]) -> list[Any]:
    """What the app sees of the requests, each in pieces, how the last one is answered, whether another may follow."""
    scopes: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more, kind = b"", True, ""
        while more:
            message = await receive()
            kind = message["type"]
            body, more = body + message.get("body", b""), message.get("more_body", False)
        scopes.append((repr(sorted((name, scope[name]) for name in scope if name != "extensions")), body, kind))
        scope["headers"].clear()  # it is the app's own
        scope["asgi"].clear()
        await send({"type": "http.response.start", "status": 200, "headers": EMPTY})
        await send({"type": "http.response.body"})

    async with connected(app, state={"of": "the app"}) as client:
        answers = [await _answer(client, pieces) for pieces in sent]
        return [*scopes, (answers[-1], bool(client.state.connections))]


async def _answer(client: Client, pieces: Sequence[bytes]) -> list[bytes]:
    """The status lines of the answers, up to when nothing is going on."""
    try:
        for piece in pieces:
            await client.send(piece)
            for _ in range(8):
                await asyncio.sleep(0)
        received = client.sock.recv(1 << 20)
    except (BlockingIOError, ConnectionError):
        return []
    return [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1")]


async def _same(first: bytes, second: Sequence[bytes]) -> None:
    before = await seen([first])
    if before[-1] == ([b"HTTP/1.1 200 OK"], True):
        assert await seen(*[[first]] * 3, second) == [*[before[0]] * 3, *await seen(second)]


@given(requests, sizes)
@examples(40)
def test_the_same_head_with_another_body(request: Request, sizes: tuple[int, int]) -> None:
    one, other = map(request.of, sizes)
    asyncio.run(_same(one, [other]))


@given(requests, sizes, st.integers(0, 400), st.sampled_from((b"", b"\r\n", b"0", b"9", b"-", b" ", b"\xff", b"X")))
@examples(40)
def test_the_same_head_with_another_byte(request: Request, sizes: tuple[int, int], at: int, byte: bytes) -> None:
    one, other = map(request.of, sizes)
    asyncio.run(_same(one, [other[:at] + byte + other[at + 1 :]]))


@given(requests, sizes, st.integers(0, 400))
@examples(30)
def test_the_same_head_in_pieces(request: Request, sizes: tuple[int, int], at: int) -> None:
    one, other = map(request.of, sizes)
    asyncio.run(_same(one, [other[:at], other[at:]]))


@given(requests, sizes)
@examples(20)
def test_the_same_head_before_another_request(request: Request, sizes: tuple[int, int]) -> None:
    one, other = map(request.of, sizes)
    asyncio.run(_same(one, [other + one]))


TWO = b"POST /1 HTTP/1.1\r\nContent-Length: 90\r\n\r\n%bPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nend"
FILLED = b"x" * 46 + b"\r\n" + b"x" * 42
LIKE_A_HEAD = b"x" * 50 + b"\r\n\r\n" + b"x" * 36
REPEATED = b"POST /1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b"


@pytest.mark.parametrize(
    ("twice", "last"),
    [
        (TWO % FILLED, REPEATED % (42, FILLED)),
        (TWO.replace(b"Host: x", b"Host: x\r\nA: 1") % LIKE_A_HEAD, REPEATED % (36, LIKE_A_HEAD)),
        (REPEATED % (5, b"hello\n"), REPEATED % (5, b"hello\n")),
        (REPEATED % (5, b"hello\r"), REPEATED % (7, b"hello, x")),
    ],
    ids=["two requests", "a blank line in the first body", "a line end behind the body", "a return behind the body"],
)
def test_what_follows_a_head_in_one_read_is_not_taken_for_a_part_of_it(twice: bytes, last: bytes) -> None:
    """A proxy may send the requests of several clients through one connection: it depends on where each one ends."""
    first = REPEATED % (5, b"hello")

    async def after(before: Sequence[bytes]) -> list[Any]:
        return (await seen(*[[one] for one in before], [last]))[-2:]

    assert asyncio.run(after([first, twice])) == asyncio.run(after([]))


@pytest.mark.parametrize("odd", ODD)
def test_a_head_that_the_parser_treats_differently(odd: bytes) -> None:
    request = Request(REQUEST_LINES[0], LENGTHS[0], (b"Host: x", odd), 1)
    for one, other in ((0, 1), (3, 7)):
        asyncio.run(_same(request.of(one), [request.of(other)]))


STREAM = (
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"event", "more_body": True},
    {"type": "http.response.body"},
)
FIRST = Request(REQUEST_LINES[0], LENGTHS[0], (b"Host: x", b"X-Api-Key: secret"), 1)


class NoParser:
    """A parser that must not be called."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(data)


async def test_a_head_that_is_sent_again_is_not_parsed_again() -> None:
    async with connected(answering()) as client:
        connection: Any = client.connection
        parser = connection._parser
        for size, parsed in ((7, True), (7, True), (9, False), (3, False), (12, True), (34, False)):
            connection._parser = parser if parsed else NoParser()
            await client.send(FIRST.of(size))
            assert (await client.read(b"Hello")).startswith(b"HTTP/1.1 200")


async def test_during_a_stream_no_head_is_kept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        streams = (b"content-length", b"9") in scope["headers"]
        await (sending(*STREAM) if streams else answering())(scope, receive, send)

    async with connected(app) as client:
        connection: Any = client.connection
        for size, kept_after in ((5, False), (5, True), (9, False), (5, False), (5, True)):
            await client.send(FIRST.of(size))
            await client.read(b"0\r\n\r\n" if size == 9 else b"Hello")
            assert bool(connection._repeated) is kept_after


def kept(read: bytes, body_size: int) -> RepeatedHead | None:
    """What is kept of a read in which the parser has found this much of bodies."""
    head = read[: len(read) - body_size]
    fields = [line.split(b": ") for line in head.strip().split(b"\r\n\r\n")[-1].split(b"\r\n")[1:]]
    headers: list[Header] = [(name.lower(), value) for name, value in fields]
    return repeated_head({"headers": headers}, head)


WHOLE = FIRST.of(10)
BEGIN = len(WHOLE) - 10


@pytest.mark.parametrize(
    ("received", "size", "body"),
    [
        (WHOLE, len(WHOLE), b"x" * 10),
        (FIRST.of(99), BEGIN + 99, b"x" * 99),
        (FIRST.of(99), BEGIN + 98, None),
        (FIRST.of(100), BEGIN + 100, None),  # a digit more, and a byte less
        (FIRST.of(9), BEGIN + 8, None),
        (WHOLE + WHOLE, 2 * len(WHOLE), None),
        (WHOLE, BEGIN, None),  # what follows is of an earlier read
        (WHOLE, BEGIN - 1, None),
        (WHOLE.replace(b": 10", b": -1"), BEGIN - 1, None),
        (WHOLE.replace(b": 10", b": +9"), BEGIN + 9, None),
        (WHOLE.replace(b"secret", b"Secret"), len(WHOLE), None),
    ],
)
def test_a_read_is_the_same_head_only_with_the_whole_body_and_nothing_else(
    received: bytes, size: int, body: bytes | None
) -> None:
    head = kept(WHOLE, 10)
    assert head is not None
    found = head.match(bytearray(received + b"x" * 200), size)
    assert found == (
        body and ([(b"host", b"x"), (b"content-length", b"%d" % len(body)), (b"x-api-key", b"secret")], body)
    )


@pytest.mark.parametrize(
    ("read", "body_size"),
    [
        (GET + WHOLE, 10),
        (b"\r\n" + WHOLE, 10),
        (GET, 0),
        (WHOLE.replace(b"secret", b"s" * 5000), 10),
    ],
    ids=["two requests", "a line end before it", "without a length", "long"],
)
def test_a_head_that_is_not_kept(read: bytes, body_size: int) -> None:
    assert kept(read, body_size) is None


def test_a_head_that_is_kept_shows_no_credential() -> None:
    assert "secret" not in repr(kept(WHOLE, 10))
