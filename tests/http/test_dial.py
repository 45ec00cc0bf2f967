"""Dialling and TLS: what is verified, and the errors when no connection is made."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from differences import Client, Make
from peer import CHUNKED, OK, Certificates, Peer, PeerConnection, Script, read, reply_with

from bud_asgi.http import HttpError, HttpRequest, Origin, Timeouts


def get(origin: Origin, connect: float = 5) -> HttpRequest:
    return HttpRequest(origin, b"GET", b"/", [], timeouts=Timeouts(connect=connect))


async def test_requests_over_tls_are_served_and_the_connection_reused(
    client: Client, certificates: Certificates
) -> None:
    async with Peer(reply_with(CHUNKED, b"2\r\nok\r\n", b"0\r\n\r\n"), certificates.server) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        for _ in range(3):
            assert await read(await client.send(get(origin))) == b"ok"
        assert (client.open, client.idle, len(peer.connections)) == (1, 1, 1)


async def test_a_wrong_name_is_refused_and_reported(client: Client, certificates: Certificates) -> None:
    async with Peer(reply_with(OK), certificates.server) as peer:
        with pytest.raises(HttpError, match=r"certificate verify failed: IP address mismatch") as failed:
            await client.send(get(Origin("127.0.0.1", peer.port, certificates.client)))
        error = failed.value
        assert (error.kind, error.reused, error.sent, error.answered) == ("tls", False, False, False)
        assert client.open == 0


async def test_an_unknown_authority_is_refused_and_reported(make: Make, certificates: Certificates) -> None:
    distrusting = ssl.create_default_context()
    client = make(distrusting)
    async with Peer(reply_with(OK), certificates.server) as peer:
        with pytest.raises(HttpError, match=r"certificate verify failed: unable to get local issuer") as failed:
            await client.send(get(Origin("localhost", peer.port, distrusting)))
        assert (failed.value.kind, failed.value.sent) == ("tls", False)


def served_by(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    return context


async def test_an_expired_certificate_is_refused_and_reported(make: Make) -> None:
    authority = trustme.CA()
    began = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = authority.issue_cert("localhost", not_before=began, not_after=began + dt.timedelta(days=1))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    client = make(trusting)
    async with Peer(reply_with(OK), served_by(expired)) as peer:
        with pytest.raises(HttpError, match=r"certificate verify failed: certificate has expired") as failed:
            await client.send(get(Origin("localhost", peer.port, trusting)))
        assert (failed.value.kind, failed.value.sent) == ("tls", False)


async def test_ssl_cert_file_is_honoured_by_default_contexts(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    trusting = ssl.create_default_context()
    client = make(trusting)
    async with Peer(reply_with(OK), served_by(authority.issue_cert("localhost"))) as peer:
        assert await read(await client.send(get(Origin("localhost", peer.port, trusting)))) == b"ok"


def refuse_one(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Fail one handshake with a TLS alert, as servers do; asyncio's own closes without an alert."""
    accepted, _ = listening.accept()
    accepted.settimeout(30)
    with accepted.dup() as below:
        below.settimeout(30)
        refused = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(ssl.SSLError):
            refused.do_handshake()
        with contextlib.suppress(OSError):
            while below.recv(1 << 16):
                pass
        refused.close()


async def test_a_client_certificate_is_sent_and_a_missing_one_is_a_tls_error(make: Make) -> None:
    authority = trustme.CA()
    server = served_by(authority.issue_cert("localhost"))
    authority.configure_trust(server)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    server.verify_mode = ssl.CERT_REQUIRED
    anonymous, certified = ssl.create_default_context(), ssl.create_default_context()
    for context in (anonymous, certified):
        authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    authority.issue_cert("gateway@example.org").configure_cert(certified)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    async with Peer(reply_with(OK), server) as peer:
        assert await read(await make(certified).send(get(Origin("localhost", peer.port, certified)))) == b"ok"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = asyncio.create_task(asyncio.to_thread(refuse_one, listening, server))
        with pytest.raises(HttpError, match="certificate required") as failed:
            await make(anonymous).send(get(Origin("localhost", listening.getsockname()[1], anonymous)))
        await refusing
    assert (failed.value.kind, failed.value.answered) == ("tls", False)


async def send_plain_http(connection: PeerConnection) -> None:
    await connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await connection.wait_closed()


async def hang_up(connection: PeerConnection) -> None:
    await connection.reader.read(1)


@pytest.mark.parametrize("script", [send_plain_http, hang_up])
async def test_a_handshake_that_fails_is_a_tls_error(
    client: Client, certificates: Certificates, script: Script
) -> None:
    async with Peer(script) as peer:
        with pytest.raises(HttpError) as failed:
            await client.send(get(Origin("localhost", peer.port, certificates.client)))
        assert (failed.value.kind, failed.value.sent) == ("tls", False)


async def test_a_handshake_without_an_answer_times_out(client: Client, certificates: Certificates) -> None:
    async with Peer(PeerConnection.wait_closed) as peer:
        with pytest.raises(HttpError, match=r"no connection within 0\.1 s") as failed:
            await client.send(get(Origin("localhost", peer.port, certificates.client), connect=0.1))
        assert (failed.value.kind, failed.value.sent) == ("connect", False)
        await asyncio.wait_for(peer.connections[0].gone.wait(), 2)
        assert client.open == 0


async def test_a_refused_connection_is_a_connect_error(client: Client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(HttpError, match=r"127\.0\.0\.1:\d+: .*refused") as failed:
            await client.send(get(Origin("127.0.0.1", unused.getsockname()[1])))
    error = failed.value
    assert (error.kind, error.reused, error.sent, error.answered) == ("connect", False, False, False)


async def test_an_unknown_name_is_a_connect_error(client: Client) -> None:
    with pytest.raises(HttpError, match=r"nowhere\.invalid:80: ") as failed:
        await client.send(get(Origin("nowhere.invalid", 80)))
    assert (failed.value.kind, failed.value.sent) == ("connect", False)


async def test_a_reset_connection_over_tls_is_a_reset(client: Client, certificates: Certificates) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(0.02)
        connection.writer.transport.abort()

    async with Peer(script, certificates.server) as peer:
        reply = await client.send(get(Origin("localhost", peer.port, certificates.client)))
        assert await reply.more() == b"a"
        with pytest.raises(HttpError) as failed:
            await reply.more()
        assert (failed.value.kind, failed.value.answered) == ("reset", True)


async def test_a_stale_connection_over_tls_causes_one_retry(client: Client, certificates: Certificates) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.request()
        await connection.send(OK)
        if connection.number:
            await connection.wait_closed()
        await connection.request()

    async with Peer(script, certificates.server) as peer:
        origin = Origin("localhost", peer.port, certificates.client)
        await read(await client.send(get(origin)))
        assert await read(await client.send(get(origin))) == b"ok"
        assert (client.stale_retries, len(peer.connections)) == (1, 2)
