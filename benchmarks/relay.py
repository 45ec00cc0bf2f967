"""What relaying costs, beside bare pass-throughs and nginx, in one interleaved run: `make bench`.

CPU (user and system) of the server's process for one request or one event:

- uvicorn answering alone, without an upstream (`alone.py`);
- nginx as a reverse proxy: buffering off, connections to the upstream kept (only if `nginx` is installed);
- bare: an ASGI pass-through on aiohttp (`bare_aiohttp.py`), under plain uvicorn, with the engine's timeouts. All ratios
  are to this one, in the same round;
- bare, our engine: the same on the project's HTTP client (`bare_engine.py`);
- mounted: the gateway in a Starlette app, under plain uvicorn, with keys, routes and two limits (`whole.py`);
- serve: the command `bud-asgi serve` with a TOML file of the same, its access log written to a file.

Also the memory of an idle stream, and how soon upstream calls end when 500 clients disconnect. Exits with an error when
bytes differ between the two ends, or when bare costs more than 5 times uvicorn alone: then it is not a fair baseline.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack

from harness import (
    NGINX,
    App,
    Bench,
    Cell,
    Options,
    Samples,
    describe,
    measure,
    options_of,
    print_machine,
    progress,
    spread,
    table,
    verdict,
    write_json,
)
from load import Result

ALONE = App("uvicorn alone", "alone", upstream=False)
PROXY = App("nginx", server="nginx")
BARE = App("bare", "bare_aiohttp")
ENGINE = App("bare, our engine", "bare_engine")
WHOLE = App("mounted", "whole", "/anthropic/v1/messages")
SERVE = App("serve", server="serve")
ALL = (ALONE, PROXY, BARE, ENGINE, WHOLE, SERVE)

GATEWAYS = (*((PROXY,) if NGINX else ()), BARE, WHOLE, SERVE)

CELLS = (
    Cell("small", "small JSON", "small", 16, 4000, 500, (ALONE, ENGINE, *GATEWAYS), {"mounted": 0.90, "serve": 0.62}),
    Cell(
        "small-tls", "small JSON, TLS upstream", "small", 16, 4000, 500, (WHOLE,), {"mounted": 1.05}, 0.1, True, "small"
    ),
    Cell("paced", "event, 100 streams at 50/s", "paced", 100, 3, 1, GATEWAYS, {"mounted": 0.95}, 0.15),
    Cell(
        "paced-tls", "event at 50/s, TLS upstream", "paced", 100, 3, 1, (WHOLE,), {"mounted": 1.4}, 0.15, True, "paced"
    ),
    Cell("flat", "event, flat out", "flat", 4, 60_000, 5000, (ENGINE, *GATEWAYS), {"mounted": 0.36}),
    Cell("short", "event, flat out, 16 streams of 500 each", "short", 16, 20, 2, GATEWAYS, {"mounted": 0.40}),
    Cell("body", "400 KB body", "body", 8, 500, 50, (ENGINE, *GATEWAYS), {"mounted": 0.80}),
)

IDLE = "idle"
IDLE_GOALS = {"mounted": 20.0, "serve": 16.0}
"""KB of memory for an idle stream."""

END_GOAL = 1.0
"""Seconds in which every upstream call must have ended."""

FAIR = 5.0
"""How many times uvicorn alone the baseline may cost."""


def chosen(options: Options) -> list[Cell]:
    """The cells to measure, with those that their ratios refer to."""
    bases = {cell.base for cell in CELLS if options.wants(cell.key)}
    return [cell for cell in CELLS if options.wants(cell.key) or cell.key in bases]


def idle_streams(bench: Bench, rounds: int, streams: int) -> Samples:
    """Idle streams, in a fresh process each time."""
    samples = Samples()
    cell = Cell(IDLE, "idle streams", "idle", streams, 0, 0, (WHOLE, SERVE))
    for number in range(rounds):
        for app in cell.apps:
            with bench.serving(app) as server:
                result = bench.load(server, cell, 0)
            samples.add(IDLE, app, result)
            figures = f"{result.stream_bytes / 1000:.1f} KB each, ended within {result.ended_within:.2f} s"
            progress(f"idle streams, {number + 1} of {rounds}, {app.name}: {figures}")
    return samples


def report(samples: Samples, cells: list[Cell]) -> None:
    """Print the figures, and what of them has a goal."""
    print("\nCPU in µs for one request or event; in brackets, times bare (on plain sockets):")
    apps = [app for app in ALL if any(samples.has(cell.key, app) for cell in cells)]
    table(
        ["", *(app.name for app in apps)],
        [[cell.name, *(figure(samples, cell, app) for app in apps)] for cell in cells],
    )
    rows = [
        [f"{cell.name}, {app.name}", spread(ratios), f"{cell.goals[app.name]:.2f}", judged]
        for cell in cells
        for app in cell.apps
        if app.name in cell.goals
        for ratios in [samples.ratios(cell.key, app, cell.base or cell.key, BARE)]
        for judged in [verdict(statistics.median(ratios), cell.goals[app.name], cell.noise)]
    ]
    table(["times bare", "median (least-greatest)", "goal", ""], rows)


def figure(samples: Samples, cell: Cell, app: App) -> str:
    """One figure of the table."""
    if not samples.has(cell.key, app):
        return "-"
    ratio = statistics.median(samples.ratios(cell.key, app, cell.base or cell.key, BARE))
    return f"{samples.median(cell.key, app):.1f} ({ratio:.2f})"


def report_idle(idle: Samples, streams: int) -> None:
    """Print what idle streams take."""
    rows: list[list[str]] = []
    for app in (WHOLE, SERVE):
        results: list[Result] = idle.results[IDLE, app.name]
        kilobytes = statistics.median(result.stream_bytes for result in results) / 1000
        seconds = max(result.ended_within for result in results)
        goal = IDLE_GOALS[app.name]
        rows.append([f"memory of one, KB, {app.name}", f"{kilobytes:.1f}", f"{goal:g}", verdict(kilobytes, goal, 0.05)])
        rows.append([f"upstream calls ended after, s, {app.name}", f"{seconds:.2f}", "1", verdict(seconds, END_GOAL)])
    table([f"idle streams, {streams} at once", "measured", "goal", ""], rows)


def nginx_version() -> str:
    """The version of nginx, or how to get a column of it."""
    if NGINX is None:
        return "nginx is not installed: its column is left out (apt-get install nginx-light)"
    shown = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True)
    return shown.stderr.strip().replace("nginx version: nginx/", "nginx ")


def main() -> None:
    """Measure everything and print it."""
    options = options_of(__doc__, [*(cell.key for cell in CELLS), IDLE])
    cells, streams = chosen(options), 100 if options.quick else 500
    with ExitStack() as stack:
        bench = Bench(stack, quick=options.quick)
        idle = idle_streams(bench, min(3, options.rounds), streams) if options.wants(IDLE) else Samples()
        samples = measure(bench, cells, options.rounds, quick=options.quick)
        if bench.access_log.exists() and not bench.access_log.stat().st_size:
            sys.exit("bud-asgi serve wrote no access log")
    print_machine(describe())
    print(nginx_version())
    if cells:
        report(samples, cells)
        print(f"\n{samples.compared} exchanges were compared at both ends: all bytes are the same.")
    if idle.results:
        report_idle(idle, streams)
    memory = {app: [result.stream_bytes for result in results] for (_, app), results in idle.results.items()}
    write_json(options, "relay.json", samples, idle_stream_bytes=memory)
    if samples.has("small", ALONE) and not options.quick:
        times = statistics.median(samples.ratios("small", BARE, "small", ALONE))
        if times > FAIR:
            sys.exit(f"bare costs {times:.1f} times uvicorn alone, more than {FAIR:g}: it is not a fair baseline")


if __name__ == "__main__":
    main()
