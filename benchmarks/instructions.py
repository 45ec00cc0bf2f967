"""The instructions that a request and a stream cost, without a server or a network: `make bench`.

They are counted by callgrind, a tool of valgrind, and hardly differ from run to run: changes show that CPU time on a
busy machine would hide. Measured are a small request through the whole app, whose HTTP client answers at once, and what
the gateway reads of a stream: its first events, its deltas, its end with the usage.

The pieces run in a process of their own under valgrind. It calls `getppid` before and after each of them, where
callgrind writes a dump of what it has counted. With `--quick` they run once, without valgrind.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from load import keys_of
from starlette.types import Message, Scope
from upstream import BLOCK, DELTAS, END, MESSAGE, START

from bud_asgi import Anthropic, ApiKeys, Limit, MessagesApp, hash_api_key
from bud_asgi.http import HttpRequest
from bud_asgi.protocol.sse import EventStream

CALLS = 200
WARM = 50
KEYS = keys_of("sk-bud-" + "k" * 43, 2 * (CALLS + WARM))
GOALS = {"opening a stream and reading its usage: `message_start`, `message_delta`": 80_000}

BODY = (
    b'{"model":"claude-haiku-4-5%b","max_tokens":1024,"stream":false,"system":"You are helpful.",'
    b'"metadata":{"user_id":"000000000123"},"messages":[{"role":"user","content":"Hello"}]}'
)
LINES = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"anthropic-version", b"2023-06-01"),
    (b"content-type", b"application/json"),
    *((b"x-stainless-%d" % number, b"something") for number in range(10)),
]


class Reply:
    """A reply that has arrived: the small Message of the upstream."""

    status = 200
    done = True

    def __init__(self) -> None:
        self.headers = [(b"content-type", b"application/json"), (b"content-length", str(len(MESSAGE)).encode())]
        self._left = MESSAGE

    def take(self) -> bytes:
        """Return the body, once."""
        left, self._left = self._left, b""
        return left

    async def more(self, within: float = 0) -> bytes | None:
        """Nothing is left to wait for."""
        return b""

    def close(self) -> None:
        """Nothing is open."""


class Client:
    """An HTTP client that answers at once."""

    async def send(self, request: HttpRequest) -> Reply:
        """Answer."""
        return Reply()

    async def aclose(self) -> None:
        """Nothing is open."""


def requests() -> Iterator[tuple[Scope, bytes]]:
    """Requests of 19 header lines, as an SDK sends them: first the same one again and again, then each different.

    They differ in their key, betas, model and user agent.
    """
    for number, key in enumerate(KEYS):
        suffix = b"" if number < WARM + CALLS else b"-%06d" % number
        body = BODY % suffix
        lines = [
            *LINES,
            (b"user-agent", b"Anthropic/Python 0.70.0" + suffix),
            (b"anthropic-beta", b"context-1m-2025-08-07,interleaved-thinking-2025-05-14" + suffix),
            (b"x-api-key", (key if suffix else KEYS[0]).encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        yield {"type": "http", "method": "POST", "path": "/v1/messages", "headers": lines, "query_string": b""}, body


def request(loop: asyncio.AbstractEventLoop) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call that sends the next request through the app, and one that runs the loop for nothing."""
    app = MessagesApp(
        auth=ApiKeys({f"caller-{number}": hash_api_key(key) for number, key in enumerate(KEYS)}),
        providers=[Anthropic(api_key="sk-ant-upstream")],
        limits=[Limit("requests", 1_000_000_000), Limit("requests", 1_000_000_000, per="all")],
        client=Client,
    )
    coming = iter(list(requests()))

    async def send(message: Message) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"the status is {message['status']}")

    async def served() -> None:
        scope, body = next(coming)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, receive, send)

    async def nothing() -> None:
        pass

    return lambda: loop.run_until_complete(served()), lambda: loop.run_until_complete(nothing())


def stream(deltas: int) -> Callable[[], object]:
    """A call that reads a stream of so many deltas, each in a read of its own."""

    def read() -> object:
        observer = EventStream()
        observer.feed(START + BLOCK)
        for delta in DELTAS[:deltas]:
            observer.feed(delta)
        observer.feed(b"".join(END))
        return observer.usage

    return read


def usage() -> object:
    """Read the two events of a stream that report its usage."""
    observer = EventStream()
    observer.feed(START)
    observer.feed(END[1])
    return observer.usage


def count() -> None:
    """Run every piece, with a mark before and after it. Runs under valgrind."""
    with asyncio.Runner() as runner:
        served, nothing = request(runner.get_loop())
        for piece in (served, served, nothing, usage, stream(1), stream(11)):
            for _ in range(WARM):
                piece()
            gc.collect()
            gc.disable()  # a full collection, once in many requests, would count for one piece
            os.getppid()
            for _ in range(CALLS):
                piece()
            os.getppid()
            gc.enable()


def counted(valgrind: str) -> list[float]:
    """Instructions for one call of each piece."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder}/out"]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        command = [valgrind, *options, sys.executable, __file__, "count"]
        ended = subprocess.run(command, env=environment, capture_output=True, check=False)
        if ended.returncode:
            sys.exit(ended.stderr.decode()[-2000:])
        dumps = [Path(folder, f"out.{number}") for number in range(2, 14, 2)]  # the odd ones end at the first mark
        totals = [re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE) for dump in dumps]
    return [int(total[1]) / CALLS for total in totals if total]


def main() -> None:
    """Measure and print it."""
    if "count" in sys.argv or "--quick" in sys.argv:
        count()
        return
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("instructions were not counted: valgrind is not installed (apt-get install valgrind)")
        return
    same, different, nothing, reported, short, longer = counted(valgrind)
    figures = {
        "a small request through the app, without server and HTTP client": same - nothing,
        "the same, each time with another key, betas, model and user agent": different - nothing,
        "opening a stream and reading its usage: `message_start`, `message_delta`": reported,
        "a whole stream of six events in three reads": short,
        "a delta that comes alone": (longer - short) / 10,
    }
    print("| instructions | | goal |\n|---|---|---|")
    for name, figure in figures.items():
        goal = f"{GOALS[name]:,}" if name in GOALS else ""
        print(f"| {name} | {figure:,.0f} | {goal} |")


if __name__ == "__main__":
    main()
