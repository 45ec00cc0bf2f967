"""The host's own routes stay fast while streams run through the mounted app."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import httpx
import pytest
from hosting_kit import Streams, server_process, web
from support.calls import UPSTREAM_KEY

from bud_asgi.testing import StandIn, text

BLOCKED = 250.0
"""Milliseconds: far more than a request takes on a busy machine, and less than if streams blocked the event loop."""


def _times(url: str, count: int) -> list[float]:
    """Milliseconds for each of `count` requests to the host's own route."""
    times: list[float] = []
    with httpx.Client(verify=False, trust_env=False, base_url=url) as client:
        client.get("/own")
        for _ in range(count):
            began = time.perf_counter()
            assert client.get("/own").status_code == 200
            times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
    return times


def test_the_hosts_own_route_is_fast_while_50_streams_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["uvicorn", "served_host:app", "--port={port}", "--no-access-log"]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.always(text("word " * 2000, delay=0.05))  # 100 seconds
        with server_process(command, tmp_path, {"HOST_UPSTREAM": upstream.base_url}) as server:
            idle = statistics.median(_times(server.url, 30))
            streams = Streams(f"{server.url}/llm", 50)
            busy = statistics.median(_times(server.url, 30))
            web.post(f"{server.url}/drain")
            streams.join()
    assert streams.ended_by_error == 50  # all were running until the drain
    with capsys.disabled():
        print(f"\nthe host's own route: {idle:.1f} ms idle, {busy:.1f} ms while 50 streams run")  # noqa: T201
    assert busy < BLOCKED
