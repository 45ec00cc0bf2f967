"""What Bedrock costs beside Anthropic's own format, through the whole gateway, in one interleaved run: `make bench`.

CPU of the gateway's process for one request or event. A request to Bedrock is rewritten and signed; each event of the
reply is taken out of a frame, whose checksums are verified. Requests are matched at both ends by a number in them, and
the bytes of every reply are compared with what its frames contain.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from harness import App, Bench, Cell, describe, measure, options_of, print_machine, spread, table, verdict, write_json
from relay import WHOLE

BEDROCK = App("Bedrock", "whole_bedrock", "/anthropic/v1/messages", rewritten=True)
BOTH = (WHOLE, BEDROCK)

CELLS = (
    Cell("bedrock-request", "request, 2 kB body", "medium", 16, 4000, 500, BOTH, {"Bedrock": 1.25}),
    Cell("bedrock-paced", "event, 100 streams at 50/s", "paced", 100, 3, 1, BOTH, {"Bedrock": 1.15}, 0.15),
    Cell("bedrock-flat", "event, flat out", "flat", 4, 60_000, 5000, BOTH, {"Bedrock": 3.0}),
)


def main() -> None:
    """Measure and print it."""
    options = options_of(__doc__, [cell.key for cell in CELLS])
    cells = [cell for cell in CELLS if options.wants(cell.key)]
    with ExitStack() as stack:
        samples = measure(Bench(stack, quick=options.quick), cells, options.rounds, quick=options.quick)
    print_machine(describe())
    print("\nCPU in µs for one request or event, mounted in a Starlette app:")
    rows: list[list[str]] = []
    for cell in cells:
        ratios = samples.ratios(cell.key, BEDROCK, cell.key, WHOLE)
        goal = cell.goals["Bedrock"]
        medians = [f"{samples.median(cell.key, app):.2f}" for app in BOTH]
        judged = verdict(statistics.median(ratios), goal, cell.noise)
        rows.append([cell.name, *medians, spread(ratios), f"{goal:g}", judged])
    table(["", "Anthropic", "Bedrock", "ratio: median (least-greatest)", "goal", ""], rows)
    print(f"\n{samples.compared} exchanges were compared at both ends: all as expected.")
    write_json(options, "clouds.json", samples)


if __name__ == "__main__":
    main()
