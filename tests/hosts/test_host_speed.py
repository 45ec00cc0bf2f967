"""While many streams run through the guest, the host's own routes are answered as fast as before, nearly."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import httpx
import pytest
from hosting_kit import UPSTREAM_KEY, Streams, server_process

from bud_asgi.testing import StandIn, text


def _times(url: str, count: int) -> list[float]:
    """Milliseconds for each of so many requests to the host's own route."""
    times: list[float] = []
    with httpx.Client(verify=False, trust_env=False, base_url=url) as client:
        client.get("/own")
        for _ in range(count):
            began = time.perf_counter()
            assert client.get("/own").status_code == 200
            times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
    return times


def test_the_hosts_own_route_is_answered_while_50_streams_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["uvicorn", "served_host:app", "--port={port}", "--no-access-log"]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.always(text("word " * 12, delay=0.05))
        with server_process(command, tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
            quiet = statistics.median(_times(server.url, 30))
            streams = Streams(f"{server.url}/llm", 50)
            busy = statistics.median(_times(server.url, 30))
            assert streams.whole < 50  # they ran all the while
            streams.join()
    assert streams.whole == 50
    with capsys.disabled():
        print(f"\nthe host's own route: {quiet:.1f} ms quiet, {busy:.1f} ms while 50 streams run")  # noqa: T201
    assert busy < 50
