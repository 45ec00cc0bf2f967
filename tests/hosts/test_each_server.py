"""Each server: replies, disconnects of the client, and what a SIGTERM does to running streams."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hosting_kit import (
    HERE,
    LONG,
    STREAM,
    TESTS,
    ServerProcess,
    Streams,
    assert_disconnect_ends_upstream_request,
    assert_streams_event_by_event,
    post,
    server_process,
    web,
)
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.waiting import wait_until
from test_pages import DOCS, blocks

from bud_asgi.testing import StandIn, ThreadedStandIn, hang, hang_mid_event, text

MANY = 200 if os.environ.get("BUD_ASGI_TORTURE") else 50

UVICORN = ["uvicorn", "served_host:app", "--port={port}", "--no-access-log"]
SERVERS: dict[str, tuple[list[str], str]] = {
    "uvicorn, uvloop and httptools": ([*UVICORN, "--loop=uvloop", "--http=httptools"], "--timeout-graceful-shutdown"),
    "uvicorn, asyncio and h11": ([*UVICORN, "--loop=asyncio", "--http=h11"], "--timeout-graceful-shutdown"),
    "granian": (["granian", "--interface=asgi", "served_host:app", "--port={port}"], "--workers-kill-timeout"),
    "gunicorn": (["gunicorn", "served_host:app", "--bind=127.0.0.1:{port}", "-k=asgi"], "--graceful-timeout"),
    "hypercorn": (["hypercorn", "served_host:app", "--bind=127.0.0.1:{port}"], "--graceful-timeout"),
}
"""By name: the command, and its option for the grace period in seconds."""

CANCELLING = ["uvicorn, asyncio and h11", "hypercorn"]
"""The servers that cancel running requests at the end of the grace period. tests/wire has uvicorn with uvloop."""


def command(name: str, grace: int | None = None) -> Sequence[str]:
    words, option = SERVERS[name]
    return words if grace is None else [*words, f"{option}={grace}"]


class Served:
    """A running server and its upstream."""

    def __init__(self, server: ServerProcess, upstream: ThreadedStandIn) -> None:
        self.server = server
        self.upstream = upstream
        self.base_url = f"{server.url}/llm"

    def outcomes(self) -> list[str | None]:
        """The outcomes of the requests settled so far."""
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
    assert post(served.base_url).json()["type"] == "message"


def test_a_stream_arrives_event_by_event(served: Served) -> None:
    assert_streams_event_by_event(served.base_url, served.upstream)


def test_a_body_that_is_too_large_gets_a_413_that_the_client_can_read(served: Served) -> None:
    reply = web.post(f"{served.base_url}/v1/messages", headers=HEADERS, content=b"x" * (33 << 20))
    assert reply.status_code == 413
    assert reply.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    ("reply", "body", "after"),
    [
        (hang(), BODY, b""),
        (hang_mid_event(), STREAM, b"content_block_delta"),
        (text("w " * 200, delay=0.03), STREAM, b"content_block_delta"),
    ],
    ids=["while the upstream is silent", "in a stalled stream", "in a running stream"],
)
def test_a_client_that_disconnects_ends_the_upstream_request(
    served: Served, reply: Any, body: Any, after: bytes
) -> None:
    before = served.outcomes().count("client_gone")
    assert_disconnect_ends_upstream_request(served.base_url, served.upstream, reply, body, after)
    wait_until(lambda: served.outcomes().count("client_gone") == before + 1, "the request is settled", LONG)


@pytest.mark.parametrize("name", [name for name in SERVERS if "uvloop" not in name])
def test_a_sigterm_loses_no_stream_within_the_grace_period(
    name: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(text("word " * 6, delay=0.05))
    with server_process(command(name, 30), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", MANY)
        stopped = server.terminate()
        streams.join()
        server.wait()
        assert time.monotonic() - stopped < 25  # it does not wait until the end of the grace period
    assert streams.failures == []
    assert streams.complete == MANY


@pytest.mark.parametrize("name", CANCELLING)
def test_a_server_that_cancels_at_the_end_of_the_grace_period_lets_each_stream_end_with_an_error_event(
    name: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(hang_mid_event())
    with server_process(command(name, 1), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        plain, final, base = (Streams(f"{server.url}{before}/llm", 10) for before in ("", "/final", "/base"))
        stopped = server.terminate()
        for streams in (plain, final, base):
            streams.join()
        server.wait()
        assert time.monotonic() - stopped > 0.9
    assert plain.failures == final.failures == []
    assert plain.ended_by_error == final.ended_by_error == 10
    # Below a BaseHTTPMiddleware and without final_error_event, the responses break off.
    assert base.ended_by_error == 0
    assert len(base.failures) == 10


@pytest.mark.parametrize("name", ["granian", "gunicorn"])
def test_a_server_that_kills_at_the_end_of_the_grace_period_lets_streams_break_off(
    name: str, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(hang_mid_event())
    with server_process(command(name, 1), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", 5)
        server.terminate()
        streams.join()
        server.wait()
    assert streams.ended_by_error == 0
    assert len(streams.failures) == 5


def test_a_worker_of_gunicorns_that_knows_the_grace_period_lets_each_stream_end_with_an_error_event(
    upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    (program,) = (text for text in blocks(DOCS / "servers" / "gunicorn.md", "python") if "# worker.py" in text)
    (tmp_path / "worker.py").write_text(
        program.replace('"timeout_graceful_shutdown": 50', '"timeout_graceful_shutdown": 1')
    )
    words = ["gunicorn", "served_host:app", "--bind=127.0.0.1:{port}", "-k=worker.Worker", "--graceful-timeout=20"]
    environment = {"HOST_UPSTREAM": upstream.base_url, "PYTHONPATH": f"{tmp_path}:{HERE}:{TESTS}"}
    upstream.always(hang_mid_event())
    with server_process(words, tmp_path, environment) as server:
        streams = Streams(f"{server.url}/llm", 10)
        stopped = server.terminate()
        streams.join()
        server.wait()
        assert time.monotonic() - stopped < 15
    assert streams.failures == []
    assert streams.ended_by_error == 10


def test_after_a_drain_granian_stops_at_once_and_each_stream_has_ended_with_an_error_event(
    upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(hang_mid_event())
    with server_process(command("granian", 30), tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
        streams = Streams(f"{server.url}/llm", 20)
        outcomes = web.post(f"{server.url}/drain").json()
        assert outcomes == ["cancelled"] * 20
        assert web.get(f"{server.url}/llm/readyz").status_code == 503
        assert post(f"{server.url}/llm").status_code == 529
        streams.join()
        server.terminate()
        assert server.wait() == 0
    assert streams.failures == []
    assert streams.ended_by_error == 20
