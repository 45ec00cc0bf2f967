"""The figures as Markdown, written between two markers of a page whose rest is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill

from benchmarks.simulation.figures import Figures
from benchmarks.simulation.scenarios import Scenario
from bud_asgi.routing.balance import DEVIATIONS, FACTOR

BEGIN, END = "<!-- figures: make simulate -->\n", "<!-- /figures -->\n"

_COLUMNS = (
    "policy",
    "successful requests",
    "added latency, p50",
    "p99",
    "wasted attempts",
    "spent twice",
    "cache reads",
    "input cost",
    "busiest target",
)

_BOUNDS = (
    f"A conversation goes to another target while its own has more requests in flight than {FACTOR} times its share, "
    f"and so many standard deviations more. No target has a fault here. The gateway's `DEVIATIONS` are {DEVIATIONS}."
)


def goals_table(runs: Sequence[Figures]) -> str:
    """The goals of the main scenario, and what its runs come to."""
    succeeded, cached, busiest = _spread(runs)
    rows = (
        ("successful requests", "at least 99.9%", f"{fmean(succeeded):.2%}", f"{min(succeeded):.2%}"),
        ("cache reads, of the ideal", "at least 95%", f"{fmean(cached):.1%}", f"{min(cached):.1%}"),
        ("busiest target, of the mean load", "at most 1.25", f"{fmean(busiest):.2f}", f"{max(busiest):.2f}"),
    )
    return _table(("one target out for 60 seconds, `affinity`", "goal", f"mean of {len(runs)} runs", "worst run"), rows)


def scenario_section(scenario: Scenario, outcomes: Mapping[str, Figures]) -> str:
    """The section of a scenario: its text, its plot, and a row for each policy."""
    rows = [_row(name, figures) for name, figures in outcomes.items()]
    plot = f"![{scenario.title}: the course of each policy](simulation/{scenario.name}.svg)"
    return "\n\n".join((f"## {scenario.title}", fill(scenario.text, 120), plot, _table(_COLUMNS, rows)))


def bounds_section(outcomes: Mapping[float, Sequence[Figures]]) -> str:
    """The section of the bounds on a target's load: for each, the mean of its runs, and the worst of them."""
    head = ("standard deviations", "cache reads", "in the worst run", "busiest target", "in the worst run")
    rows: list[Sequence[str]] = []
    for deviations, runs in outcomes.items():
        _, cached, busiest = _spread(runs)
        figures = f"{fmean(cached):.1%}", f"{min(cached):.1%}", f"{fmean(busiest):.2f}", f"{max(busiest):.2f}"
        rows.append((f"{deviations:g}".replace("inf", "no bound"), *figures))
    return f"## The bound on a target's load\n\n{fill(_BOUNDS, 120)}\n\n{_table(head, rows)}"


def write(page: Path, sections: Sequence[str]) -> None:
    """Replace what is between the markers. Raises `ValueError` for a page without them."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the figures: {BEGIN.strip()} and {END.strip()}")
    page.write_text(f"{before}{begin}\n" + "\n\n".join(sections) + f"\n\n{end}{after}")


def _row(name: str, figures: Figures) -> Sequence[str]:
    return (
        name,
        f"{figures.succeeded:.2%}",
        f"{figures.added_p50:.2f} s",
        f"{figures.added_p99:.1f} s",
        f"{figures.wasted:.1%}",
        f"{figures.spent_twice:.1%}",
        f"{figures.cached:.1%}",
        f"{figures.input_cost:.2f}",
        f"{figures.busiest:.2f}",
    )


def _spread(runs: Sequence[Figures]) -> tuple[list[float], list[float], list[float]]:
    return [run.succeeded for run in runs], [run.cached for run in runs], [run.busiest for run in runs]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("%", " %")
