"""The stand-in as a server: connections, disconnects, TLS, threads, cleanup."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from bud_asgi.testing import Received, Reply, StandIn, TlsKind, hang, hang_mid_event, json_body, reset_mid_event, text
from testing.raw_client import HEADERS, Client, ask, connect, unchunked, wire
from testing.stream_grammar import message_of


@pytest.fixture
async def upstream() -> AsyncIterator[StandIn]:
    async with StandIn() as upstream:
        yield upstream


async def test_a_request_is_recorded_as_it_came(upstream: StandIn) -> None:
    await ask(
        upstream,
        wire(headers={"X-Odd-CASE": "a  b", "anthropic-beta": "a,b"}, start="POST /v1/messages?beta=true HTTP/1.1"),
    )
    (request,) = upstream.requests
    assert (request.method, request.target, request.path) == (b"POST", b"/v1/messages?beta=true", b"/v1/messages")
    assert (b"X-Odd-CASE", b"a  b") in request.headers
    assert [name for name, _ in request.headers][: len(HEADERS)] == [name.encode() for name in HEADERS]
    assert request.header("x-odd-case") == b"a  b"
    assert request.json()["messages"][0]["content"] == "What is new?"
    assert (request.number, request.connection, request.complete, request.done) == (1, 1, True, True)
    assert request.refusal is None
    assert request.aborted is None


async def test_every_reply_describes_the_account(upstream: StandIn) -> None:
    for request in (wire(), wire(stream=True), wire(headers={"x-api-key": None})):
        head, _, _ = await ask(upstream, request)
        lines = head.split(b"\r\n")
        assert f"request-id: {upstream.requests[-1].request_id}".encode() in lines
        assert any(line.startswith(b"anthropic-organization-id: ") for line in lines)
        for name in (b"requests", b"tokens", b"input-tokens", b"output-tokens"):
            for part in (b"limit", b"remaining", b"reset"):
                assert any(line.startswith(b"anthropic-ratelimit-%b-%b: " % (name, part)) for line in lines)


async def test_a_connection_serves_one_request_after_the_other(upstream: StandIn) -> None:
    client = await connect(upstream)
    for _ in range(3):
        await client.send(wire())
        assert (await client.until_silent(0.05))[1] == "open"
    await client.send(wire() + wire(stream=True))
    received, _ = await client.until_silent()
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    await client.send(wire(headers={"connection": "close"}))
    received, ended = await client.until_silent()
    assert b"\r\nconnection: close" in received
    assert ended == "eof"
    await client.close()
    assert [request.connection for request in upstream.requests] == [1] * 6
    await upstream.wait_connections(0, 1)
    assert upstream.connections_made == 1


async def test_requests_come_in_any_pieces(upstream: StandIn) -> None:
    client = await connect(upstream)
    for byte in wire():
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.until_silent())[0].startswith(b"HTTP/1.1 200 OK\r\n")
    await client.close()


async def test_a_chunked_request_is_read(upstream: StandIn) -> None:
    head, _, body = wire(headers={"content-length": None, "transfer-encoding": "chunked"}).partition(b"\r\n\r\n")
    await ask(upstream, head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert upstream.requests[0].body == body
    assert upstream.refused == []


async def test_continue_is_sent_when_expected(upstream: StandIn) -> None:
    client = await connect(upstream)
    head, _, body = wire(headers={"expect": "100-continue"}).partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")
    assert await client.until_silent(0.05) == (b"HTTP/1.1 100 Continue\r\n\r\n", "open")
    await client.send(body)
    assert (await client.until_silent())[0].startswith(b"HTTP/1.1 200 OK\r\n")
    await client.close()


async def test_data_that_is_not_http_is_rejected_and_recorded(upstream: StandIn) -> None:
    head, _, ended = await ask(upstream, b"what?\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert ended == "eof"
    assert len(upstream.unparsable) == 1
    assert upstream.requests == []


@pytest.mark.parametrize("reply", [hang(), hang_mid_event(), text("slow " * 50, delay=0.05)])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_it_sees_at_once_that_the_peer_went_away(upstream: StandIn, reply: Reply, how: str) -> None:
    upstream.always(reply)
    client = await connect(upstream)
    await client.send(wire(stream=True))
    await upstream.wait_requests(1, 30.0)
    await asyncio.sleep(0.02)
    assert upstream.requests[0].aborted is None
    left = time.monotonic()
    if how == "fin":
        client.writer.close()
    else:
        await client.close()
    request = await upstream.wait_aborted(30.0)
    assert request is upstream.requests[0]
    assert request.aborted is not None
    assert 0 <= request.aborted - left < 5
    assert not request.done
    await upstream.wait_connections(0, 1)
    with pytest.raises(TimeoutError):
        await upstream.wait_aborted(0.01)
    await client.close()


async def test_a_cut_upload_is_an_aborted_request(upstream: StandIn) -> None:
    client = await connect(upstream)
    await client.send(wire()[:-10])
    await asyncio.sleep(0.02)
    await client.close()
    request = await upstream.wait_aborted(30.0)
    assert not request.complete


async def test_aborts_are_also_seen_after_the_list_of_requests_has_been_cleared(upstream: StandIn) -> None:
    for _ in range(2):
        upstream.requests.clear()
        client = await connect(upstream)
        await client.send(wire()[:-10])
        await asyncio.sleep(0.02)
        await client.close()
        assert await upstream.wait_aborted(30.0) is upstream.requests[0]


async def test_replies_are_given_in_order_and_then_the_default(upstream: StandIn) -> None:
    def echo(request: Received) -> Reply:
        return json_body({"target": request.target.decode()})

    upstream.always(json_body("always"))
    upstream.enqueue(json_body("one"), echo)
    bodies = [(await ask(upstream, wire()))[1] for _ in range(3)]
    assert bodies == [b'"one"', b'{"target":"/v1/messages"}', b'"always"']
    upstream.always(None)
    assert b"Hello from the stand-in" in (await ask(upstream, wire()))[1]


async def test_a_rejected_request_takes_no_reply_from_the_queue(upstream: StandIn) -> None:
    upstream.enqueue(json_body("one"))
    assert (await ask(upstream, wire(max_tokens=-1)))[0].startswith(b"HTTP/1.1 400 ")
    assert (await ask(upstream, wire()))[1] == b'"one"'


async def ask_once(reply: Reply | Callable[[Received], Reply]) -> bytes:
    async with StandIn() as upstream:
        upstream.always(reply)
        head, _, ended = await ask(upstream, wire())
        assert (head[:13], ended) in ((b"HTTP/1.1 500 ", "open"), (b"", "eof"))
        return head


async def test_a_failing_reply_function_is_raised_on_exit() -> None:
    def broken(_: Received) -> Reply:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await ask_once(broken)


async def test_a_reply_that_cannot_be_sent_closes_its_connection_and_raises_on_exit() -> None:
    with pytest.raises(UnicodeEncodeError):
        await ask_once(json_body({}, headers={"x": "\u20ac"}))


async def test_strict_false_accepts_any_request() -> None:
    async with StandIn(strict=False) as upstream:
        upstream.enqueue(json_body({"ok": 1}))
        assert (await ask(upstream, b"GET /any HTTP/1.1\r\nhost: x\r\n\r\n"))[1] == b'{"ok":1}'
        head, _, _ = await ask(upstream, b"PUT / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{!")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        _, body, _ = await ask(upstream, b"HEAD / HTTP/1.1\r\n\r\n")
        assert body == b""


async def test_connections_can_be_refused_and_accepted_again(upstream: StandIn) -> None:
    client = await connect(upstream)
    await upstream.wait_connections(1, 1)
    port = upstream.port
    await upstream.refuse_connections()
    await upstream.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        await connect(upstream)
    await client.send(wire())
    assert (await client.until_silent())[1] == "open"
    await upstream.refuse_connections(drop_open=True)
    assert (await client.until_silent())[1] == "eof"
    assert upstream.connections_open == 0
    await upstream.accept_connections()
    await upstream.accept_connections()
    assert upstream.port == port
    assert (await ask(upstream, wire()))[0].startswith(b"HTTP/1.1 200 OK\r\n")
    await client.close()


async def test_a_small_send_buffer_shows_back_pressure_early() -> None:
    async with StandIn(send_buffer=4096) as upstream:
        upstream.always(text("x " * 20_000))
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", upstream.port))
            sock.sendall(wire(stream=True))
            await upstream.wait_requests(1, 30.0)
            await asyncio.sleep(0.1)
            assert 0 < upstream.requests[0].replied < 200_000


async def test_everything_is_closed_on_exit() -> None:
    tasks = asyncio.all_tasks()
    async with StandIn() as upstream:
        upstream.always(hang())
        clients = [await connect(upstream) for _ in range(5)]
        for client in clients:
            await client.send(wire())
        await upstream.wait_requests(5, 30.0)
    assert upstream.connections_open == 0
    assert [request.aborted for request in upstream.requests] == [None] * 5, "it was us"
    for client in clients:
        assert (await client.until_silent())[0] == b""
        await client.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks


TLS: dict[TlsKind, str | None] = {
    "good": None,
    "wrong-name": "IP address mismatch",
    "expired": "certificate has expired",
    "unknown-ca": "unable to get local issuer certificate",
}


@pytest.mark.parametrize(("kind", "refused"), TLS.items(), ids=TLS.keys())
async def test_certificates_are_valid_or_invalid_as_requested(kind: TlsKind, refused: str | None) -> None:
    async with StandIn(tls=kind) as upstream:
        assert upstream.base_url == f"https://127.0.0.1:{upstream.port}"
        if refused:
            with pytest.raises(ssl.SSLCertVerificationError, match=refused):
                await asyncio.open_connection("127.0.0.1", upstream.port, ssl=upstream.ca)
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=upstream.ca)
        writer.write(wire(stream=True))
        assert b"message_stop" in await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        await upstream.wait_connections(0, 1)


@pytest.mark.parametrize(("reply", "expected"), [(reset_mid_event(), "reset"), (hang_mid_event(), "open")])
async def test_faults_work_under_tls(reply: Reply, expected: str) -> None:
    async with StandIn(tls="good") as upstream:
        upstream.always(reply)
        client = Client(*await asyncio.open_connection("127.0.0.1", upstream.port, ssl=upstream.ca))
        await client.send(wire(stream=True))
        received, ended = await client.until_silent()
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert ended == expected
        await client.close()
        if expected == "open":
            await upstream.wait_aborted(30.0)


async def test_without_tls_ca_raises(upstream: StandIn) -> None:
    with pytest.raises(ValueError, match="no TLS"):
        _ = upstream.ca


def test_synchronous_code_uses_it_in_a_thread() -> None:
    threads = threading.active_count()
    with StandIn().in_thread() as upstream:
        upstream.enqueue(hang())
        with socket.create_connection(("127.0.0.1", upstream.port)) as sock:
            sock.sendall(wire())
            (request,) = upstream.wait_requests(1, 30.0)
            assert upstream.connections_open == 1
        assert upstream.wait_aborted(30.0) is request
        upstream.wait_connections(0, 1)
        upstream.refuse_connections(drop_open=True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", upstream.port))
        upstream.accept_connections()
        upstream.drop_connections()
        assert (upstream.connections_made, upstream.closed_on_reuse, upstream.unparsable) == (1, 0, [])
        assert (upstream.requests, upstream.refused) == ([request], [])
        assert upstream.base_url.endswith(str(upstream.port))
    assert threading.active_count() == threads


def test_a_failure_in_the_thread_is_raised_in_the_caller() -> None:
    def broken(_: Received) -> Reply:
        raise LookupError("mine")

    def run() -> None:
        with StandIn().in_thread() as upstream:
            upstream.always(broken)
            with socket.create_connection(("127.0.0.1", upstream.port)) as sock:
                sock.sendall(wire())
                assert sock.recv(100).startswith(b"HTTP/1.1 500 ")

    with pytest.raises(LookupError, match="mine"):
        run()


def test_it_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with StandIn(send_buffer=65536) as upstream:
            _, body, _ = await ask(upstream, wire(stream=True))
            message_of(unchunked(body)[0])
            upstream.always(hang_mid_event())
            await ask(upstream, wire(stream=True))
            await upstream.wait_aborted(30.0)

    runner: Callable[[object], None] = uvloop.run
    runner(run())
