"""Several workers and `limits show` on one store, a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, gateway_file, run, served
from support.calls import MODEL
from support.ports import free_port
from support.valkey import Valkey, valkey_server
from support.waiting import answers, wait_until

from bud_asgi.testing import StandIn

PASSWORD = "CANARY-of-the-store"
LIMITS = 'limits = [{ requests = 10, window = "1h" }]\n\n[store]\nurl = "env:STORE_URL"\ntimeout = "2s"\n'
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def valkey() -> Generator[Valkey]:
    with valkey_server("--requirepass", PASSWORD) as server:
        yield server


async def statuses(url: str, requests: int) -> Counter[int]:
    """The statuses of requests that are sent at once, each on a connection of its own."""
    no_reuse = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(headers=HEADERS, limits=no_reuse, timeout=20) as client:
        replies = await asyncio.gather(*[client.post(f"{url}/v1/messages", json=HELLO) for _ in range(requests)])
    return Counter(reply.status_code for reply in replies)


def test_workers_share_limits_in_a_store_and_their_use_is_shown(valkey: Valkey, tmp_path: Path) -> None:
    store = f"redis://:{PASSWORD}@127.0.0.1:{valkey.port}"
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url, LIMITS)
        port = str(free_port())
        command = [*BUD_ASGI, "serve", str(file), "--port", port, "--workers", "4"]
        with served(command, environment(STORE_URL=store)) as server:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/healthz"), "the server answers")
            assert asyncio.run(statuses(url, 40)) == {200: 10, 429: 30}
            assert len(upstream.requests) == 10
            shown = run("limits", "show", str(file), "me", "--json", STORE_URL=store)
            status, out, words = server.stop()
    assert status == 0, words
    assert (shown.returncode, shown.stderr) == (0, "")
    (standing,) = json.loads(shown.stdout)
    assert (standing["used"], standing["reserved"], standing["remaining"]) == (10, 0, 0)
    assert "CANARY" not in shown.stdout + out + words


def test_a_store_that_is_away_is_one_line_and_status_1(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=LIMITS)
    shown = run("limits", "show", str(file), STORE_URL=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"error: {file}: store: RedisStore('redis://127.0.0.1:")
    assert (shown.stderr.count("\n"), "CANARY" in shown.stderr) == (1, False)
