"""Limits that do not depend on the body refuse a request before a byte of it is read."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from contextlib import suppress

import pytest
from support.limited import AwaitingStore, Limited, encoded, limited, lines, stopped
from support.uploads import CHUNK, read_answer, upload
from support.waiting import wait_until

from bud_asgi import Limit, MemoryStore
from bud_asgi.clock import Timing
from bud_asgi.testing import hang

TIMING = Timing(tick=0.02, discard_within=2.0, discard_silence=0.1)
STALLED = {"content-length": "30000000"}


@pytest.fixture(params=["memory", "a store that awaits"])
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(clock=stopped) if request.param == "memory" else AwaitingStore(clock=stopped)


@pytest.fixture(params=["requests", "concurrent"])
def here(request: pytest.FixtureRequest, store: MemoryStore) -> Generator[Limited]:
    """A gateway whose caller `ann` has used up its limit: of requests, or of concurrent ones, of which one runs."""
    limit = Limit("requests", 1, 3600.0) if request.param == "requests" else Limit("concurrent", 1)
    with limited(limit, store=store, timing=TIMING) as one:
        if request.param == "requests":
            assert one.post("ann").status_code == 200
            yield one
            return
        one.upstream.enqueue(hang())
        body = encoded()
        with one.began("ann", body):
            one.upstream.wait_requests()
            yield one


def assert_refused(here: Limited, received: bytes) -> None:
    envelope = json.loads(received.partition(b"\r\n\r\n")[2])
    assert envelope["error"]["type"] == "rate_limit_error"
    wait_until(lambda: any(one.refused_by for one in here.accounts("ann")), "the account of the refusal")
    account = next(one for one in here.accounts("ann") if one.refused_by)
    assert (account.outcome, account.status, account.read_request) == ("refused", 429, None)
    assert (account.upload.began, account.upload.size, account.attempts) == (0.0, 0, [])
    assert len(here.upstream.requests) == 1


def test_an_upload_that_stalls_is_refused_at_once(here: Limited) -> None:
    began = time.monotonic()
    with upload(here.here, {**lines("ann"), **STALLED}) as peer:
        assert peer.recv(65536).startswith(b"HTTP/1.1 429 ")
        assert time.monotonic() - began < 15
    with upload(here.here, {**lines("ann"), **STALLED}) as peer:
        status, received = read_answer(peer)
    assert status == 429
    assert_refused(here, received)


def test_an_upload_of_30_mb_is_refused_while_it_arrives(here: Limited) -> None:
    with upload(here.here, {**lines("ann"), "transfer-encoding": "chunked"}, CHUNK) as peer:
        received = peer.recv(65536)
        assert received.startswith(b"HTTP/1.1 429 ")
        with suppress(ConnectionError, TimeoutError):
            send_megabytes(peer, 30)
        with suppress(ConnectionError):
            received += peer.recv(65536)
    assert_refused(here, received)
    assert here.here.messages._revisions.current.bodies.held < 1000  # the request that runs


def send_megabytes(peer: socket.socket, number: int) -> None:
    peer.settimeout(3.0)
    for _ in range(16 * number):
        peer.sendall(CHUNK)


def test_another_caller_is_served(here: Limited) -> None:
    assert here.post("bob").status_code == 200


def test_an_invalid_body_is_answered_with_the_headers_of_the_limits_and_counts_as_no_request(
    store: MemoryStore,
) -> None:
    with limited(Limit("requests", 2, 3600.0), store=store) as one:
        refused = [one.post("ann", b"{}") for _ in range(5)]
        assert one.post("ann").status_code == 200
    for reply in refused:
        assert (reply.status_code, reply.headers["anthropic-ratelimit-requests-remaining"]) == (400, "1")
