"""TLS and dialling: what is verified, and what is said when there is no connection."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from peer import CHUNKED, OK, Certificates, Line, Peer, Script, read, says

from bud_asgi.http import Engine, HttpError, HttpRequest, Origin, Timeouts


def get(origin: Origin, connect: float = 5) -> HttpRequest:
    return HttpRequest(origin, b"GET", b"/", [], timeouts=Timeouts(connect=connect))


async def test_requests_over_tls_are_served_and_the_connection_reused(
    engine: Engine, certificates: Certificates
) -> None:
    async with Peer(says(CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\n"), certificates.server) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        for _ in range(3):
            assert await read(await engine.send(get(origin))) == b"ok"
        assert (engine.open, engine.idle, len(peer.lines)) == (1, 1, 1)


async def test_a_wrong_name_is_refused_and_named(engine: Engine, certificates: Certificates) -> None:
    async with Peer(says(OK), certificates.server) as peer:
        with pytest.raises(HttpError, match=r"certificate verify failed: IP address mismatch") as failed:
            await engine.send(get(Origin("127.0.0.1", peer.port, certificates.client)))
        error = failed.value
        assert (error.kind, error.reused, error.sent, error.answered) == ("tls", False, False, False)
        assert engine.open == 0


async def test_an_unknown_authority_is_refused_and_named(engine: Engine, certificates: Certificates) -> None:
    async with Peer(says(OK), certificates.server) as peer:
        with pytest.raises(HttpError, match=r"certificate verify failed: unable to get local issuer") as failed:
            await engine.send(get(Origin("localhost", peer.port, ssl.create_default_context())))
        assert (failed.value.kind, failed.value.sent) == ("tls", False)


async def says_plain_http(line: Line) -> None:
    await line.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await line.watch()


async def hangs_up(line: Line) -> None:
    await line.reader.read(1)


@pytest.mark.parametrize("script", [says_plain_http, hangs_up])
async def test_a_handshake_that_fails_is_a_tls_error(engine: Engine, script: Script) -> None:
    async with Peer(script) as peer:
        with pytest.raises(HttpError) as failed:
            await engine.send(get(Origin("localhost", peer.port, ssl.create_default_context())))
        assert (failed.value.kind, failed.value.sent) == ("tls", False)


async def test_a_handshake_without_an_answer_is_over_in_time(engine: Engine) -> None:
    async with Peer(Line.watch) as peer:
        with pytest.raises(HttpError, match=r"no connection within 0\.1 s") as failed:
            await engine.send(get(Origin("localhost", peer.port, ssl.create_default_context()), connect=0.1))
        assert (failed.value.kind, failed.value.sent) == ("connect", False)
        await asyncio.wait_for(peer.lines[0].gone.wait(), 0.2)
        assert engine.open == 0


async def test_a_refused_connection_is_a_connect_error(engine: Engine) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(HttpError, match=r"127\.0\.0\.1:\d+: .*refused") as failed:
            await engine.send(get(Origin("127.0.0.1", unheard.getsockname()[1])))
    error = failed.value
    assert (error.kind, error.reused, error.sent, error.answered) == ("connect", False, False, False)


async def test_an_unknown_name_is_a_connect_error(engine: Engine) -> None:
    with pytest.raises(HttpError, match=r"nowhere\.invalid:80: ") as failed:
        await engine.send(get(Origin("nowhere.invalid", 80)))
    assert (failed.value.kind, failed.value.sent) == ("connect", False)


async def test_a_reset_connection_over_tls_is_a_reset(engine: Engine, certificates: Certificates) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(0.02)
        line.writer.transport.abort()

    async with Peer(script, certificates.server) as peer:
        reply = await engine.send(get(Origin("localhost", peer.port, certificates.client)))
        assert await reply.more() == b"a"
        with pytest.raises(HttpError) as failed:
            await reply.more()
        assert (failed.value.kind, failed.value.answered) == ("reset", True)


async def test_a_stale_connection_over_tls_costs_one_retry(engine: Engine, certificates: Certificates) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        if line.number:
            await line.watch()
        await line.request()

    async with Peer(script, certificates.server) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        await read(await engine.send(get(origin)))
        assert await read(await engine.send(get(origin))) == b"ok"
        assert (engine.stale_retries, len(peer.lines)) == (1, 2)
