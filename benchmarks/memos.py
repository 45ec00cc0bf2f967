"""What a small request costs when nothing about it is remembered, beside the same request repeated: `make bench`.

The gateway remembers what it found out about headers, betas, models and callers. Here each request has another key (of
100,000, in random order), other betas, another model, another user agent, or all of these, and none of them comes
again. That is the worst case: every look-up fails and every entry evicts another one. The memory that the process grows
by shows what is kept for each.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from harness import App, Bench, Cell, describe, measure, options_of, print_machine, spread, table, write_json

MANY = App("100,000 keys", "many")

REPEATED = Cell("repeated", "the same request", "small", 16, 4000, 500, (MANY,), betas=True)
CELLS = (
    REPEATED,
    Cell("keys", "another key each time", "small", 16, 4000, 500, (MANY,), vary="keys", betas=True),
    Cell("betas", "other betas each time", "small", 16, 4000, 500, (MANY,), vary="betas", betas=True),
    Cell("models", "another model each time", "small", 16, 4000, 500, (MANY,), vary="models", betas=True),
    Cell("agents", "another user agent each time", "small", 16, 4000, 500, (MANY,), vary="agents", betas=True),
    Cell("all", "all of these", "small", 16, 4000, 500, (MANY,), vary="all", betas=True),
)


def main() -> None:
    """Measure and print it."""
    options = options_of(__doc__, [cell.key for cell in CELLS])
    cells = [cell for cell in CELLS if options.wants(cell.key) or cell is REPEATED]
    with ExitStack() as stack:
        samples = measure(Bench(stack, quick=options.quick), cells, options.rounds, quick=options.quick)
    print_machine(describe())
    rows: list[list[str]] = []
    for cell in cells:
        ratios = samples.ratios(cell.key, MANY, REPEATED.key, MANY)
        grown = [result.grown / result.units for result in samples.results[cell.key, MANY.name]]
        memory = f"{statistics.fmean(grown):.0f}"
        rows.append([cell.name, f"{samples.median(cell.key, MANY):.1f}", spread(ratios), memory])
    print("\nCPU of a small request, with 100,000 keys, directly under uvicorn:")
    table(["", "µs", "ratio: median (least-greatest)", "memory grows by, bytes a request"], rows)
    print(f"\n{samples.compared} exchanges were compared at both ends: all bytes are the same.")
    write_json(options, "memos.json", samples)


if __name__ == "__main__":
    main()
