"""Two gateways in processes of their own on one key store, while keys are created, used, rotated, disabled, deleted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from support.calls import BODY, UPSTREAM_KEY
from support.counts import count
from support.waiting import until_true

from auth.keys.keys_server import FRESH
from bud_asgi.auth import KeyAdmin, SqlKeyStore, new_api_key
from bud_asgi.testing import StandIn

SLACK = 30.0
"""Seconds that a change may take beyond the time for which a result is used: the machine may be busy."""


@contextmanager
def gateways(store: str, upstream: str, number: int = 2) -> Generator[Sequence[str]]:
    """Serve a store by several processes; yields their URLs."""
    command = [sys.executable, "-m", "auth.keys.keys_server", store, upstream]
    folder = Path(__file__).parents[2]
    with ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []
        for _ in range(number):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
            running.append(stack.enter_context(process))
            stack.callback(process.kill)
        urls: list[str] = []
        for process in running:
            assert process.stdout is not None
            urls.append(process.stdout.readline().strip())
        yield urls
        for process in running:
            process.terminate()
        assert [process.wait(30) for process in running] == [0] * number


class Clients:
    """Clients of the gateways, and how often each status came back."""

    def __init__(self, urls: Sequence[str], http: httpx.AsyncClient) -> None:
        self._urls = urls
        self._http = http
        self.statuses: Counter[int] = Counter()

    async def call(self, key: str) -> Sequence[int]:
        """One request to each gateway: their statuses."""
        calls = [self._http.post(f"{url}/v1/messages", json=BODY, headers=_headers(key)) for url in self._urls]
        found = [reply.status_code for reply in await asyncio.gather(*calls)]
        self.statuses.update(found)
        return found

    async def until_all(self, key: str, status: int) -> None:
        """Call until all gateways answer with a status. They must do so within the time, and go on to."""
        began = time.monotonic()
        await until_true(lambda: self._answers(key, status), FRESH + SLACK)
        assert time.monotonic() - began < FRESH + SLACK
        assert await self.call(key) == [status] * len(self._urls)

    async def _answers(self, key: str, status: int) -> bool:
        return await self.call(key) == [status] * len(self._urls)


def _headers(key: str) -> dict[str, str]:
    return {"x-api-key": key, "anthropic-version": "2023-06-01"}


async def live(name: str, admin: KeyAdmin, clients: Clients) -> None:
    """The life of one key. Each change is followed by both gateways."""
    both = [200, 200]
    key = (await admin.create(name)).key.reveal()
    assert await clients.call(key) == both
    new = (await admin.rotate(name, overlap=timedelta(hours=1))).key.reveal()
    assert [await clients.call(key), await clients.call(new)] == [both, both]
    await admin.disable(name)
    await asyncio.gather(clients.until_all(key, 401), clients.until_all(new, 401))
    await admin.enable(name)
    await asyncio.gather(clients.until_all(key, 200), clients.until_all(new, 200))
    last = (await admin.rotate(name, overlap=timedelta(0))).key.reveal()
    await clients.until_all(key, 401)
    await clients.until_all(new, 401)
    assert await clients.call(last) == both
    await until_true(lambda: _was_used(admin, name))
    await admin.delete(name)
    await clients.until_all(last, 401)


async def _was_used(admin: KeyAdmin, name: str) -> bool:
    return (await admin.get(name)).last_used is not None


async def go_on(calls: Callable[[], Awaitable[Sequence[int]]], expected: int, done: asyncio.Event) -> int:
    """Call until all is done; every status must be the same. Returns how many calls that were."""
    number = 0
    while not done.is_set():
        assert await calls() == [expected, expected]
        number += 1
        await asyncio.sleep(0.1)
    return number


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_processes_follow_the_changes_of_keys(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    is_file = kind == "sqlite"
    url = f"sqlite:{tmp_path}/keys.db" if is_file else request.getfixturevalue("postgres_server").new_database()
    store = SqlKeyStore(url, timeout=10.0)
    await store.migrate()
    admin, done = KeyAdmin(store), asyncio.Event()
    steady, unknown = (await admin.create("steady")).key.reveal(), new_api_key()
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream, gateways(url, upstream.base_url) as urls:
        async with httpx.AsyncClient(timeout=30) as http:
            clients = Clients(urls, http)
            always = [
                asyncio.create_task(go_on(lambda: clients.call(steady), 200, done)),
                asyncio.create_task(go_on(lambda: clients.call(unknown), 401, done)),
            ]
            await asyncio.gather(*(live(f"key-{number}", admin, clients) for number in range(count(3, 40))))
            done.set()
            assert min(await asyncio.gather(*always)) > 1
    assert clients.statuses.keys() == {200, 401}
    assert [key.name for key in await store.all()] == ["steady"]
    await store.aclose()
