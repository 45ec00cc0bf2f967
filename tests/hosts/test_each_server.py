"""Under each server: what a caller gets, what happens when it leaves, and what a SIGTERM does to running streams."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hosting_kit import (
    BODY,
    HEADERS,
    STREAM,
    UPSTREAM_KEY,
    Arrivals,
    ServerProcess,
    Streams,
    ask,
    seconds_until_upstream_ends,
    server_process,
    slow_stream,
    wait_until,
    web,
)

from bud_asgi.testing import StandIn, ThreadedStandIn, hang, hang_mid_event, text

MANY = 200 if os.environ.get("BUD_ASGI_TORTURE") else 50

UVICORN = ["uvicorn", "served_host:app", "--port={port}", "--no-access-log"]
SERVERS: dict[str, tuple[list[str], str]] = {
    "uvicorn, uvloop and httptools": ([*UVICORN, "--loop=uvloop", "--http=httptools"], "--timeout-graceful-shutdown"),
    "uvicorn, asyncio and h11": ([*UVICORN, "--loop=asyncio", "--http=h11"], "--timeout-graceful-shutdown"),
    "granian": (["granian", "--interface=asgi", "served_host:app", "--port={port}"], "--workers-kill-timeout"),
    "hypercorn": (["hypercorn", "served_host:app", "--bind=127.0.0.1:{port}"], "--graceful-timeout"),
}
"""By name: the command, and its option for the seconds of grace."""

CANCELLING = ["uvicorn, asyncio and h11", "hypercorn"]
"""The servers that cancel what runs at the end of their grace; the other pair of uvicorn's is in tests/wire."""


def command(name: str, grace: int | None = None) -> Sequence[str]:
    words, option = SERVERS[name]
    return words if grace is None else [*words, f"{option}={grace}"]


class Served:
    """A server, and the upstream behind it."""

    def __init__(self, server: ServerProcess, upstream: ThreadedStandIn) -> None:
        self.server = server
        self.upstream = upstream
        self.below = f"{server.url}/llm"

    def outcomes(self) -> list[str | None]:
        """How the requests so far were settled."""
        return web.get(f"{self.server.url}/own").json()


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module", params=SERVERS.keys())
def served(
    request: pytest.FixtureRequest, upstream: ThreadedStandIn, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Served]:
    directory = tmp_path_factory.mktemp("server")
    with server_process(command(request.param), directory, {"HOST_UPSTREAM": upstream.base_url}) as server:
        yield Served(server, upstream)


def test_a_message_is_answered(served: Served) -> None:
    assert ask(served.below).json()["type"] == "message"


def test_a_stream_arrives_event_by_event(served: Served) -> None:
    served.upstream.enqueue(slow_stream())
    Arrivals(served.below).assert_event_by_event()


def test_a_body_that_is_too_large_gets_a_413_that_the_client_can_read(served: Served) -> None:
    reply = web.post(f"{served.below}/v1/messages", headers=HEADERS, content=b"x" * (33 << 20))
    assert reply.status_code == 413
    assert reply.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("reply", "body", "seen"),
    [
        (hang(), BODY, b""),
        (hang_mid_event(), STREAM, b"content_block_delta"),
        (text("w " * 200, delay=0.03), STREAM, b"content_block_delta"),
    ],
    ids=["while upstream is silent", "in a stream that has stalled", "in a stream that flows"],
)
def test_a_client_that_leaves_ends_the_upstream_call_within_a_second(
    served: Served, reply: Any, body: Any, seen: bytes
) -> None:
    settled = len(served.outcomes())
    assert seconds_until_upstream_ends(served.below, served.upstream, reply, body, seen) < 1.0
    wait_until(lambda: len(served.outcomes()) == settled + 1, "it is settled")
    assert served.outcomes()[-1] == "client_gone"


@pytest.mark.parametrize("name", [name for name in SERVERS if "uvloop" not in name])
def test_within_the_grace_a_sigterm_loses_no_stream(name: str, upstream: ThreadedStandIn, tmp_path: Path) -> None:
    upstream.always(text("word " * 6, delay=0.05))
    with server_process(command(name, 20), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", MANY)
        told = server.terminate()
        streams.join()
        server.wait()
        assert time.monotonic() - told < 5
    assert streams.failures == []
    assert streams.whole == MANY


@pytest.mark.parametrize("name", CANCELLING)
def test_past_the_grace_a_server_that_cancels_lets_each_stream_say_so(
    name: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(hang_mid_event())
    with server_process(command(name, 1), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        plain, heard, mute = (Streams(f"{server.url}{before}/llm", 10) for before in ("", "/heard", "/mute"))
        told = server.terminate()
        for streams in (plain, heard, mute):
            streams.join()
        server.wait()
        assert 0.9 < time.monotonic() - told < 4
    assert plain.failures == heard.failures == []
    assert plain.told == heard.told == 10
    # below BaseHTTPMiddleware and without final_error_event nothing can be said: the client's HTTP library raises
    assert mute.told == 0
    assert len(mute.failures) == 10


def test_past_its_grace_granian_kills_and_nobody_can_say_so(upstream: ThreadedStandIn, tmp_path: Path) -> None:
    upstream.always(hang_mid_event())
    with server_process(command("granian", 1), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", 5)
        server.terminate()
        streams.join()
        server.wait()
    assert streams.told == 0
    assert len(streams.failures) == 5


def test_a_host_that_drains_before_granian_is_told_to_stop_cuts_no_stream_silently(
    upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(hang_mid_event())
    with server_process(command("granian", 5), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", 20)
        outcomes = web.post(f"{server.url}/drain").json()
        assert outcomes == ["cancelled"] * 20
        assert web.get(f"{server.url}/llm/readyz").status_code == 503
        assert ask(f"{server.url}/llm").status_code == 529
        streams.join()
        told = server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - told < 2
    assert streams.failures == []
    assert streams.told == 20
