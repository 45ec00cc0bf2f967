"""What is the httpx engine's own: what it takes, sends and closes. The seam's promises are proved beside."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from typing import Any

import httpx
import httpx2
import pytest
from peer import CHUNKED, OK, Line, Peer, ask, read, says

from bud_asgi.clock import TICK
from bud_asgi.http import HttpError, HttpRequest, Origin, Timeouts
from bud_asgi.http.httpx import HttpxEngine

ORIGIN = Origin("api.example", 80)


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


def get(target: bytes = b"/", **more: Any) -> HttpRequest:
    return HttpRequest(ORIGIN, b"GET", target, [], **more)


def test_neither_the_package_nor_the_engine_loads_httpx() -> None:
    look = "import sys; import bud_asgi, bud_asgi.http.httpx.engine; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=30)


TARGETS = [
    b"/v1/messages?a=%2F&b=%7e",
    b'/a"b<c>{d}|e`f',
    b"//double//slash",
    b"/a/../b/./c",
    b"/?q=[x]&'y'#z",
    b"/%zz",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_the_target_and_the_headers_are_the_request_s_own_and_no_others(library: Any, target: bytes) -> None:
    heads: list[bytes] = []

    async def script(line: Line) -> None:
        heads.append(await line.request())
        await line.say(OK)

    async with (
        Peer(script) as peer,
        library.AsyncClient(
            headers={"x-host": "1"}, cookies={"a": "b"}, auth=("user", "password"), trust_env=False
        ) as client,
    ):
        engine = HttpxEngine(client)
        reply = await engine.send(ask(peer, target=target, headers=((b"x-a", b"1"), (b"x-b", b"\xe9"), (b"x-a", b"2"))))
        assert await read(reply) == b"ok"
        await engine.aclose()
    assert heads == [
        b"POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-a: 1\r\nx-b: \xe9\r\nx-a: 2\r\ncontent-length: 2\r\n\r\n{}"
        % (target, peer.port)
    ]


async def test_a_body_in_buffers_arrives_whole_and_can_be_sent_again(library: Any) -> None:
    large = bytes(range(256)) * 4000
    body = [b"ab", b"", memoryview(large)]
    got: list[bytes] = []

    async def script(line: Line) -> None:
        while True:
            got.append((await line.request()).partition(b"\r\n\r\n")[2])
            await line.say(OK)

    engine = HttpxEngine(library.AsyncHTTPTransport)
    async with Peer(script) as peer:
        request = ask(peer, body=body)
        for _ in range(2):
            assert await read(await engine.send(request)) == b"ok"
    assert got == [b"ab" + large] * 2
    await engine.aclose()


async def test_redirects_are_not_followed_nothing_decompressed_and_no_cookie_kept(library: Any) -> None:
    packed = gzip.compress(b"hello")
    moved = (
        b"HTTP/1.1 302 x\r\nLocation: /else\r\nSet-Cookie: a=b\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
        % len(packed)
    )
    made: list[Any] = []

    def make() -> Any:
        made.append(library.AsyncClient(follow_redirects=True, trust_env=False))
        return made[-1]

    engine = HttpxEngine(make)
    async with Peer(says(moved + packed)) as peer:
        reply = await engine.send(ask(peer))
        assert reply.status == 302
        assert reply.headers == [
            (b"location", b"/else"),
            (b"set-cookie", b"a=b"),
            (b"content-encoding", b"gzip"),
            (b"content-length", b"%d" % len(packed)),
        ]
        assert await read(reply) == packed
        assert not made[0].cookies
    await engine.aclose()
    assert made[0].is_closed


async def test_what_is_handed_in_stays_open_and_what_a_function_makes_is_closed(library: Any) -> None:
    class Counting(library.AsyncHTTPTransport):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass] - either
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1
            await super().aclose()

    handed_in = Counting()
    made = Counting()
    for source in (handed_in, lambda: made):
        engine = HttpxEngine(source)
        async with Peer(says(OK)) as peer:
            assert await read(await engine.send(ask(peer))) == b"ok"
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await engine.send(get())
    assert (handed_in.closed, made.closed) == (0, 1)
    await handed_in.aclose()


async def test_a_client_serves_one_loop(library: Any) -> None:
    client = library.AsyncClient()
    engine = HttpxEngine(client)
    await HttpxEngine(client).aclose()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="pass a function"):
            HttpxEngine(client)
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await engine.send(get())
        await HttpxEngine(library.AsyncClient).aclose()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await engine.aclose()
    await client.aclose()


@pytest.mark.parametrize("wrong", [object, httpx.Client, httpx2.HTTPTransport])
async def test_what_is_no_client_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected an httpx\.AsyncClient"):
        HttpxEngine(wrong)


async def test_a_mock_transport_is_enough(library: Any) -> None:
    async def answer(request: Any) -> Any:
        assert (request.url.path, await request.aread()) == ("/v1/messages", b"{}")
        return library.Response(200, headers={"X-A": "1"}, content=b"hello")

    for source in (library.MockTransport(answer), library.AsyncClient(transport=library.MockTransport(answer))):
        engine = HttpxEngine(source)
        reply = await engine.send(HttpRequest(ORIGIN, b"POST", b"/v1/messages", [], b"{}"))
        assert (reply.status, reply.headers[0]) == (200, (b"x-a", b"1"))
        assert await read(reply) == b"hello"
        await engine.aclose()


async def test_a_body_that_a_hook_has_read_is_what_the_hook_has_read(library: Any) -> None:
    async def look(response: Any) -> None:
        await response.aread()

    packed = gzip.compress(b"hello")
    head = b"HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\nx-a: 1\r\n\r\n" % len(packed)
    engine = HttpxEngine(lambda: library.AsyncClient(event_hooks={"response": [look]}, trust_env=False))
    async with Peer(says(head + packed)) as peer:
        for _ in range(2):
            reply = await engine.send(ask(peer))
            assert await read(reply) == b"hello"
            assert reply.headers == [(b"x-a", b"1")]
    await engine.aclose()


KINDS = {
    "ConnectError": ("connect", False),
    "ConnectTimeout": ("connect", False),
    "PoolTimeout": ("connect", False),
    "ProxyError": ("connect", False),
    "ReadTimeout": ("timeout", True),
    "WriteTimeout": ("timeout", True),
    "ReadError": ("reset", True),
    "WriteError": ("reset", True),
    "CloseError": ("reset", True),
    "RemoteProtocolError": ("protocol", True),
}


@pytest.mark.parametrize(("name", "expected"), KINDS.items(), ids=KINDS.keys())
async def test_errors_of_a_transport_that_tells_nothing_are_told_on_the_safe_side(
    library: Any, name: str, expected: tuple[str, bool]
) -> None:
    def fail(request: Any) -> Any:
        raise getattr(library, name)("words", request=request)

    engine = HttpxEngine(library.MockTransport(fail))
    with pytest.raises(HttpError) as failed:
        await engine.send(get())
    error = failed.value
    assert ((error.kind, error.sent), error.reused) == (expected, False)
    assert type(error.__cause__).__name__ == name
    await engine.aclose()


async def test_an_error_that_is_not_about_the_exchange_stays_itself(library: Any) -> None:
    def fail(_: Any) -> Any:
        raise KeyError("a fault of the host")

    engine = HttpxEngine(library.MockTransport(fail))
    with pytest.raises(KeyError):
        await engine.send(get())
    await engine.aclose()


async def test_a_reused_connection_is_told(library: Any) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()

    engine = HttpxEngine(lambda: library.AsyncClient(trust_env=False))
    async with Peer(script) as peer:
        await read(await engine.send(ask(peer)))
        with pytest.raises(HttpError) as failed:
            await engine.send(ask(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.sent) == ("reset", True, True)
    await engine.aclose()


async def test_a_pool_that_is_full_is_waited_for_and_nothing_has_been_sent(library: Any) -> None:
    limits = library.Limits(max_connections=1)
    engine = HttpxEngine(lambda: library.AsyncClient(limits=limits, trust_env=False))
    async with Peer(says(CHUNKED)) as peer:
        reply = await engine.send(ask(peer))
        with pytest.raises(HttpError) as failed:
            await engine.send(ask(peer, timeouts=Timeouts(connect=0.1, first_byte=TICK, silence=5)))
        assert (failed.value.kind, failed.value.reused) == ("timeout", False)
        waiting = asyncio.ensure_future(engine.send(ask(peer)))
        await asyncio.sleep(0.02)
        reply.close()
        (await waiting).close()
    await engine.aclose()


def must_not_be_asked(_: Any) -> Any:
    pytest.fail("sent")


async def test_what_cannot_be_written_is_refused_before_a_connection_is_taken(library: Any) -> None:
    engine = HttpxEngine(library.MockTransport(must_not_be_asked))
    for request in (
        get(b"/a b"),
        get(b"*"),
        get(b"/" + b"a" * 70_000),
        HttpRequest(ORIGIN, b"GET", b"/", [(b"x", b"a\r\nb: c")]),
        HttpRequest(ORIGIN, b"GET", b"/", [(b"content-length", b"1")]),
    ):
        with pytest.raises(ValueError, match=r"."):
            await engine.send(request)
    await engine.aclose()


async def test_a_reader_that_does_not_read_stops_the_peer(library: Any) -> None:
    count = 0

    async def script(line: Line) -> None:
        nonlocal count
        await line.request()
        await line.say(CHUNKED)
        while True:
            await line.say(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            count += 1

    engine = HttpxEngine(lambda: library.AsyncClient(trust_env=False))
    async with Peer(script) as peer:
        reply = await engine.send(ask(peer))
        await asyncio.sleep(0.2)
        stopped = count
        await asyncio.sleep(0.1)
        assert count == stopped
        got = 0
        while got < (stopped + 2) * 65536:
            got += len(await reply.more() or b"")
        reply.close()
    await engine.aclose()
