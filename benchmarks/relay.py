"""What relaying costs: the whole gateway beside bare pass-throughs, in one interleaved run: `make bench`.

CPU (user and system) of the gateway's process and its children, for one request or one event, under plain uvicorn:

- uvicorn answering alone, without an upstream;
- (a) a bare ASGI pass-through on aiohttp (`bare_aiohttp.py`), the baseline on plain sockets, with the same timeouts as
  the engine;
- (b) the same on the project's own engine (`bare_engine.py`);
- (c) the whole app with authentication, rate limits and routing, mounted in a Starlette app (`whole.py`).

And of (c) the memory of an idle open stream, and how soon upstream calls end when 500 clients vanish from silent
streams. Each figure is the median of the rounds; a ratio is the median of the ratios to (a) within a round. Fails when
(a) costs more than 5 times uvicorn alone: then it would be no measure; or when bytes differ between the two ends.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
from load import Job, Kind, Result

from bud_asgi import new_api_key

HERE = Path(__file__).parent
FLAGS = ("--loop", "uvloop", "--http", "httptools", "--lifespan", "auto", "--no-access-log", "--log-level", "warning")
PACKAGES = ("bud-asgi", "aiohttp", "uvicorn", "uvloop", "httptools", "starlette", "msgspec")

HONEST = 5.0
"""How many times uvicorn alone (a) may cost."""

STREAMS = 500
"""Idle streams."""

STREAM_GOAL = 20.0
"""KB that one of them may take."""

VANISH_GOAL = 1.0
"""Seconds in which every upstream call must have ended."""


class Cell(msgspec.Struct, frozen=True):
    """One column: what is done, how often, and how much of (a) on plain sockets the whole may cost."""

    name: str
    kind: Kind
    connections: int
    count: int
    quick: int
    goal: float
    noise: float = 0.10
    tls: bool = False


CELLS = (
    Cell("small JSON", "small", 16, 4000, 500, 0.90),
    Cell("event, 100 streams at 50/s", "paced", 100, 4, 1, 1.0, noise=0.15),
    Cell("event, flat out", "flat", 4, 60_000, 5000, 0.40),
    Cell("400 KB body", "body", 8, 500, 50, 1.0),
    Cell("small JSON, TLS upstream", "small", 16, 4000, 500, 1.05, tls=True),
    Cell("event at 50/s, TLS upstream", "paced", 100, 4, 1, 1.4, noise=0.15, tls=True),
)


class App(msgspec.Struct, frozen=True):
    """One row: an app, and where it takes requests. `rewritten`: what it sends upstream is not what it was sent."""

    name: str
    module: str
    path: str = "/v1/messages"
    rewritten: bool = False


ALONE = App("uvicorn alone", "alone")
BARE = App("(a) bare, aiohttp", "bare_aiohttp")
ENGINE = App("(b) bare, our engine", "bare_engine")
WHOLE = App("(c) the whole", "whole", "/anthropic/v1/messages")
GATEWAYS = (BARE, ENGINE, WHOLE)

Samples = dict[tuple[App, Cell], list[float]]
"""Microseconds for one unit, one figure a round."""


class Server(msgspec.Struct, frozen=True):
    """A process that serves an app."""

    app: App
    pid: int
    port: int


class Bench:
    """The processes of a run, and their environment."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._key = new_api_key()
        self._ca_file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ca.pem"
        upstream = stack.enter_context(_process([sys.executable, "upstream.py", str(self._ca_file)]))
        assert upstream.stdout is not None
        plain, secure = upstream.stdout.readline().decode().split()
        self._upstream = int(plain)
        self._urls = {False: f"http://127.0.0.1:{plain}", True: f"https://127.0.0.1:{secure}"}

    def start(self, app: App, *, tls: bool = False) -> Server:
        """Serve an app until the end of the run."""
        return self._stack.enter_context(self.serving(app, tls=tls))

    @contextmanager
    def serving(self, app: App, *, tls: bool = False) -> Generator[Server]:
        """Serve an app under plain uvicorn, its upstream plain or over TLS."""
        port = _free_port()
        command = [sys.executable, "-m", "uvicorn", f"{app.module}:app", "--host", "127.0.0.1", "--port", str(port)]
        settings = {"UPSTREAM": self._urls[tls], "KEY": self._key, "SSL_CERT_FILE": str(self._ca_file)}
        with _process([*command, *FLAGS], settings) as process:
            _wait_for(process, port)
            yield Server(app, process.pid, port)

    def load(self, server: Server, kind: Kind, *size: int) -> Result:
        """Put a load of so many connections and so many units on a server, from a process of its own."""
        connections, count = size
        upstream = self._upstream if server.app is not ALONE else 0
        app = server.app
        job = Job(kind, server.port, app.path, self._key, server.pid, upstream, connections, count, app.rewritten)
        command = [sys.executable, "load.py", msgspec.json.encode(job).decode()]
        ended = subprocess.run(command, cwd=HERE, capture_output=True, timeout=120, check=False)
        if ended.returncode:
            sys.exit(f"{server.app.name}, {kind}: {ended.stderr.decode()[-2000:]}")
        return msgspec.json.decode(ended.stdout, type=Result)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def _process(command: list[str], settings: dict[str, str] | None = None) -> Generator[subprocess.Popen[bytes]]:
    """A process of ours in the folder of the benchmarks, ended with the block."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)} | (settings or {})
    process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()  # connections are still open: nothing to wait for
        process.communicate()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"{process.args!r} did not start")


def tell(words: str) -> None:
    """A line of progress."""
    print(words, file=sys.stderr, flush=True)


def relayed(bench: Bench, rounds: int, *, quick: bool) -> tuple[Samples, int]:
    """All rounds: in each every cell, and in each cell every app, another one first each time; exchanges compared."""
    alone = bench.start(ALONE)
    servers = {tls: [bench.start(app, tls=tls) for app in GATEWAYS] for tls in (False, True)}
    samples: Samples = {}
    compared = 0
    for number in range(rounds):
        for cell in CELLS:
            turn = number % len(GATEWAYS)
            asked = servers[cell.tls][turn:] + servers[cell.tls][:turn]
            if cell is CELLS[0]:
                asked = [alone, *asked]
            for server in asked:
                result = bench.load(server, cell.kind, cell.connections, cell.quick if quick else cell.count)
                compared += result.compared
                samples.setdefault((server.app, cell), []).append(result.cpu / result.units * 1e6)
            figures = ", ".join(f"{server.app.name} {samples[server.app, cell][-1]:.1f}" for server in asked)
            tell(f"round {number + 1} of {rounds}, {cell.name}: {figures} µs")
    return samples, compared


def silent(bench: Bench, rounds: int) -> list[Result]:
    """Silent streams through the whole, in a fresh process each time."""
    results: list[Result] = []
    for number in range(rounds):
        with bench.serving(WHOLE) as server:
            results.append(bench.load(server, "idle", STREAMS, 0))
        kilobytes, seconds = results[-1].stream_bytes / 1000, results[-1].ended_within
        tell(f"silent streams, {number + 1} of {rounds}: {kilobytes:.1f} KB each, ended within {seconds:.2f} s")
    return results


def ratio(samples: Samples, app: App, cell: Cell) -> float:
    """To (a) on plain sockets: the median over the rounds."""
    plain = next(each for each in CELLS if each.kind == cell.kind and not each.tls)
    pairs = zip(samples[app, cell], samples[BARE, plain], strict=True)
    return statistics.median(one / bare for one, bare in pairs)


def verdict(figure: float, goal: float, noise: float = 0.0) -> str:
    """Whether a goal is met."""
    if figure <= goal:
        return "met"
    return "within noise" if figure <= goal * (1 + noise) else "MISSED"


def report(samples: Samples, results: list[Result], compared: int, machine: dict[str, str]) -> None:
    """The Markdown."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\nCPU in µs for one request or event, and in brackets times (a) on plain sockets:\n")
    print("| | " + " | ".join(cell.name for cell in CELLS) + " |")
    print("|---" * (len(CELLS) + 1) + "|")
    for app in (ALONE, *GATEWAYS):
        figures = [
            f"{statistics.median(samples[app, cell]):.1f} ({ratio(samples, app, cell):.2f})"
            if (app, cell) in samples
            else "-"
            for cell in CELLS
        ]
        print(f"| {app.name} | " + " | ".join(figures) + " |")
    print("| goal for (c) | " + " | ".join(f"{cell.goal:.2f}" for cell in CELLS) + " |")
    met = [verdict(ratio(samples, WHOLE, cell), cell.goal, cell.noise) for cell in CELLS]
    print("| | " + " | ".join(met) + " |")
    kilobytes = statistics.median(result.stream_bytes for result in results) / 1000
    seconds = max(result.ended_within for result in results)
    print(f"\n| silent streams through (c), {STREAMS} at once | measured | goal | |\n|---|---|---|---|")
    print(f"| memory of one, KB | {kilobytes:.1f} | {STREAM_GOAL:g} | {verdict(kilobytes, STREAM_GOAL)} |")
    print(f"| upstream calls ended after, s | {seconds:.2f} | {VANISH_GOAL:g} | {verdict(seconds, VANISH_GOAL)} |")
    print(f"\nBytes compared at both ends: {compared} exchanges, all the same.")


def as_json(samples: Samples, results: list[Result], compared: int, machine: dict[str, str]) -> str:
    """Every figure of every round."""
    rows = [
        {
            "app": app.name,
            "cell": cell.name,
            "microseconds": figures,
            "ratio": ratio(samples, app, cell),
            "goal": cell.goal if app is WHOLE else None,
        }
        for (app, cell), figures in samples.items()
    ]
    streams = [{"bytes": result.stream_bytes, "ended_within": result.ended_within} for result in results]
    found = {"machine": machine, "relayed": rows, "silent_streams": streams, "exchanges_compared": compared}
    return json.dumps(found, indent=2, ensure_ascii=False)


def describe() -> dict[str, str]:
    """The machine."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    machine = {"machine": processor, "cores": str(os.cpu_count()), "Linux": platform.release()}
    return machine | {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _end(number: int, _frame: object) -> None:
    """Ended from outside, end what was started too."""
    sys.exit(128 + number)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with small counts: whether it runs, no more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    rounds: int = 1 if quick else arguments.rounds
    file: Path | None = arguments.json
    signal.signal(signal.SIGTERM, _end)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 500 streams are 1000 sockets for a gateway
    with ExitStack() as stack:
        bench = Bench(stack)
        results = silent(bench, min(3, rounds))
        samples, compared = relayed(bench, rounds, quick=quick)
    machine = describe()
    report(samples, results, compared, machine)
    if file is not None:
        file.write_text(as_json(samples, results, compared, machine))
    times = 1 / ratio(samples, ALONE, CELLS[0])
    if times > HONEST:
        sys.exit(f"(a) costs {times:.1f} times uvicorn alone, more than {HONEST:g}: it is not a valid baseline")


if __name__ == "__main__":
    main()
