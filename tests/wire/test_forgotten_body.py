"""An open stream keeps nothing of its request: a body of megabytes is let go of when the answer begins."""

from __future__ import annotations

import json
import socket
import tracemalloc
from collections.abc import Generator

import httpx
import pytest
from support.calls import BODY, KEY, UPSTREAM_KEY
from support.gateway import gateway, provider
from support.waiting import wait_until

from bud_asgi import Route, Target
from bud_asgi.http import Timeouts
from bud_asgi.testing import StandIn, hang_mid_event, late

SIZE = 8 << 20
SENT = json.dumps({**BODY, "stream": True, "system": "x" * SIZE}).encode()
HEAD = (
    b"POST /llm/v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: %b\r\nanthropic-version: 2023-06-01\r\n"
    b"content-length: %d\r\n\r\n"
) % (KEY.encode(), len(SENT))
MAPPED = [Route("*", to=[Target("anthropic", "claude-opus-5")])]


@pytest.fixture
def traced() -> Generator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def kept() -> int:
    """Bytes of whole request bodies that are in memory: where they are put together, they are counted."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/protocol/body.py")])
    return sum(trace.size for trace in snapshot.traces)


@pytest.mark.parametrize("routes", [None, MAPPED], ids=["as is", "mapped"])
@pytest.mark.usefixtures("traced")
def test_the_body_is_let_go_of_when_the_answer_begins(routes: list[Route] | None) -> None:
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as upstream:
        upstream.enqueue(late(0.3, hang_mid_event()))
        slow = provider(upstream.base_url, timeouts=Timeouts(2.0, 60.0, 60.0))
        with gateway("", providers=[slow], routes=routes) as here:
            where = httpx.URL(here.host_url)
            with socket.create_connection((where.host, where.port or 80), timeout=10) as client:
                client.sendall(HEAD + SENT)
                upstream.wait_requests(timeout=20)
                assert kept() >= SIZE
                received = b""
                while b"content_block_delta" not in received:
                    received += client.recv(65536)
                wait_until(lambda: kept() < 100_000, "the body is gone")
            assert here.account().outcome == "client_gone"
            assert here.account().account_state == set()
