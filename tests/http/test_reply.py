"""Replies over real sockets: every framing, and every way to break one; earlier bytes are delivered first."""

from __future__ import annotations

import asyncio

import pytest
from differences import Client
from peer import CHUNKED, OK, Peer, PeerConnection, read, reply_and_close, reply_with, request_to

from bud_asgi.http import HttpError

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH_5 = HEAD + b"content-length: 5\r\n\r\n"

FRAMINGS = {
    "content-length": ((LENGTH_5 + b"hello",), b"hello", 1),
    "content-length, in parts": ((LENGTH_5, b"he", b"llo"), b"hello", 1),
    "chunked": ((CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"), b"hello", 1),
    "chunked, a byte a segment": (tuple(bytes([byte]) for byte in CHUNKED + b"1\r\na\r\n0\r\n\r\n"), b"a", 1),
    "chunked, with trailers": ((CHUNKED + b"1\r\na\r\n0\r\n", b"x-t: 1\r\n\r\n"), b"a", 1),
    "unrequested gzip": (
        (HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",),
        b"\x1f\x8b",
        1,
    ),
    "after interim replies": ((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 x\r\n\r\n", OK), b"ok", 1),
    "no content": ((b"HTTP/1.1 204 x\r\n\r\n",), b"", 1),
    "connection: close": ((HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok",), b"ok", 0),
    "rubbish after it": ((OK + b"rubbish",), b"ok", 0),
    "a second reply after it": ((OK + OK,), b"ok", 0),
}


@pytest.mark.parametrize(("parts", "body", "idle"), FRAMINGS.values(), ids=FRAMINGS.keys())
async def test_a_reply_is_read_whole_and_its_connection_kept_if_reusable(
    client: Client, parts: tuple[bytes, ...], body: bytes, idle: int
) -> None:
    async with Peer(reply_with(*parts)) as peer:
        for _ in range(2):
            reply = await client.send(request_to(peer))
            assert await read(reply) == body
            assert client.idle == idle
            reply.close()
            reply.close()
            assert await reply.more() == b""
        assert len(peer.connections) == (1 if idle else 2)


async def test_a_reply_without_framing_ends_with_the_connection(client: Client) -> None:
    async with Peer(reply_and_close(HEAD + b"\r\n", b"hel", b"lo")) as peer:
        reply = await client.send(request_to(peer))
        assert not reply.done
        assert await read(reply) == b"hello"
        assert client.idle == 0


async def test_the_reply_to_head_has_no_body_whatever_its_headers(client: Client) -> None:
    async with Peer(reply_with(LENGTH_5)) as peer:
        reply = await client.send(request_to(peer, method=b"HEAD", body=b""))
        assert reply.done
        assert await read(reply) == b""


async def test_take_returns_what_has_arrived_and_never_waits(client: Client) -> None:
    async with Peer(reply_with(CHUNKED + b"1\r\na\r\n1\r\nb\r\n")) as peer:
        reply = await client.send(request_to(peer))
        assert (reply.take(), reply.take()) == (b"ab", b"")
        assert reply.headers == [(b"transfer-encoding", b"chunked")]
        reply.close()
        assert reply.take() == b""
        with pytest.raises(HttpError, match="closed by its reader"):
            await reply.more()


async def test_a_second_concurrent_reader_is_refused(client: Client) -> None:
    async with Peer(reply_with(CHUNKED)) as peer:
        reply = await client.send(request_to(peer))
        first = asyncio.ensure_future(reply.more())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="only one reader"):
            await reply.more()
        reply.close()
        with pytest.raises(HttpError):
            await first


NO_HEAD = {
    "closed without a reply": ((), "reset", False),
    "closed within the head": ((HEAD + b"content-le",), "reset", True),
    "closed after an interim reply": ((b"HTTP/1.1 100 x\r\n\r\n",), "reset", True),
    "not HTTP": ((b"hello, who is there?\r\n",), "protocol", True),
    "two lengths": ((HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",), "protocol", True),
    "length and chunked": ((HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",), "protocol", True),
    "an unknown transfer-encoding": ((HEAD + b"transfer-encoding: br\r\n\r\n",), "protocol", True),
    "a folded header": ((HEAD + b"a: b\r\n c\r\n\r\n",), "protocol", True),
    "an upgrade": ((b"HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",), "protocol", True),
    "a head of 40 KB": ((HEAD + b"x: " + b"a" * 40_000 + b"\r\n\r\n",), "protocol", True),
}


@pytest.mark.parametrize(("parts", "kind", "answered"), NO_HEAD.values(), ids=NO_HEAD.keys())
async def test_a_reply_without_a_valid_head_is_an_error_with_correct_facts(
    client: Client, parts: tuple[bytes, ...], kind: str, answered: bool
) -> None:
    async with Peer(reply_and_close(*parts)) as peer:
        with pytest.raises(HttpError) as failed:
            await client.send(request_to(peer))
        error = failed.value
        assert (error.kind, error.reused, error.sent, error.answered) == (kind, False, True, answered)
        assert len(peer.connections) == 1


@pytest.mark.parametrize("answer", [b"", HEAD + b"content-length: 9\r\n\r\nabc"], ids=["before", "within"])
async def test_a_hard_reset_is_a_reset(client: Client, answer: bytes) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(answer)
        await asyncio.sleep(0.02)
        connection.reset()

    async with Peer(script) as peer:
        with pytest.raises(HttpError) as failed:
            await read(await client.send(request_to(peer)))
        assert (failed.value.kind, failed.value.answered) == ("reset", bool(answer))


BROKEN = {
    "a short length": (LENGTH_5 + b"hel", b"hel", "reset"),
    "a cut chunk": (CHUNKED + b"5\r\nhel", b"hel", "reset"),
    "no last chunk": (CHUNKED + b"3\r\nhel\r\n", b"hel", "reset"),
    "cut within the trailers": (CHUNKED + b"3\r\nhel\r\n0\r\nx: ", b"hel", "reset"),
    "a broken chunk": (CHUNKED + b"3\r\nhel\r\nzz\r\n", b"hel", "protocol"),
    "a chunk longer than its size": (CHUNKED + b"3\r\nhello\r\n", b"hel", "protocol"),
}


@pytest.mark.parametrize(("wire", "before", "kind"), BROKEN.values(), ids=BROKEN.keys())
async def test_bytes_before_a_break_are_delivered_before_the_error(
    client: Client, wire: bytes, before: bytes, kind: str
) -> None:
    async with Peer(reply_and_close(wire)) as peer:
        reply = await client.send(request_to(peer))
        await asyncio.sleep(0.02)
        assert await reply.more() == before
        assert not reply.done
        for _ in range(2):
            with pytest.raises(HttpError) as failed:
                await reply.more()
            assert (failed.value.kind, failed.value.sent, failed.value.answered) == (kind, True, True)


ENDLESS = {
    "a header line": (HEAD + b"x: ", b"a" * 4096),
    "interim replies": (b"", b"HTTP/1.1 103 x\r\n\r\n" * 20),
    "a chunk extension": (CHUNKED + b"1;", b"a" * 4096),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"x: " + b"a" * 4096 + b"\r\n"),
}


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_framing_is_refused_at_once(client: Client, begin: bytes, more: bytes) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(begin)
        for _ in range(300):
            await connection.send(more)

    async with Peer(script) as peer:
        with pytest.raises(HttpError) as failed:
            await read(await client.send(request_to(peer)))
        assert failed.value.kind == "protocol"


TOO_LARGE = b"HTTP/1.1 413 x\r\ncontent-length: 9\r\n\r\ntoo large"


@pytest.mark.parametrize("ends", ["waits", "closes", "resets"])
@pytest.mark.parametrize("delay", [0.0, 0.03])
async def test_an_early_413_is_read_during_an_upload_of_30_mb(client: Client, ends: str, delay: float) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.head()
        await asyncio.sleep(delay)
        await connection.send(TOO_LARGE)
        if ends == "resets":
            connection.reset()
        elif ends == "waits":
            await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer, body=b"x" * 30_000_000))
        assert reply.status == 413
        assert await read(reply) == b"too large"
        await asyncio.sleep(0.02)
        assert client.open == 0
        if ends == "waits":
            await asyncio.wait_for(peer.connections[0].gone.wait(), 2)


async def test_an_upload_continues_after_an_early_200(client: Client) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.head()
        await connection.send(CHUNKED)
        await connection.reader.readexactly(5_000_000)
        await connection.send(b"2\r\nok\r\n0\r\n\r\n")
        await connection.wait_closed()

    async with Peer(script) as peer:
        reply = await client.send(request_to(peer, body=b"x" * 5_000_000))
        assert await read(reply) == b"ok"
        assert client.idle == 1
