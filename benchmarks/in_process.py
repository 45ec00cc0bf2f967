"""What a call of the host's own code costs, in its process and over loopback: `make bench`.

One process has the app, a server of it and the client, as a host has that calls its own endpoint; the upstream is
another process. A figure is the CPU time of the first one for a call, user and system, in microseconds: the median of
the rounds, in each of which both ways are measured, in another order each time. A ratio is the median of those within a
round.

With `--quick` there are few calls.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import uvicorn
import uvloop

from bud_asgi import Anthropic, ApiKeys, MessagesApp, hash_api_key, new_api_key

QUICK = "--quick" in sys.argv
ROUNDS = 2 if QUICK else 7
KEY = new_api_key()
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
KINDS: dict[str, tuple[dict[str, object], int]] = {
    "a small JSON message": ({"model": "claude-haiku-4-5", "max_tokens": 1024}, 20 if QUICK else 1000),
    "a stream of 500 events, flat out": (
        {"model": "claude-flat", "max_tokens": 500, "stream": True},
        5 if QUICK else 200,
    ),
    "a stream of 10 events, 50 a second": (
        {"model": "claude-paced", "max_tokens": 10, "stream": True},
        5 if QUICK else 100,
    ),
}
"""Fields of the body, and the number of calls in a round. Twenty run at a time."""


async def call(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    """Make one call and read its response to the end."""
    content = [{"role": "user", "content": "What is a monad?"}]
    async with client.stream("POST", "/v1/messages", json={**body, "messages": content}) as reply:
        assert reply.status_code == 200, reply.status_code
        async for _ in reply.aiter_raw():
            pass


async def cost(client: httpx2.AsyncClient, body: dict[str, object], count: int) -> float:
    """Microseconds of CPU time for a call, twenty at a time."""
    at_once = 20 if count >= 20 else 1
    began = time.process_time()
    for _ in range(count // at_once):
        await asyncio.gather(*(call(client, body) for _ in range(at_once)))
    return (time.process_time() - began) / count * 1e6


@asynccontextmanager
async def served(app: MessagesApp) -> AsyncGenerator[str]:
    """Serve the app with uvicorn in this event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, http="httptools"))
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await task


@asynccontextmanager
async def upstream() -> AsyncGenerator[str]:
    """Run the upstream in its process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (str(Path(__file__).with_name("upstream.py")), str(Path(folder, "ca.pem")))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        yield f"http://127.0.0.1:{(await process.stdout.readline()).decode().split()[0]}"
        process.terminate()
        await process.wait()


async def measure() -> None:
    """Measure all kinds of calls and print a Markdown table."""
    async with upstream() as url:
        providers = [Anthropic(api_key="sk-ant-upstream", base_url=url)]
        app = MessagesApp(auth=ApiKeys({"me": hash_api_key(KEY)}), providers=providers)
        transport = app.transport("me")
        in_process = httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=HEADERS)
        async with served(app) as own, in_process:
            loopback = httpx2.AsyncClient(base_url=own, headers=HEADERS, trust_env=False)
            async with loopback:
                print("\n| CPU µs a call | over loopback | in process | ratio: median (least-greatest) |")
                print("|---|---|---|---|")
                for name, (body, count) in KINDS.items():
                    print(await row(name, body, count, loopback, in_process))


async def row(
    name: str, body: dict[str, object], count: int, loopback: httpx2.AsyncClient, in_process: httpx2.AsyncClient
) -> str:
    """Measure one kind of call, as a row of the table."""
    figures: dict[httpx2.AsyncClient, list[float]] = {loopback: [], in_process: []}
    for number in range(ROUNDS + 1):  # the first one warms up
        for client in (loopback, in_process) if number % 2 else (in_process, loopback):
            figures[client].append(await cost(client, body, count))
    one, other = figures[loopback][1:], figures[in_process][1:]
    ratios = sorted(b / a for a, b in zip(one, other, strict=True))
    medians = f"{statistics.median(one):.0f} | {statistics.median(other):.0f}"
    return f"| {name} | {medians} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) |"


if __name__ == "__main__":
    uvloop.run(measure())
