"""What Bedrock costs beside Anthropic's own format, through the whole gateway, in one interleaved run: `make bench`.

CPU of the gateway's process for one request or event. On the way to Bedrock a request is written anew and signed; on
the way back each event is taken out of a frame whose checksums are checked. Requests are known at both ends by their
numbers, and the bytes of every reply are compared with what must come of the frames.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack

from relay import WHOLE, App, Bench, Cell, tell, verdict

BEDROCK = App("the whole, Bedrock behind it", "whole_bedrock", "/anthropic/v1/messages", rewritten=True)

CELLS = (
    Cell("request, 2 kB body", "medium", 16, 4000, 500, 1.5),
    Cell("event, 100 streams at 50/s", "paced", 100, 4, 1, 2.0, noise=0.15),
    Cell("event, flat out", "flat", 4, 60_000, 5000, 3.0),
)

Samples = dict[tuple[App, Cell], list[float]]
"""Microseconds for one unit, one figure a round."""


def measured(bench: Bench, rounds: int, *, quick: bool) -> tuple[Samples, int]:
    """All rounds: in each every cell, and in each cell both apps, another one first each time; exchanges compared."""
    servers = [bench.start(app) for app in (WHOLE, BEDROCK)]
    samples: Samples = {}
    compared = 0
    for number in range(rounds):
        for cell in CELLS:
            for server in servers if number % 2 else servers[::-1]:
                result = bench.load(server, cell.kind, cell.connections, cell.quick if quick else cell.count)
                compared += result.compared
                samples.setdefault((server.app, cell), []).append(result.cpu / result.units * 1e6)
            figures = ", ".join(f"{server.app.name} {samples[server.app, cell][-1]:.2f}" for server in servers)
            tell(f"round {number + 1} of {rounds}, {cell.name}: {figures} µs")
    return samples, compared


def main() -> None:
    """Measure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with small counts: whether it runs, no more")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    with ExitStack() as stack:
        samples, compared = measured(Bench(stack), 1 if quick else arguments.rounds, quick=quick)
    print("\nCPU in µs for one request or event, and how many times Anthropic's own format:\n")
    print("| | Anthropic | Bedrock | times | goal | |\n|---|---|---|---|---|---|")
    for cell in CELLS:
        native, bedrock = samples[WHOLE, cell], samples[BEDROCK, cell]
        times = statistics.median(one / other for one, other in zip(bedrock, native, strict=True))
        figures = f"{statistics.median(native):.2f} | {statistics.median(bedrock):.2f} | {times:.2f}"
        print(f"| {cell.name} | {figures} | {cell.goal:g} | {verdict(times, cell.goal, cell.noise)} |")
    print(f"\nCompared at both ends: {compared} exchanges, all as they must be.")


if __name__ == "__main__":
    main()
