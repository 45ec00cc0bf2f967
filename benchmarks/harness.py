"""What the benchmarks share: the servers of a run, the rounds, the options, and the figures as Markdown and JSON.

Each figure is CPU time (user and system) of a server's process and its children, for one request or one event. In each
round every cell is measured, and in each cell every server, in another order each time. A figure is the median of the
rounds; a ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Literal

import msgspec
from load import Job, Kind, Result, Vary

from bud_asgi import hash_api_key, new_api_key

HERE = Path(__file__).parent
UVICORN = ("--loop", "uvloop", "--http", "httptools", "--lifespan", "auto", "--no-access-log", "--log-level", "warning")
PACKAGES = ("bud-asgi", "aiohttp", "uvicorn", "uvloop", "httptools", "starlette", "msgspec")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

GATEWAY_TOML = """\
[providers.upstream]
kind = "anthropic"
base_url = "{upstream}"
api_key = "env:UPSTREAM_KEY"

[[keys]]
name = "bench"
hash = "{hash}"
models = ["claude-*"]

[[routes]]
model = "claude-haiku-4-5"
to = ["upstream"]

[[routes]]
model = "claude-*"
to = ["upstream"]

[[limits]]
requests = 1000000000

[[limits]]
requests = 1000000000
per = "all"
"""

NGINX_CONF = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    upstream service {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


class App(msgspec.Struct, frozen=True):
    """A server to measure: what runs it, its app (a module in this folder), and the path of its Messages API.

    `rewritten`: what it sends upstream is not what it received. `upstream`: whether it has an upstream at all.
    """

    name: str
    module: str = ""
    path: str = "/v1/messages"
    server: Literal["uvicorn", "serve", "nginx"] = "uvicorn"
    rewritten: bool = False
    upstream: bool = True


class Cell(msgspec.Struct, frozen=True):
    """One kind of load: `count` units of it (`quick` with `--quick`), on `apps`.

    `goals` are ratios by the name of an app. `base` is the key of the cell that they refer to, by default the same.
    """

    key: str
    name: str
    kind: Kind
    connections: int
    count: int
    quick: int
    apps: tuple[App, ...]
    goals: dict[str, float] = {}
    noise: float = 0.10
    tls: bool = False
    base: str = ""
    vary: Vary = "nothing"
    betas: bool = False


class Options(msgspec.Struct, frozen=True):
    """The options of a run. `only` are keys of cells; `folder` is where every figure is written."""

    quick: bool
    rounds: int
    only: tuple[str, ...]
    folder: Path | None

    def wants(self, key: str) -> bool:
        """Whether a cell is to be measured."""
        return not self.only or key in self.only


class Server(msgspec.Struct, frozen=True):
    """A running server."""

    app: App
    pid: int
    port: int


class Bench:
    """The processes of a run. All of them end with the run."""

    def __init__(self, stack: ExitStack, *, quick: bool = False) -> None:
        self._stack = stack
        self._pause = 0.1 if quick else 0.5
        self._key = new_api_key()
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._ca_file = self._folder / "ca.pem"
        self._servers: dict[tuple[App, bool], Server] = {}
        upstream = stack.enter_context(_process([sys.executable, "upstream.py", str(self._ca_file)], {}))
        assert upstream.stdout is not None
        plain, secure = upstream.stdout.readline().decode().split()
        self._upstream = int(plain)
        self._urls = {False: f"http://127.0.0.1:{plain}", True: f"https://127.0.0.1:{secure}"}
        self.access_log = self._folder / "access.log"

    def server(self, app: App, *, tls: bool = False) -> Server:
        """The server of an app, started on first use and kept until the end of the run."""
        if (app, tls) not in self._servers:
            self._servers[app, tls] = self._stack.enter_context(self.serving(app, tls=tls))
        return self._servers[app, tls]

    @contextmanager
    def serving(self, app: App, *, tls: bool = False) -> Generator[Server]:
        """Start a server of an app, its upstream plain or over TLS."""
        port = _free_port()
        environment = {
            "UPSTREAM": self._urls[tls],
            "KEY": self._key,
            "SSL_CERT_FILE": str(self._ca_file),
            "UPSTREAM_KEY": "sk-ant-upstream",
        }
        with ExitStack() as stack:
            output = stack.enter_context(self.access_log.open("ab")) if app.server == "serve" else subprocess.PIPE
            process = stack.enter_context(_process(self._command(app, port, self._urls[tls]), environment, output))
            _wait_for(process, port)
            yield Server(app, process.pid, port)

    def _command(self, app: App, port: int, upstream: str) -> list[str]:
        match app.server:
            case "uvicorn":
                address = ["--host", "127.0.0.1", "--port", str(port)]
                return [sys.executable, "-m", "uvicorn", f"{app.module}:app", *address, *UVICORN]
            case "serve":
                file = self._folder / f"gateway-{port}.toml"
                file.write_text(GATEWAY_TOML.format(upstream=upstream, hash=hash_api_key(self._key)))
                return [sys.executable, "-m", "bud_asgi", "serve", str(file), "--port", str(port), *UVICORN[-2:]]
            case "nginx":
                folder = Path(tempfile.mkdtemp(dir=self._folder))
                file = folder / "nginx.conf"
                authority = upstream.removeprefix("http://")
                file.write_text(NGINX_CONF.format(folder=folder, port=port, upstream=authority))
                return [NGINX or "nginx", "-p", str(folder), "-c", str(file)]

    def load(self, server: Server, cell: Cell, count: int) -> Result:
        """Put the load of a cell on a server, `count` units of it, from a process of its own."""
        app = server.app
        job = Job(
            kind=cell.kind,
            port=server.port,
            path=app.path,
            key=self._key,
            pid=server.pid,
            upstream=self._upstream if app.upstream else 0,
            connections=cell.connections,
            count=count,
            rewritten=app.rewritten,
            vary=cell.vary,
            betas=cell.betas,
            pause=self._pause,
        )
        command = [sys.executable, "load.py", msgspec.json.encode(job).decode()]
        ended = subprocess.run(command, cwd=HERE, capture_output=True, timeout=120, check=False)
        if ended.returncode:
            sys.exit(f"{app.name}, {cell.name}: {ended.stderr.decode()[-2000:]}")
        return msgspec.json.decode(ended.stdout, type=Result)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def _process(
    command: list[str], settings: dict[str, str], output: int | IO[bytes] = subprocess.PIPE
) -> Generator[subprocess.Popen[bytes]]:
    """Run a process in the folder of the benchmarks until the end of the block."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)} | settings
    process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=output)
    try:
        yield process
    finally:
        process.kill()  # connections are still open: there is nothing to wait for
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


class Samples:
    """The results of a run, by cell and app, one for each round."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, str], list[Result]] = {}

    @property
    def compared(self) -> int:
        """How many exchanges were compared at both ends."""
        return sum(result.compared for results in self.results.values() for result in results)

    def add(self, cell: str, app: App, result: Result) -> float:
        """Add the result of a round; returns it in µs for one unit."""
        self.results.setdefault((cell, app.name), []).append(result)
        return result.microseconds

    def has(self, cell: str, app: App) -> bool:
        """Whether an app was measured in a cell."""
        return (cell, app.name) in self.results

    def microseconds(self, cell: str, app: App) -> list[float]:
        """CPU for one unit, one figure for each round."""
        return [result.microseconds for result in self.results[cell, app.name]]

    def median(self, cell: str, app: App) -> float:
        """The median of these."""
        return statistics.median(self.microseconds(cell, app))

    def ratios(self, cell: str, app: App, base_cell: str, base: App) -> list[float]:
        """An app to another one, within each round."""
        pairs = zip(self.microseconds(cell, app), self.microseconds(base_cell, base), strict=True)
        return [one / other for one, other in pairs]


def measure(bench: Bench, cells: Sequence[Cell], rounds: int, *, quick: bool) -> Samples:
    """Measure every cell in every round."""
    samples = Samples()
    for number in range(rounds):
        for cell in cells:
            turn = number % len(cell.apps)
            figures: list[str] = []
            for app in cell.apps[turn:] + cell.apps[:turn]:
                count = cell.quick if quick else cell.count
                result = bench.load(bench.server(app, tls=cell.tls), cell, count)
                figures.append(f"{app.name} {samples.add(cell.key, app, result):.2f}")
            progress(f"round {number + 1} of {rounds}, {cell.name}: {', '.join(figures)} µs")
    return samples


def progress(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def spread(ratios: Sequence[float]) -> str:
    """The median, and in brackets the least and the greatest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def verdict(figure: float, goal: float, noise: float = 0.0) -> str:
    """Whether a goal is met."""
    if figure <= goal:
        return "met"
    return "within noise" if figure <= goal * (1 + noise) else "missed"


def describe() -> dict[str, str]:
    """The day, the machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": next(models, platform.machine()),
        "cores": str(os.cpu_count()),
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }
    return machine | {name: version(name) for name in PACKAGES}


def print_machine(machine: dict[str, str]) -> None:
    """Print what `describe` returns, in a line."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()))


def write_json(options: Options, name: str, samples: Samples, **more: object) -> None:
    """Write every figure of every round to `name` in the folder of the options, if there is one."""
    if options.folder is None:
        return
    figures = [
        {"cell": cell, "app": app, "microseconds": [result.microseconds for result in results]}
        for (cell, app), results in samples.results.items()
    ]
    found = {"machine": describe(), "figures": figures, "exchanges_compared": samples.compared, **more}
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / name).write_text(json.dumps(found, indent=2, ensure_ascii=False))


def options_of(doc: str | None, keys: Sequence[str]) -> Options:
    """Read the command line, and prepare this process: it ends its children, and may open many files."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with small counts: only whether it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], choices=keys, help="a cell to measure; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="where to write every figure")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    signal.signal(signal.SIGTERM, _exit)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 500 streams are 1000 sockets in a gateway
    return Options(quick, 1 if quick else arguments.rounds, tuple(arguments.only), arguments.json)


def _exit(number: int, _frame: object) -> None:
    """Exit by an exception, so that the processes of the run are ended."""
    sys.exit(128 + number)
