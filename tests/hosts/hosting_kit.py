"""Shared by the tests of hosts and servers: requests, streams, clients that disconnect, servers in processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
from support import gateway
from support.calls import BODY, HEADERS
from support.ports import free_port
from support.sockets import raw_request, receive_until
from support.waiting import answers, wait_until

from bud_asgi import MessagesApp
from bud_asgi.testing import Content, Lazy, Reply, TextBlock, ThreadedStandIn
from bud_asgi.testing.anthropic.messages import ParsedRequest, message_events

HERE = Path(__file__).parent
TESTS = HERE.parent  # where `support` is
STREAM: dict[str, Any] = {**BODY, "stream": True}

LONG = 30.0
"""Seconds that suffice on a busy machine; only a test that fails waits as long."""

web = httpx.Client(verify=False, trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
"""Opens a new connection for each request, without the cost of a TLS context for each."""


def messages_app(upstream_url: str, **options: Any) -> MessagesApp:
    """An app whose provider's timeouts are too long to be mistaken for a disconnect of the client."""
    patient = gateway.provider(upstream_url, timeouts=gateway.PATIENT)
    return gateway.messages_app(upstream_url, providers=[patient], **options)


def post(base_url: str, body: Mapping[str, Any] = BODY, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Send one request to `/v1/messages`."""
    return web.post(f"{base_url}/v1/messages", headers={**HEADERS, **(headers or {})}, json=body)


class StreamedReply(msgspec.Struct, frozen=True):
    """A streamed reply that has been read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes


def read_stream(
    base_url: str,
    headers: Mapping[str, str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> StreamedReply:
    """Request a stream and read it. `on_bytes` is called with the number of bytes received so far."""
    body = b""
    with web.stream("POST", f"{base_url}/v1/messages", headers={**HEADERS, **(headers or {})}, json=STREAM) as reply:
        for chunk in reply.iter_bytes():
            body += chunk
            if on_bytes:
                on_bytes(len(body))
    return StreamedReply(reply.status_code, reply.headers, body)


class _Lockstep:
    """A stream whose upstream sends an event only once the client has received the event before it."""

    def __init__(self) -> None:
        self.events = 0
        self.undelivered: list[bytes] = []
        """The event that the client did not receive while the upstream waited for it, if there is one."""
        self._received = 0
        self._changed = threading.Condition()

    @property
    def reply(self) -> Reply:
        return Reply(body=Lazy(self._send))

    def on_bytes(self, received: int) -> None:
        """Note how many bytes the client has received."""
        with self._changed:
            self._received = received
            self._changed.notify()

    def _send(self, request: ParsedRequest) -> Iterator[bytes]:
        sent = 0
        for event in message_events(Content((TextBlock("one two three four five"),)), request):
            yield event
            self.events += 1
            sent += len(event)
            if not self.undelivered and not self._wait_for(sent):
                self.undelivered.append(event)

    def _wait_for(self, received: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._received >= received, LONG)


def assert_streams_event_by_event(
    base_url: str, upstream: ThreadedStandIn, headers: Mapping[str, str] | None = None
) -> StreamedReply:
    """Stream a message and check that each event arrives before the upstream sends the next one."""
    lockstep = _Lockstep()
    upstream.enqueue(lockstep.reply)
    reply = read_stream(base_url, headers, lockstep.on_bytes)
    assert lockstep.undelivered == []
    assert lockstep.events > 5
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert b"message_stop" in reply.body
    assert b"event: error" not in reply.body
    return reply


def assert_disconnect_ends_upstream_request(
    base_url: str, upstream: ThreadedStandIn, reply: Reply, body: Mapping[str, Any], after: bytes = b""
) -> None:
    """Disconnect once the upstream has the request (or `after` has arrived): the upstream request must end, too.

    The provider's timeouts are longer than the wait, so nothing else ends it.
    """
    before = len(upstream.requests)
    upstream.enqueue(reply)
    with raw_request(base_url, body, LONG) as peer:
        if after:
            receive_until(peer, after)
        else:
            upstream.wait_requests(before + 1, LONG)
            time.sleep(0.05)
    wait_until(lambda: upstream.requests[before].aborted is not None, "the upstream request has ended", LONG)


class Streams:
    """Concurrent streams, each read to its end in its own thread."""

    def __init__(self, base_url: str, count: int) -> None:
        self.bodies = [b""] * count
        self.failures: list[httpx.TransportError] = []
        self._threads = [threading.Thread(target=self._read, args=(base_url, index)) for index in range(count)]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: all(b"content_block" in body for body in self.bodies), "all streams have begun")

    def _read(self, base_url: str, index: int) -> None:
        try:
            with web.stream("POST", f"{base_url}/v1/messages", headers=HEADERS, json=STREAM) as reply:
                for chunk in reply.iter_raw():
                    self.bodies[index] += chunk
        except httpx.TransportError as error:
            self.failures.append(error)

    def join(self, timeout: float = 20.0) -> None:
        """Wait until all have ended."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive()

    @property
    def complete(self) -> int:
        """The number of streams that ended with `message_stop`."""
        return sum(b"message_stop" in body and b"event: error" not in body for body in self.bodies)

    @property
    def ended_by_error(self) -> int:
        """The number of streams that ended with one whole `error` event."""
        return sum(body.count(b"event: error\n") == 1 and body.endswith(b"\n\n") for body in self.bodies)


class ServerProcess:
    """A server in its own process, so that it can receive a real signal."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def log(self) -> str:
        """Its output so far."""
        return self._log.read_text()

    def terminate(self) -> float:
        """Send SIGTERM. Returns the time on the monotonic clock."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    def wait(self, timeout: float = LONG) -> int:
        """Wait until it has ended. Returns its exit status."""
        return self.process.wait(timeout)


@contextmanager
def server_process(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, cwd: Path = HERE, ready: str = "/own"
) -> Generator[ServerProcess]:
    """Run `python -m command`, with `{port}` replaced, once `ready` answers. It is killed at the end."""
    port = free_port()
    arguments = [argument.format(port=port) for argument in command]
    log = directory / f"log-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
            start_new_session=True,  # its own process group, so that its workers can be killed too
        )
        server = ServerProcess(process, f"http://127.0.0.1:{port}", log)
        try:
            wait_until(lambda: process.poll() is not None or answers(server.url + ready), "the server listens")
            assert process.poll() is None, server.log  # or a server that is not ours answered
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
