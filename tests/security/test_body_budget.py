"""Bodies are admitted before they are buffered: what callers upload cannot fill the memory of the process."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest
from support.calls import BODY, HEADERS, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway
from support.uploads import CHUNK, read_answer, stack, upload, upload_until_closed
from support.waiting import wait_until

from bud_asgi import ApiKeys, Limit, hash_api_key
from bud_asgi.clock import Timing
from bud_asgi.protocol.body import BodyReader
from bud_asgi.testing import StandIn, ThreadedStandIn, hang

OTHER = {**HEADERS, "x-api-key": "sk-bud-another-key"}
CHUNKED = {"transfer-encoding": "chunked"}
KEYS = ApiKeys({"me": hash_api_key(KEY), "other": hash_api_key(OTHER["x-api-key"])})
QUICK = Timing(tick=0.05, body_room=0.3, discard_within=0.5)
MB = 1 << 20


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(params=["stages", "middleware"])
def here(upstream: ThreadedStandIn, request: pytest.FixtureRequest) -> Generator[Gateway]:
    """At most 4 MB of bodies, 2 MB of them for each caller; as an app with stages, and as a stack of middleware."""
    options: dict[str, Any] = {"auth": KEYS} if request.param == "stages" else {"middleware": stack(KEYS)}
    sizes = {"max_body": 2 * MB, "body_budget": 4 * MB, "body_budget_per_principal": 2 * MB}
    with gateway(upstream.base_url, timing=QUICK, **sizes, **options) as one:
        yield one
        wait_until(lambda: held(one) == 0, "everything is given back")


def held(here: Gateway) -> int:
    return here.messages._revisions.current.bodies.held


def assert_overloaded(answer: tuple[int, bytes]) -> None:
    status, received = answer
    first, _, body = received.partition(b"\r\n\r\n")
    assert status == 529, received
    assert b"\r\nretry-after: 2" in first
    assert b"\r\nconnection: close" in first
    assert json.loads(body)["error"]["type"] == "overloaded_error"


def test_uploads_of_all_callers_together_stay_within_the_budget(here: Gateway) -> None:
    with ExitStack() as clients:
        for lines in [HEADERS, OTHER] * 4:
            peer = clients.enter_context(upload(here, {**lines, **CHUNKED}))
            for _ in range(16):
                peer.sendall(CHUNK)
        wait_until(lambda: held(here) > 3 * MB, "the budget is filling")
        with upload(here, {**OTHER, **CHUNKED}) as one_more:
            upload_until_closed(one_more)
            assert_overloaded(read_answer(one_more))
        assert held(here) <= 4 * MB


def test_a_caller_that_has_used_up_its_share_leaves_room_for_others(here: Gateway) -> None:
    with upload(here, CHUNKED) as first, upload(here, CHUNKED) as second:
        for peer in [first, second]:
            for _ in range(15):
                peer.sendall(CHUNK)
        wait_until(lambda: held(here) == 30 * 65536, "two bodies are held")
        assert here.post({"system": "x" * MB}).status_code == 529
        assert here.post({"system": "x" * MB}, headers=OTHER).status_code == 200


def test_a_declared_length_without_room_is_refused_before_a_byte_is_read(here: Gateway) -> None:
    with upload(here, CHUNKED, CHUNK * 8):
        wait_until(lambda: held(here) == 8 * 65536, "a body is held")
        with upload(here, {"content-length": str(2 * MB)}) as peer:
            assert_overloaded(read_answer(peer))


def test_a_request_waits_a_moment_for_room(here: Gateway) -> None:
    with upload(here, {"content-length": str(2 * MB)}) as waiting:
        with upload(here, CHUNKED, CHUNK * 8):
            wait_until(lambda: held(here) == 8 * 65536, "a body is held")
            padded = json.dumps({**BODY, "system": ""}).encode()
            waiting.sendall(padded.replace(b'""', b'"' + b"x" * (2 * MB - len(padded)) + b'"'))
        status, _ = read_answer_kept(waiting)
    assert status == 200


def read_answer_kept(peer: object) -> tuple[int, bytes]:
    received = b""
    while b"message" not in received:
        received += peer.recv(65536)  # type: ignore[attr-defined]
    return int(received.split(b" ", 2)[1]), received


def test_many_tiny_chunks_take_little_more_memory_than_their_bytes() -> None:
    reader = BodyReader(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(50_000):
            reader.feed(b"  ")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= peak < 300_000
    assert reader.finish() == b" " * 100_000


@pytest.mark.parametrize("end", ["answered", "invalid", "unknown path", "gone while uploading", "gone while waiting"])
def test_the_budget_is_given_back_on_every_path(here: Gateway, upstream: ThreadedStandIn, end: str) -> None:
    """The fixture checks that nothing is held at the end."""
    large = {**BODY, "system": "x" * MB}
    if end == "answered":
        assert here.post(large).status_code == 200
    elif end == "invalid":
        assert here.post({**large, "max_tokens": "x"}).status_code == 400
    elif end == "unknown path":
        with upload(here, CHUNKED, CHUNK, path="/v1/nothing") as peer:
            upload_until_closed(peer)
    elif end == "gone while uploading":
        with upload(here, CHUNKED, CHUNK * 4):
            wait_until(lambda: held(here) > 0, "a body is held")
    else:
        upstream.enqueue(hang())
        sent, before = json.dumps(large).encode(), len(upstream.requests)
        with upload(here, {"content-length": str(len(sent))}, sent):
            wait_until(lambda: len(upstream.requests) > before, "the upstream is called")
            assert held(here) > MB


def test_a_key_over_its_limit_is_refused_before_its_body_is_read(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url, auth=KEYS, limits=[Limit("requests", 1, 3600.0)], timing=QUICK) as here:
        assert here.post().status_code == 200
        with upload(here, CHUNKED, CHUNK) as peer:
            status, received = read_answer(peer)
        assert (status, b"rate_limit_error" in received, held(here)) == (429, True, 0)
        assert here.post(headers=OTHER).status_code == 200
        assert len(here.account().attempts) == 1
