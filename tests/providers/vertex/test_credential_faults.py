"""When Google gives no token, requests fail soon with an error without details, and the log has the reason."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from google.auth.exceptions import TransportError
from support.impatient import impatient

from bud_asgi.providers.errors import UpstreamUnavailable
from bud_asgi.providers.refresher import FORCED_REFRESH_INTERVAL, RefreshTiming
from bud_asgi.providers.vertex import google_auth
from bud_asgi.providers.vertex.credential import THREAD_NAME, GoogleCredential
from bud_asgi.testing import Reply, StandIn, hang, hang_mid_event, html, json_body, raw, reset_before_head
from bud_asgi.testing.google import Google
from bud_asgi.testing.google.errors import oauth_error
from providers.google_stage import REQUEST, Served, applied, bearer, google_served


class Monotonic:
    """The monotonic clock, `ahead` seconds later."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic()


@pytest.fixture
def served(clock: Monotonic) -> Generator[Served]:
    """A stand-in, and credentials with that clock."""
    with google_served() as one:
        one.timing = RefreshTiming(timeout=30.0, monotonic=clock)
        yield one


async def refresh(credential: GoogleCredential) -> bool:
    """Refresh as after a refusal of the current token."""
    return await credential.refresh(await credential.apply(REQUEST, {}))


async def failed(credential: GoogleCredential) -> UpstreamUnavailable:
    with pytest.raises(UpstreamUnavailable) as raised:
        await applied(credential)
    error = raised.value
    assert (error.status, error.type, error.not_sent) == (502, "api_error", True)
    assert str(error) == "upstream authentication failed"
    return error


def trickle() -> Reply:
    """A head that never ends, of bytes that come often enough."""
    head = b"HTTP/1.1 200 OK\r\nx-padding: " + b"a" * 10_000
    return Reply(head=b"", framing="none", body=head, piece=1, delay=0.05)


SILENT: dict[str, Callable[[], Reply]] = {
    "never answers": hang,
    "stops within its answer": lambda: hang_mid_event(5, json_body({"access_token": "ya29.x", "expires_in": 3600})),
    "trickles": trickle,
}


@pytest.mark.parametrize("reply", SILENT.values(), ids=SILENT.keys())
async def test_an_endpoint_that_hangs_is_given_up(served: Served, clock: Monotonic, reply: Callable[[], Reply]) -> None:
    credential = served.credential()
    served.stand_in.enqueue(reply())
    began = time.monotonic()
    with impatient(credential, 0.5):
        await asyncio.gather(*(failed(credential) for _ in range(20)))
    assert 0.4 < time.monotonic() - began < 15
    assert len(served.stand_in.requests) == 1
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            await asyncio.to_thread(thread.join, 30)
    clock.ahead += 1.1
    assert [await bearer(credential)] == served.issued


async def test_an_endpoint_that_hangs_does_not_delay_other_credentials(served: Served) -> None:
    served.stand_in.enqueue(hang())
    stuck = asyncio.create_task(applied(served.credential(timing=RefreshTiming(timeout=60.0))))
    await asyncio.to_thread(served.stand_in.wait_requests)
    assert await bearer(served.credential()) == served.issued[0]
    assert not stuck.done()
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck


REFUSED: dict[str, tuple[Reply, str]] = {
    "grant": (oauth_error("invalid_grant", "Invalid grant: account not found"), "account not found"),
    "page": (html(400), "Sign in"),
    "no token": (json_body({"id_token": "x"}), "No access token"),
    "not JSON": (html(200), "TypeError"),
    "closed": (reset_before_head(), "127.0.0.1"),
    "redirected": (Reply(status=302, headers=(("location", "http://127.0.0.1:1/"),)), "RefreshError"),
    "no header": (json_body({"access_token": "a\r\nb: c", "expires_in": 3600}), "visible ASCII"),
    "expired": (json_body({"access_token": "ya29.x", "expires_in": 0}), "expired"),
}


@pytest.mark.parametrize(("reply", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_the_log_has_the_reason(
    served: Served, caplog: pytest.LogCaptureFixture, reply: Reply, reason: str
) -> None:
    caplog.set_level(logging.WARNING, "bud_asgi")
    served.stand_in.enqueue(reply)
    error = await failed(served.credential())
    assert reason in caplog.text
    assert reason in str(error.__cause__)
    assert "PRIVATE KEY" not in caplog.text


async def test_a_failure_is_not_repeated_at_once(served: Served, clock: Monotonic) -> None:
    credential = served.credential()
    served.stand_in.enqueue(oauth_error("invalid_grant", "no"))
    await failed(credential)
    for _ in range(20):
        await failed(credential)
    assert len(served.stand_in.requests) == 1
    clock.ahead += 1.1
    assert [await bearer(credential)] == served.issued


async def test_the_current_token_stays_if_no_other_can_be_fetched(served: Served) -> None:
    credential = served.credential()
    first = await bearer(credential)
    served.stand_in.refuse_connections(drop_open=True)
    assert await refresh(credential) is False
    assert await bearer(credential) == first
    served.stand_in.accept_connections()


async def test_an_unreachable_endpoint_is_named(served: Served) -> None:
    served.stand_in.refuse_connections()
    error = await failed(served.credential())
    assert "TransportError" in str(error.__cause__)
    assert "127.0.0.1" in str(error.__cause__)
    served.stand_in.accept_connections()


async def test_a_key_that_was_exchanged_is_read_again(served: Served, clock: Monotonic, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(served.key(client_email="gone@example.com")))
    credential = served.credential(service_account_file=file)
    await failed(credential)
    file.unlink()
    clock.ahead += 1.1
    assert "No such file" in str((await failed(credential)).__cause__)
    file.write_text(json.dumps(served.key()))
    clock.ahead += 1.1
    assert [await bearer(credential)] == served.issued
    served.stand_in.enqueue(oauth_error("invalid_grant", "Invalid JWT Signature."))
    assert not await refresh(credential)
    clock.ahead += FORCED_REFRESH_INTERVAL
    file.write_text(json.dumps(served.key(client_email="other@example.com")))
    assert not await refresh(credential)
    assert served.stand_in.requests[-1].refusal == "Invalid grant: account not found"


def test_the_transport_has_one_deadline_for_all(served: Served) -> None:
    transport = google_auth.Transport(time.monotonic() + 30)
    url = f"{served.stand_in.base_url}?a=b"
    assert transport(url).status == 200
    transport._deadline = time.monotonic()
    with pytest.raises(TransportError, match="the deadline has passed"):
        transport(url)
    assert [request.target for request in served.stand_in.requests] == [b"/?a=b"]


def test_the_transport_names_what_failed(served: Served) -> None:
    served.stand_in.always(raw(b"no HTTP at all\r\n\r\n"))
    with pytest.raises(TransportError, match=r"127.0.0.1: no HTTP at all"):
        google_auth.Transport(time.monotonic() + 30)(f"{served.stand_in.base_url}/")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        transport = google_auth.Transport(time.monotonic() + 30)
        with pytest.raises(TransportError, match=r"127.0.0.1: timed out"):
            transport(f"http://127.0.0.1:{port}/", timeout=0.1)
    with pytest.raises(TransportError, match=r"127.0.0.1: .*refused"):
        transport(f"http://127.0.0.1:{port}/")


def test_an_untrusted_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn.of(Google(), tls="good").in_thread() as stand_in:
        url = f"{stand_in.base_url}/"
        with pytest.raises(TransportError, match="certificate verify failed"):
            google_auth.Transport(time.monotonic() + 30)(url)
        monkeypatch.setattr(ssl, "create_default_context", lambda: stand_in.ca)
        reply = google_auth.Transport(time.monotonic() + 30)(url)
    assert (reply.status, reply.headers["Metadata-Flavor"], reply.data) == (200, "Google", b"computeMetadata/\n")
