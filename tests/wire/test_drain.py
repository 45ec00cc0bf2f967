"""Shutting down: new requests are refused, running ones may finish, cut ones end with an error, all are settled."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute
from support.calls import BODY, HEADERS
from support.gateway import PATIENT, messages_app, provider
from support.serving import serving
from support.waiting import wait_until

from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, hang, hang_mid_event, text

STREAM = {**BODY, "stream": True}


class Draining:
    """A host with a route that calls `drain`, as one that knows of a shutdown early would."""

    def __init__(self, upstream_url: str, seconds: float) -> None:
        self.outcomes: list[str | None] = []
        slow = provider(upstream_url, timeouts=PATIENT)

        async def settled(exchange: Any) -> None:
            await asyncio.sleep(0.05)
            self.outcomes.append(exchange.outcome)

        async def drain(_request: Request) -> PlainTextResponse:
            await messages.drain(seconds)
            return PlainTextResponse(str(len(self.outcomes)))

        messages = messages_app("", providers=[slow], on_settled=settled)
        self.host = Starlette(routes=[HostRoute("/drain", drain)])
        messages.install(self.host, "/llm")


@contextmanager
def streaming(url: str) -> Generator[dict[str, bytes]]:
    """A client in a thread that reads a stream to its end."""
    got: dict[str, bytes] = {"body": b""}

    def read() -> None:
        with httpx.stream("POST", f"{url}/llm/v1/messages", headers=HEADERS, json=STREAM, timeout=30) as reply:
            for chunk in reply.iter_raw():
                got["body"] += chunk

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: b"content_block" in got["body"], "the stream has begun")
    yield got
    thread.join(30)
    assert not thread.is_alive()


def test_new_requests_are_refused_and_running_ones_end(upstream: ThreadedStandIn) -> None:
    upstream.enqueue(text("one two three four five six seven eight", delay=0.1))
    draining = Draining(upstream.base_url, 10.0)
    with serving(draining.host) as url, ThreadPoolExecutor() as pool:
        assert httpx.get(f"{url}/llm/readyz").status_code == 200
        with streaming(url) as got:
            drained = pool.submit(httpx.get, f"{url}/drain", timeout=30)
            wait_until(lambda: httpx.get(f"{url}/llm/readyz").status_code == 503, "readiness is false")
            assert httpx.get(f"{url}/llm/healthz").status_code == 200
            refused = httpx.post(f"{url}/llm/v1/messages", headers=HEADERS, json=BODY)
            assert refused.status_code == 529
            assert refused.json()["error"] == {"type": "overloaded_error", "message": "The gateway is shutting down."}
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["connection"] == "close"
            assert httpx.get(f"{url}/llm/nothing").status_code == 404
        assert b"message_stop" in got["body"]
        assert b"event: error" not in got["body"]
        assert int(drained.result().text) >= 2  # settled before drain returned


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_what_outlives_the_deadline_is_ended_with_an_error(upstream: ThreadedStandIn, stream: bool) -> None:
    upstream.always(hang_mid_event() if stream else hang())
    draining = Draining(upstream.base_url, 0.3)
    with serving(draining.host) as url, ThreadPoolExecutor() as pool:
        if stream:
            with streaming(url) as got:
                began = time.monotonic()
                assert httpx.get(f"{url}/drain", timeout=30).text == "1"
                assert time.monotonic() - began < 15
            assert got["body"].count(b"event: error\n") == 1
            assert got["body"].endswith(b"\n\n")
            assert b"The gateway is shutting down." in got["body"]
        else:
            waiting = pool.submit(httpx.post, f"{url}/llm/v1/messages", headers=HEADERS, json=BODY, timeout=30)
            upstream.wait_requests()
            httpx.get(f"{url}/drain", timeout=30)
            assert waiting.result().status_code == 529
        upstream.wait_aborted(30.0)


def test_a_complete_stream_gets_no_error_although_its_upstream_stays_open(upstream: ThreadedStandIn) -> None:
    upstream.enqueue(Reply(body=text("Hello").body, end="hang"))
    with serving(Draining(upstream.base_url, 0.3).host) as url, streaming(url) as got:
        wait_until(lambda: b"event: message_stop" in got["body"], "the stream is complete")
        assert httpx.get(f"{url}/drain", timeout=30).text == "1"
    assert b"event: error" not in got["body"]


SERVER = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from bud_asgi import Anonymous, Anthropic, MessagesApp

async def pass_on(request, call_next):
    return await call_next(request)

url, grace, below = sys.argv[1:]
messages = MessagesApp(auth=Anonymous(), providers=[Anthropic(api_key="k", base_url=url)], drain_timeout=float(grace))
app = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)] if below == "below" else [])
messages.install(app, "/llm", final_error_event=below == "below")
uvicorn.run(app, port=0, timeout_graceful_shutdown=int(grace), log_level="info")
"""


@contextmanager
def server_process(upstream_url: str, grace: int, *, below: bool, tmp_path: Path) -> Generator[tuple[Any, str]]:
    """A uvicorn of its own, so that it gets a real SIGTERM."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    command = [sys.executable, str(script), upstream_url, str(grace), "below" if below else "plain"]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stderr=log, cwd=Path.cwd())
    try:

        def address() -> str:
            words = (tmp_path / "log").read_text().partition("running on ")[2].split()
            return words[0] if words else ""

        wait_until(lambda: bool(address()), "the server listens")
        yield process, address()
    finally:
        process.kill()
        process.wait()
        log.close()


async def read_stream(client: httpx.AsyncClient, url: str, begun: asyncio.Queue[None]) -> bytes:
    got = b""
    async with client.stream("POST", f"{url}/llm/v1/messages", headers=HEADERS, json=STREAM) as reply:
        async for chunk in reply.aiter_raw():
            if not got:
                begun.put_nowait(None)
            got += chunk
    return got


async def terminate_under(process: Any, url: str, streams: int) -> list[bytes]:
    """Begin so many streams, send SIGTERM, and return what each of them got."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(timeout=40, limits=limits) as client:
        tasks = [asyncio.create_task(read_stream(client, url, begun)) for _ in range(streams)]
        for _ in range(streams):
            await asyncio.wait_for(begun.get(), 20)
        process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*tasks)


async def test_200_streams_survive_a_sigterm_within_the_grace(tmp_path: Path) -> None:
    async with StandIn(api_key="k") as upstream:
        upstream.always(text("word " * 30, delay=0.1))
        with server_process(upstream.base_url, 20, below=False, tmp_path=tmp_path) as (process, url):
            bodies = await terminate_under(process, url, 200)
            assert sum(b"message_stop" in body and b"event: error" not in body for body in bodies) == 200
            await asyncio.to_thread(process.wait, 10)
            assert process.returncode in {0, -signal.SIGTERM}


@pytest.mark.parametrize("below", [False, True], ids=["plain host", "below BaseHTTPMiddleware"])
async def test_past_the_grace_no_stream_is_cut_silently(tmp_path: Path, below: bool) -> None:
    async with StandIn(api_key="k") as upstream:
        upstream.always(hang_mid_event())
        with server_process(upstream.base_url, 1, below=below, tmp_path=tmp_path) as (process, url):
            bodies = await terminate_under(process, url, 20)
            for body in bodies:
                assert body.count(b"event: error\n") == 1
                assert body.endswith(b"\n\n")
            await asyncio.to_thread(process.wait, 10)
