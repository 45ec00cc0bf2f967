"""What the tests of hosts and servers share: a caller, a stream with its arrival times, a client that leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bud_asgi import Anthropic, ApiKeys, MessagesApp, hash_api_key
from bud_asgi.http import Timeouts
from bud_asgi.testing import Reply, ThreadedStandIn, text

HERE = Path(__file__).parent
KEY = "sk-bud-the-callers-key"
UPSTREAM_KEY = "sk-ant-the-operators-key"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}
STREAM: dict[str, Any] = {**BODY, "stream": True}

web = httpx.Client(verify=False, trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
"""Each request over a connection of its own, without the cost of a TLS context each."""

WORDS = 5
DELAY = 0.025


def slow_stream() -> Reply:
    """A stream of some words, one event each `DELAY` seconds."""
    return text("word " * WORDS, delay=DELAY)


def provider(upstream_url: str) -> Anthropic:
    """The stand-in as a provider, with timeouts that come too late to be taken for a client's leaving."""
    return Anthropic(api_key=UPSTREAM_KEY, base_url=upstream_url, timeouts=Timeouts(2.0, 60.0, 60.0))


def messages_app(upstream_url: str, **more: Any) -> MessagesApp:
    """The app of the tests."""
    return MessagesApp(auth=ApiKeys({"me": hash_api_key(KEY)}), providers=[provider(upstream_url)], **more)


def wait_until(true: Callable[[], bool], what: str, timeout: float = 5.0) -> None:
    """Poll until something holds. Fails with `what`."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


def ask(below: str, body: Mapping[str, Any] = BODY, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """One request to the endpoint below a prefix."""
    return web.post(f"{below}/v1/messages", headers={**HEADERS, **(headers or {})}, json=body)


class Arrivals:
    """A stream as it was received: the bytes, and when each text event came, in seconds since the first."""

    def __init__(self, below: str, headers: Mapping[str, str] | None = None) -> None:
        self.body = b""
        moments: list[float] = []
        lines = {**HEADERS, **(headers or {})}
        with web.stream("POST", f"{below}/v1/messages", headers=lines, json=STREAM) as reply:
            self.status, self.headers = reply.status_code, reply.headers
            for chunk in reply.iter_bytes():
                self.body += chunk
                moments += [time.monotonic()] * (self.body.count(b"event: content_block_delta") - len(moments))
        self.moments = [moment - moments[0] for moment in moments]

    def assert_event_by_event(self) -> None:
        """The events of `slow_stream` came one by one, spread over the time that it takes."""
        assert self.status == 200
        assert self.headers["content-type"].startswith("text/event-stream")
        assert b"message_stop" in self.body
        assert b"event: error" not in self.body
        assert len(self.moments) > 3
        gaps = [later - earlier for earlier, later in zip(self.moments, self.moments[1:], strict=False)]
        assert sum(gap > DELAY / 8 for gap in gaps) > len(gaps) / 2, gaps  # a busy machine may join some
        assert self.moments[-1] > 0.6 * DELAY * len(gaps)


@contextmanager
def raw_request(below: str, body: Mapping[str, Any]) -> Generator[socket.socket]:
    """A request on a socket of its own; leaving the block is leaving the server."""
    url = httpx.URL(f"{below}/v1/messages")
    content = json.dumps(body).encode()
    lines = [f"POST {url.path} HTTP/1.1", "host: x", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    with socket.create_connection((url.host, url.port or 80), timeout=10) as peer:
        peer.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        yield peer


def receive_until(peer: socket.socket, mark: bytes) -> bytes:
    """Read until something has come. Fails when the peer closes before."""
    received = b""
    while mark not in received:
        chunk = peer.recv(65536)
        assert chunk, received
        received += chunk
    return received


def seconds_until_upstream_ends(
    below: str, upstream: ThreadedStandIn, reply: Reply, body: Mapping[str, Any], seen: bytes = b""
) -> float:
    """Leave once upstream has been asked (or `seen` has come), and measure when its call is ended."""
    asked = len(upstream.requests)
    upstream.enqueue(reply)
    with raw_request(below, body) as peer:
        if seen:
            receive_until(peer, seen)
        else:
            upstream.wait_requests(asked + 1)
            time.sleep(0.05)
    left = time.monotonic()
    ended = upstream.wait_aborted(timeout=3.0).aborted
    assert ended is not None
    return ended - left


class Streams:
    """Many streams at a time, each read to its end in a thread of its own."""

    def __init__(self, below: str, count: int) -> None:
        self.bodies = [b""] * count
        self.failures: list[httpx.TransportError] = []
        self._threads = [threading.Thread(target=self._read, args=(below, index)) for index in range(count)]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: all(b"content_block" in body for body in self.bodies), "all streams have begun", 20)

    def _read(self, below: str, index: int) -> None:
        try:
            with web.stream("POST", f"{below}/v1/messages", headers=HEADERS, json=STREAM) as reply:
                for chunk in reply.iter_raw():
                    self.bodies[index] += chunk
        except httpx.TransportError as error:
            self.failures.append(error)

    def join(self, timeout: float = 20.0) -> None:
        """Wait until each has ended."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive()

    @property
    def whole(self) -> int:
        """How many came to their proper end."""
        return sum(b"message_stop" in body and b"event: error" not in body for body in self.bodies)

    @property
    def told(self) -> int:
        """How many were cut short, and told so by one error event of their own."""
        return sum(body.count(b"event: error\n") == 1 and body.endswith(b"\n\n") for body in self.bodies)


def free_port() -> int:
    """A port that nobody listens at, a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class ServerProcess:
    """A server in a process of its own, so that it can get a real signal."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def terminate(self) -> float:
        """Send SIGTERM; the moment, on the monotonic clock."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    def wait(self, timeout: float = 15.0) -> int:
        """Its return code, once it has ended."""
        return self.process.wait(timeout)


def _answers(url: str) -> bool:
    try:
        return web.get(url).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def server_process(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, cwd: Path = HERE, ready: str = "/own"
) -> Generator[ServerProcess]:
    """Run `python -m command` with `{port}` filled in, until `ready` answers; it is killed at the end."""
    port = free_port()
    words = [word.format(port=port) for word in command]
    log = directory / f"log-{port}"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=written,
            stderr=written,
            cwd=cwd,
            env={**os.environ, **environment},
            start_new_session=True,  # a group of its own, with the workers that it starts
        )
        server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
        try:
            wait_until(lambda: process.poll() is not None or _answers(server.url + ready), "the server listens", 20)
            assert process.poll() is None, server.log
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
