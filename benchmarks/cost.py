"""What the package costs, measured in one run: `make bench`.

- the import, in a process of its own (median of 5, milliseconds);
- how long the largest bodies hold the event loop while they are read, checked and sent (median of 5, milliseconds);
- the small pieces on the way of a request, called 100,000 times, minus calls of nothing (microseconds).

With `--quick` everything is measured once, with small counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from starlette.types import Message, Scope
from upstream import DELTAS

from bud_asgi import Anthropic, ApiKeys, Exchange, MessagesApp, hash_api_key, new_api_key
from bud_asgi.protocol.request import decode_request
from bud_asgi.protocol.sse import EventStream
from bud_asgi.routing import Route, RouteTable
from bud_asgi.testing import StandIn, json_body

SIZE = 32 << 20
CHUNK = 64 << 10
QUICK = "--quick" in sys.argv
ROUNDS = 1 if QUICK else 5
TIMES = 1000 if QUICK else 100_000

FRAME = b'{"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":%b}]}'


def filled(item: bytes, wrap: bytes = b"[%b]") -> bytes:
    """A body of just under 32 MiB whose content repeats an item."""
    room = SIZE - len(FRAME) - len(wrap)
    return FRAME % (wrap % (item * (room // len(item))).rstrip(b","))


BODIES: dict[str, Callable[[], bytes]] = {
    "32 MB of ASCII text": lambda: filled(b"The quick brown fox. ", b'"%b"'),
    "32 MB of text in UTF-8": lambda: filled("Ein flüssiger Text, 漢字. ".encode(), b'"%b"'),
    "32 MB of base64": lambda: filled(b"aGVsbG8gd29ybGQh", b'"%b"'),
    "32 MB of escapes": lambda: filled(b"\\n", b'"%b"'),
    "32 MB of zeros": lambda: filled(b"0,"),
    "32 MB of brackets": lambda: filled(b"[],"),
    "32 MB of objects": lambda: filled(b'{"":0},'),
    "32 MB of top-level keys": lambda: b"{" + b",".join(b'"%x":0' % n for n in range(2_950_000)) + b"}",
}


async def hold(app: MessagesApp, scope: Scope, body: bytes, status: int) -> float:
    """The longest time in seconds for which one request, answered with `status`, holds the event loop."""
    chunks = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]
    left = len(chunks)
    longest = 0.0
    last = time.perf_counter()

    async def receive() -> Message:
        nonlocal left
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        left -= 1
        return {"type": "http.request", "body": chunks[len(chunks) - left - 1], "more_body": left > 0}

    async def send(message: Message) -> None:
        if message.get("status", status) != status:
            raise RuntimeError(f"the status is {message['status']}, not {status}")

    async def watch() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    longest = 0.0
    await app(scope, receive, send)
    await asyncio.sleep(0)  # let it see the last step
    await asyncio.sleep(0)
    watcher.cancel()
    return longest


async def holds() -> list[tuple[str, float]]:
    """The holds of all bodies; the upstream is a process of its own, so that its work is not ours."""
    upstream = await asyncio.create_subprocess_exec(sys.executable, __file__, "upstream", stdout=subprocess.PIPE)
    assert upstream.stdout is not None
    url = (await upstream.stdout.readline()).decode().strip()
    key = new_api_key()
    app = MessagesApp(
        auth=ApiKeys({"me": hash_api_key(key)}), providers=[Anthropic(api_key="sk-ant-upstream", base_url=url)]
    )
    found: list[tuple[str, float]] = []
    async with app.lifespan():
        for name, make in BODIES.items():
            body, status = make(), 400 if name.endswith("keys") else 200
            times = [await hold(app, scope(key, len(body)), body, status) for _ in range(ROUNDS)]
            found.append((name, statistics.median(times) * 1000))
    upstream.terminate()
    await upstream.wait()
    return found


def scope(key: str, length: int) -> Scope:
    """A request of an SDK, as a server passes it to the app."""
    headers = [(b"x-api-key", key.encode()), (b"anthropic-version", b"2023-06-01")]
    headers += [(b"content-length", str(length).encode()), (b"content-type", b"application/json")]
    headers += [(b"x-stainless-%d" % n, b"something") for n in range(10)]
    return {"type": "http", "method": "POST", "path": "/v1/messages", "headers": headers, "query_string": b""}


async def serve_upstream() -> None:
    """An upstream that answers every request with a small Message, and checks nothing."""
    async with StandIn(api_key="sk-ant-upstream", strict=False) as stand_in:
        stand_in.always(json_body({"type": "message", "content": []}))
        print(stand_in.base_url, flush=True)
        while True:
            await asyncio.sleep(1)
            stand_in.requests.clear()


def each(piece: Callable[[], object], times: int = TIMES) -> float:
    """Microseconds for one call, less those for calling nothing."""

    def timed(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - began

    return (timed(piece) - timed(lambda: None)) / times * 1e6


def pieces() -> list[tuple[str, float]]:
    """The small pieces."""
    small = json.dumps(
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 1024,
            "stream": True,
            "temperature": 0.5,
            "system": "You are helpful.",
            "messages": [{"role": "user", "content": "Hello"}],
        }
    ).encode()
    observer = EventStream()
    observer.feed(b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n')
    event = DELTAS[0]
    many = event * 500 + event[:60]
    table = RouteTable([Route("fast", to=["a"]), Route("claude-*", to=["a"])])
    lines = scope("k", 1)

    def a_read() -> None:
        observer.feed(many)
        observer.feed(event[60:])

    return [
        ("an Exchange from a scope of 14 headers", each(lambda: Exchange.of({**lines}))),
        ("decode and check a body of 6 fields", each(lambda: decode_request(small))),
        ("resolve a model by pattern", each(lambda: table.resolve("claude-haiku-4-5", None))),
        ("observe an event that comes alone", each(lambda: observer.feed(event))),
        ("observe an event among 500 in a read", each(a_read, 1000) / 501),
    ]


def start() -> list[tuple[str, float]]:
    """Milliseconds for the import."""
    imports = "import time; t = time.perf_counter(); import bud_asgi; print((time.perf_counter() - t) * 1000)"
    times = [
        float(subprocess.run([sys.executable, "-c", imports], capture_output=True, check=True).stdout)
        for _ in range(ROUNDS)
    ]
    return [("import bud_asgi", statistics.median(times))]


def table(title: str, unit: str, rows: list[tuple[str, float]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {title} | {unit} |\n|---|---|")
    for name, figure in rows:
        print(f"| {name} | {figure:.2f} |")


def main() -> None:
    """Measure everything and print it."""
    if sys.argv[1:] == ["upstream"]:
        asyncio.run(serve_upstream())
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    table("start", "ms", start())
    table("a request holds the loop for at most", "ms", asyncio.run(holds()))
    table("piece", "µs", pieces())


if __name__ == "__main__":
    main()
