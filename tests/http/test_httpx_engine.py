"""What is specific to the httpx engine: what it accepts, sends and closes. The other modules test all engines."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from typing import Any

import httpx
import httpx2
import pytest
from peer import CHUNKED, OK, Peer, PeerConnection, read, reply_with, request_to

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
    check = "import sys; import bud_asgi, bud_asgi.http.httpx.engine; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=30)


TARGETS = [
    b"/v1/messages?a=%2F&b=%7e",
    b'/a"b<c>{d}|e`f',
    b"//double//slash",
    b"/a/../b/./c",
    b"/?q=[x]&'y'#z",
    b"/%zz",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_the_target_and_the_headers_are_exactly_those_of_the_request(library: Any, target: bytes) -> None:
    heads: list[bytes] = []

    async def script(connection: PeerConnection) -> None:
        heads.append(await connection.request())
        await connection.send(OK)

    async with (
        Peer(script) as peer,
        library.AsyncClient(
            headers={"x-host": "1"}, cookies={"a": "b"}, auth=("user", "password"), trust_env=False
        ) as client,
    ):
        engine = HttpxEngine(client)
        reply = await engine.send(
            request_to(peer, target=target, headers=((b"x-a", b"1"), (b"x-b", b"\xe9"), (b"x-a", b"2")))
        )
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

    async def script(connection: PeerConnection) -> None:
        while True:
            got.append((await connection.request()).partition(b"\r\n\r\n")[2])
            await connection.send(OK)

    engine = HttpxEngine(library.AsyncHTTPTransport)
    async with Peer(script) as peer:
        request = request_to(peer, body=body)
        for _ in range(2):
            assert await read(await engine.send(request)) == b"ok"
    assert got == [b"ab" + large] * 2
    await engine.aclose()


async def test_redirects_are_not_followed_bodies_not_decompressed_and_cookies_not_kept(library: Any) -> None:
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
    async with Peer(reply_with(moved + packed)) as peer:
        reply = await engine.send(request_to(peer))
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


async def test_a_client_passed_in_stays_open_and_one_from_a_function_is_closed(library: Any) -> None:
    class Counting(library.AsyncHTTPTransport):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass] - either
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1
            await super().aclose()

    passed_in = Counting()
    made = Counting()
    for source in (passed_in, lambda: made):
        engine = HttpxEngine(source)
        async with Peer(reply_with(OK)) as peer:
            assert await read(await engine.send(request_to(peer))) == b"ok"
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await engine.send(get())
    assert (passed_in.closed, made.closed) == (0, 1)
    await passed_in.aclose()


async def test_a_client_works_in_one_loop_only(library: Any) -> None:
    client = library.AsyncClient()
    engine = HttpxEngine(client)
    await HttpxEngine(client).aclose()

    async def in_another_loop() -> None:
        with pytest.raises(RuntimeError, match="pass a function"):
            HttpxEngine(client)
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await engine.send(get())
        await HttpxEngine(library.AsyncClient).aclose()

    await asyncio.to_thread(asyncio.run, in_another_loop())
    await engine.aclose()
    await client.aclose()


@pytest.mark.parametrize("wrong", [object, httpx.Client, httpx2.HTTPTransport])
async def test_anything_but_a_client_or_transport_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected an httpx\.AsyncClient"):
        HttpxEngine(wrong)


async def test_a_mock_transport_works(library: Any) -> None:
    async def answer(request: Any) -> Any:
        assert (request.url.path, await request.aread()) == ("/v1/messages", b"{}")
        return library.Response(200, headers={"X-A": "1"}, content=b"hello")

    for source in (library.MockTransport(answer), library.AsyncClient(transport=library.MockTransport(answer))):
        engine = HttpxEngine(source)
        reply = await engine.send(HttpRequest(ORIGIN, b"POST", b"/v1/messages", [], b"{}"))
        assert (reply.status, reply.headers[0]) == (200, (b"x-a", b"1"))
        assert await read(reply) == b"hello"
        await engine.aclose()


async def test_a_body_that_a_hook_has_read_is_the_decoded_one(library: Any) -> None:
    async def read_response(response: Any) -> None:
        await response.aread()

    packed = gzip.compress(b"hello")
    head = b"HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\nx-a: 1\r\n\r\n" % len(packed)
    engine = HttpxEngine(lambda: library.AsyncClient(event_hooks={"response": [read_response]}, trust_env=False))
    async with Peer(reply_with(head + packed)) as peer:
        for _ in range(2):
            reply = await engine.send(request_to(peer))
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
async def test_without_trace_events_errors_err_on_the_safe_side(
    library: Any, name: str, expected: tuple[str, bool]
) -> None:
    def fail(request: Any) -> Any:
        raise getattr(library, name)("a message", request=request)

    engine = HttpxEngine(library.MockTransport(fail))
    with pytest.raises(HttpError) as failed:
        await engine.send(get())
    error = failed.value
    assert ((error.kind, error.sent), error.reused) == (expected, False)
    assert type(error.__cause__).__name__ == name
    await engine.aclose()


async def test_an_exception_that_is_not_from_httpx_is_raised_unchanged(library: Any) -> None:
    def fail(_: Any) -> Any:
        raise KeyError("an error of the host")

    engine = HttpxEngine(library.MockTransport(fail))
    with pytest.raises(KeyError):
        await engine.send(get())
    await engine.aclose()


async def test_a_reused_connection_is_reported(library: Any) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()

    engine = HttpxEngine(lambda: library.AsyncClient(trust_env=False))
    async with Peer(script) as peer:
        await read(await engine.send(request_to(peer)))
        with pytest.raises(HttpError) as failed:
            await engine.send(request_to(peer))
        assert (failed.value.kind, failed.value.reused, failed.value.sent) == ("reset", True, True)
    await engine.aclose()


async def test_a_request_waits_for_a_full_pool_and_sends_nothing_meanwhile(library: Any) -> None:
    limits = library.Limits(max_connections=1)
    engine = HttpxEngine(lambda: library.AsyncClient(limits=limits, trust_env=False))
    async with Peer(reply_with(CHUNKED)) as peer:
        reply = await engine.send(request_to(peer))
        with pytest.raises(HttpError) as failed:
            await engine.send(request_to(peer, timeouts=Timeouts(connect=0.1, first_byte=TICK, silence=5)))
        assert (failed.value.kind, failed.value.reused) == ("timeout", False)
        waiting = asyncio.ensure_future(engine.send(request_to(peer)))
        await asyncio.sleep(0.02)
        reply.close()
        (await waiting).close()
    await engine.aclose()


def must_not_be_called(_: Any) -> Any:
    pytest.fail("sent")


async def test_an_invalid_request_is_refused_before_a_connection_is_used(library: Any) -> None:
    engine = HttpxEngine(library.MockTransport(must_not_be_called))
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

    async def script(connection: PeerConnection) -> None:
        nonlocal count
        await connection.request()
        await connection.send(CHUNKED)
        while True:
            await connection.send(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            count += 1

    engine = HttpxEngine(lambda: library.AsyncClient(trust_env=False))
    async with Peer(script) as peer:
        reply = await engine.send(request_to(peer))
        await asyncio.sleep(0.2)
        stopped = count
        await asyncio.sleep(0.1)
        assert count == stopped
        got = 0
        while got < (stopped + 2) * 65536:
            got += len(await reply.more() or b"")
        reply.close()
    await engine.aclose()
