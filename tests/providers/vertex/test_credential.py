"""Google's access tokens as a credential: when one is fetched, how often, and which requests wait for it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.waiting import until

from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.providers.vertex.credential import THREAD_NAME, GoogleCredential
from bud_asgi.testing import hang, late
from bud_asgi.testing.google import CLOUD_PLATFORM
from providers.google_stage import REQUEST, Served, applied, bearer, google_served


@pytest.fixture
def served() -> Generator[Served]:
    with google_served() as one:
        yield one
        assert one.stand_in.refused == []


def slowly(served: Served, seconds: float = 0.2) -> None:
    """The next token takes its time."""
    served.stand_in.enqueue(lambda received: late(seconds, served.google.answer(received)))


async def until_refreshed(credential: GoogleCredential, old: str) -> None:
    async with asyncio.timeout(30):
        while await bearer(credential) == old:  # noqa: ASYNC110 - a thread fetches it
            await asyncio.sleep(0.01)


class Clock:
    """The wall clock, `ahead` seconds later."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_request_gets_a_token(served: Served) -> None:
    credential = served.credential()
    assert credential.is_operators
    assert await applied(credential) == {"authorization": f"Bearer {served.issued[0]}"}
    token = served.google.tokens.issued[0]
    assert (token.principal, token.scopes) == (served.google.account.email, (CLOUD_PLATFORM,))


async def test_a_quota_project_travels_along(served: Served) -> None:
    headers = await applied(served.credential(quota_project="example.com:billing"))
    assert headers["x-goog-user-project"] == "example.com:billing"


async def test_first_requests_share_one_fetch(served: Served) -> None:
    credential = served.credential()
    assert await asyncio.gather(*(bearer(credential) for _ in range(50))) == served.issued * 50
    assert {await bearer(credential) for _ in range(5)} == set(served.issued)
    assert len(served.stand_in.requests) == 1


async def test_loops_share_one_fetch(served: Served) -> None:
    slowly(served, 0.3)
    credential = served.credential()

    async def several() -> list[str]:
        return await asyncio.gather(*(bearer(credential) for _ in range(5)))

    with ThreadPoolExecutor(8) as pool:
        runs = [asyncio.get_running_loop().run_in_executor(pool, asyncio.run, several()) for _ in range(8)]
        tokens = [token for run in runs for token in await run]
    assert tokens == served.issued * 40
    assert len(served.stand_in.requests) == 1


async def test_a_token_near_its_end_is_used_while_another_is_fetched(served: Served) -> None:
    clock = Clock()
    credential = served.credential(timing=RefreshTiming(clock=clock))
    first = await bearer(credential)
    clock.ahead = 2800
    slowly(served, 1)
    for _ in range(20):
        with pytest.raises(StopIteration):
            credential.apply(REQUEST, {}).send(None)  # without waiting
    assert await bearer(credential) == first
    await until(lambda: len(served.issued) >= 2)
    await until_refreshed(credential, first)
    assert [first, await bearer(credential)] == served.issued
    assert len(served.stand_in.requests) == 2


async def test_a_token_at_its_end_is_not_used(served: Served) -> None:
    clock = Clock()
    credential = served.credential(timing=RefreshTiming(clock=clock))
    first = await bearer(credential)
    clock.ahead = 3596
    served.google.lifetime = 7200
    second = set(await asyncio.gather(*(bearer(credential) for _ in range(20))))
    assert [first, *second] == served.issued
    assert len(served.stand_in.requests) == 2


async def test_callers_share_one_refresh(served: Served) -> None:
    credential = served.credential()
    sent = await credential.apply(REQUEST, {})
    first = await bearer(credential)
    assert await asyncio.gather(*(credential.refresh(sent) for _ in range(20))) == [True] * 20
    assert [first, await bearer(credential)] == served.issued
    assert len(served.stand_in.requests) == 2


async def test_a_cancelled_request_does_not_disturb_the_others(served: Served) -> None:
    slowly(served, 1.0)
    credential = served.credential()
    waiting = [asyncio.create_task(bearer(credential)) for _ in range(10)]
    await asyncio.to_thread(served.stand_in.wait_requests)
    for task in waiting[:9]:
        task.cancel()
    assert await waiting[9] == served.issued[0]
    assert [task.cancelled() for task in waiting[:9]] == [True] * 9
    assert len(served.stand_in.requests) == 1


async def test_a_loop_that_ends_leaves_nothing(served: Served) -> None:
    slowly(served)
    credential = served.credential()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bearer(credential)

    await asyncio.to_thread(asyncio.run, give_up())
    assert await bearer(credential) == served.issued[0]
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(30)
            assert not thread.is_alive()
    assert len(served.stand_in.requests) == 1


async def test_the_loop_runs_on_while_a_token_is_fetched(served: Served) -> None:
    slowly(served, 0.8)
    turns = 0
    fetch = asyncio.create_task(bearer(served.credential()))
    while not fetch.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 5
    assert await fetch == served.issued[0]


async def test_nothing_shows_a_token(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    credential = served.credential()
    first = await bearer(credential)
    assert await credential.refresh(await credential.apply(REQUEST, {}))
    second = await bearer(credential)
    request = await credential.apply(REQUEST, {})
    for shown in (repr(credential), str(credential), repr(await credential._fetch()), repr(request), caplog.text):
        assert "ya29" not in shown
        assert "PRIVATE KEY" not in shown
    assert credential.redact(f"no {first}, no {second}!") == "no [secret], no [secret]!"
    assert credential.redact("nothing") == "nothing"


def test_google_auth_is_loaded_on_first_use() -> None:
    program = (
        "import sys, bud_asgi.providers.vertex.credential as google\n"
        "google.GoogleCredential(quota_project='p')\n"
        "sys.exit(any(name.startswith(('google.auth', 'cryptography', 'requests')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=110).returncode == 0


EXIT = """
import asyncio, json, os, socket, sys, time
from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers.vertex.credential import GoogleCredential

async def main():
    credential = GoogleCredential(service_account_info=json.loads(os.environ["KEY"]))
    task = asyncio.create_task(credential.apply(HttpRequest(Origin("127.0.0.1", 1), b"POST", b"/", ()), {}))
    await asyncio.to_thread(sys.stdin.read, 1)

asyncio.run(main())
print(time.monotonic())
"""


def test_a_process_ends_whatever_the_token_endpoint_does(served: Served) -> None:
    served.stand_in.enqueue(hang())
    environment = {**os.environ, "KEY": json.dumps(served.key())}
    with subprocess.Popen(
        [sys.executable, "-c", EXIT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        served.stand_in.wait_requests(1, timeout=30)
        said, _ = program.communicate("x", timeout=30)
        assert time.monotonic() - float(said) < 20
    assert program.returncode == 0
