"""The load generator of the benchmarks, in a process of its own: `python load.py JOB`; job and result are JSON.

It reads the CPU clock of the server's process before and after what it counts, and compares what it sent and received
with what the upstream reports.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Literal, cast

import httptools
import msgspec
import uvloop
from upstream import EVERY, Ledger, digest, identity

WARM = 0.2
"""This part of the requests is sent before the counting begins."""

SHORT = 500
"""Events of a short stream."""

PRINCIPALS = 100_000
"""How many keys `keys_of` makes."""

BETAS = "context-1m-2025-08-07,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14"

END_LIMIT = 10.0
"""How long to wait for upstream calls to end, in seconds."""

Kind = Literal["small", "medium", "body", "paced", "flat", "short", "idle"]
"""Small requests, those of 2 kB and of 400 kB; streams at 50 events a second, as fast as they come (each connection one
long stream, or one short stream after the other), and silent ones."""

Vary = Literal["nothing", "keys", "betas", "models", "agents", "all"]
"""What differs in each request beside its number: the key (in random order), the list of betas, the model, the user
agent, or all of these. Nothing that varies occurs twice."""

TEXTS = {"medium": 45, "body": 9000}
"""How often the text is repeated, by default once."""


def keys_of(secret: str, count: int = PRINCIPALS) -> list[str]:
    """Make keys from a secret."""
    return [f"{secret}-{number}" for number in range(count)]


class Job(msgspec.Struct, frozen=True):
    """What to do.

    `count` is requests on all `connections` together, events of each flat stream, short streams of each connection, or
    seconds of paced ones. `upstream` is the port of the upstream, 0 if there is none. `rewritten`: requests are
    rewritten on the way, so both ends match them by their number alone. `pause` is how long to wait for the server to
    settle, in seconds. `betas`: requests carry `anthropic-beta`, and the keys are those of `keys_of`.
    """

    kind: Kind
    port: int
    path: str
    key: str
    pid: int
    upstream: int
    connections: int
    count: int
    rewritten: bool = False
    vary: Vary = "nothing"
    betas: bool = False
    pause: float = 0.5


class Result(msgspec.Struct, frozen=True):
    """CPU seconds of the server for so many units, and the bytes that its memory grew by.

    For idle streams the bytes of each, and the seconds until all upstream calls have ended.
    """

    units: int = 0
    cpu: float = 0.0
    grown: int = 0
    compared: int = 0
    stream_bytes: float = 0.0
    ended_within: float = 0.0

    @property
    def microseconds(self) -> float:
        """CPU for one unit."""
        return self.cpu / self.units * 1e6 if self.units else 0.0


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += processes(int(child))
    return found


def cpu(pid: int) -> float:
    """User and system seconds of a process and all below it, by the kernel's clock of each process."""
    return sum(time.clock_gettime((~each << 3) | 2) for each in processes(pid))


def resident(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Connection(asyncio.Protocol):
    """A client's connection: one request at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._received = hashlib.sha256()
        self._ended: asyncio.Future[bytes] | None = None
        self.begun = asyncio.Event()
        self.events = 0

    def send(self, head: bytes, body: bytes) -> asyncio.Future[bytes]:
        """Send a request; the result is the digest of its reply's body."""
        self._received = hashlib.sha256()
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.writelines([head, body])
        return self._ended

    def disconnect(self) -> None:
        """Close the connection at once, in the middle of a reply."""
        self._ended = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the connection: an error if a reply is incomplete."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(ConnectionError("the server closed the connection within a reply"))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if (status := self._parser.get_status_code()) != 200:
            raise RuntimeError(f"the status is {status}")

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._received.update(data)
        self.events += data.count(b"\n\n")
        self.begun.set()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._parser = httptools.HttpResponseParser(self)
        if self._ended is not None:
            self._ended.set_result(self._received.digest())


class Load:
    """One job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ledger = Ledger()
        self._number = 0
        self._run = random.getrandbits(32)
        self._shuffled = random.sample(keys_of(job.key), PRINCIPALS) if job.vary in {"keys", "all"} else []
        self._secret = keys_of(job.key, 1)[0] if job.betas else job.key
        self._text = b"The quick brown fox jumps over the lazy dog. " * TEXTS.get(job.kind, 1)

    async def run(self) -> Result:
        """Run it."""
        if self._job.upstream:
            await self._query("/ledger")
        match self._job.kind:
            case "small" | "medium" | "body":
                result = await self._requests()
            case "paced":
                result = await self._paced()
            case "flat":
                result = await self._flat()
            case "short":
                result = await self._short()
            case "idle":
                return await self._idle()
        if not self._job.upstream:
            return result
        ours, theirs = self._ledger.close(), await self._query("/ledger")
        if ours != theirs:
            raise RuntimeError(f"the bytes differ between the two ends: {ours} here, {theirs} upstream")
        return msgspec.structs.replace(result, compared=cast("int", ours[0]))

    async def _requests(self) -> Result:
        """So many requests; each connection sends its next one when it has the reply."""
        connections = await self._connect(self._job.connections)
        await self._repeat(connections, int(self._job.count * WARM))
        memory, before = resident(self._job.pid), cpu(self._job.pid)
        await self._repeat(connections, self._job.count)
        return Result(self._job.count, cpu(self._job.pid) - before, resident(self._job.pid) - memory)

    async def _repeat(self, connections: list[Connection], times: int) -> None:
        left = times

        async def one_by_one(connection: Connection) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self._exchange(connection, "haiku-4-5", 1024)

        await asyncio.gather(*(one_by_one(connection) for connection in connections))

    async def _paced(self) -> Result:
        connections = await self._connect(self._job.connections)
        pause = self._job.pause
        ramp = 2 * pause  # streams are opened one after the other, so that their events spread
        events = int((ramp + pause + self._job.count + pause) / EVERY)
        streams: list[asyncio.Task[None]] = []
        for connection in connections:
            streams.append(asyncio.create_task(self._exchange(connection, "paced", events)))
            await asyncio.sleep(ramp / len(connections))
        await asyncio.sleep(pause)
        before, counted = cpu(self._job.pid), sum(connection.events for connection in connections)
        await asyncio.sleep(self._job.count)
        after, counted = cpu(self._job.pid), sum(connection.events for connection in connections) - counted
        await asyncio.gather(*streams)
        return Result(counted, after - before)

    async def _flat(self) -> Result:
        connections = await self._connect(self._job.connections)

        async def all_of(events: int) -> None:
            await asyncio.gather(*(self._exchange(connection, "flat", events) for connection in connections))

        await all_of(int(self._job.count * WARM))
        before = cpu(self._job.pid)
        await all_of(self._job.count)
        return Result(self._job.count * len(connections), cpu(self._job.pid) - before)

    async def _short(self) -> Result:
        """Short streams, one after the other on each connection."""
        connections = await self._connect(self._job.connections)

        async def all_of(streams: int) -> None:
            async def one_by_one(connection: Connection) -> None:
                for _ in range(streams):
                    await self._exchange(connection, "flat", SHORT)

            await asyncio.gather(*(one_by_one(connection) for connection in connections))

        await all_of(max(1, int(self._job.count * WARM)))
        before = cpu(self._job.pid)
        await all_of(self._job.count)
        return Result(self._job.count * SHORT * len(connections), cpu(self._job.pid) - before)

    async def _idle(self) -> Result:
        """Silent streams: the memory of each, and how soon their upstream calls end when the clients disconnect."""
        await self._disconnect(await self._silent(5))
        before = resident(self._job.pid)
        connections = await self._silent(self._job.connections)
        held = resident(self._job.pid) - before
        return Result(stream_bytes=held / len(connections), ended_within=await self._disconnect(connections))

    async def _silent(self, count: int) -> list[Connection]:
        connections = await self._connect(count)
        for connection in connections:
            connection.send(*self._request("silent", 1))
        for connection in connections:
            await connection.begun.wait()
        await asyncio.sleep(3 * self._job.pause)
        return connections

    async def _disconnect(self, connections: list[Connection]) -> float:
        began = time.monotonic()
        for connection in connections:
            connection.disconnect()
        while time.monotonic() < began + END_LIMIT:
            open_, all_ended_at = await self._query("/open")
            if not open_:
                return float(all_ended_at) - began
            await asyncio.sleep(0.01)
        return END_LIMIT

    async def _exchange(self, connection: Connection, model: str, max_tokens: int) -> None:
        head, body = self._request(model, max_tokens)
        sent = digest(identity(body) if self._job.rewritten else body)
        self._ledger.add(sent, await connection.send(head, body))

    def _request(self, model: str, max_tokens: int) -> tuple[bytes, bytes]:
        """A request as an SDK writes it; no two have the same body."""
        self._number += 1
        vary, betas, agent, key = self._job.vary, BETAS, "Anthropic/Python 0.70.0", self._secret
        if vary in {"keys", "all"}:
            key = self._shuffled[self._number % PRINCIPALS]
        if vary in {"betas", "all"}:
            betas = f"{BETAS},{self._unique()}-2026-01-01"
        if vary in {"models", "all"}:
            model = f"{model}-{self._unique()}"
        if vary in {"agents", "all"}:
            agent = f"{agent} {self._unique()}"
        stream = b"false" if model.startswith("haiku") else b"true"
        body = (
            b'{"model":"claude-%b","max_tokens":%d,"stream":%b,"system":"You are helpful.",'
            b'"metadata":{"user_id":"%012d"},"messages":[{"role":"user","content":"%b"}]}'
        ) % (model.encode(), max_tokens, stream, self._number, self._text)
        lines = [
            f"POST {self._job.path} HTTP/1.1",
            f"host: 127.0.0.1:{self._job.port}",
            "accept: application/json",
            "accept-encoding: gzip, deflate",
            "anthropic-version: 2023-06-01",
            "content-type: application/json",
            f"user-agent: {agent}",
            "x-stainless-arch: x64",
            "x-stainless-async: async:asyncio",
            "x-stainless-lang: python",
            "x-stainless-os: Linux",
            "x-stainless-package-version: 0.70.0",
            "x-stainless-read-timeout: 600",
            "x-stainless-retry-count: 0",
            "x-stainless-runtime: CPython",
            "x-stainless-runtime-version: 3.11.7",
            "x-stainless-timeout: 600",
            f"x-api-key: {key}",
            f"content-length: {len(body)}",
        ]
        if self._job.betas:
            lines.append(f"anthropic-beta: {betas}")
        return "\r\n".join([*lines, "", ""]).encode(), body

    def _unique(self) -> str:
        return f"{self._run:08x}{self._number:08d}"

    async def _connect(self, count: int) -> list[Connection]:
        loop = asyncio.get_running_loop()
        return [(await loop.create_connection(Connection, "127.0.0.1", self._job.port))[1] for _ in range(count)]

    async def _query(self, path: str) -> list[int | str | float]:
        """Request `/ledger` or `/open` from the upstream itself."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._job.upstream)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.rpartition(b": ")[2]))
        writer.close()
        return json.loads(body)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(Load(msgspec.json.decode(sys.argv[1], type=Job)).run())))
