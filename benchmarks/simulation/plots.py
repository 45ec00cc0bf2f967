"""The plots: one for each scenario, with a line for each policy. They are the same for the same figures."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Matplotlib is only installed for `make simulate`, and its types are incomplete.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.simulation.figures import BUCKET, PLOTTED, Point
from benchmarks.simulation.scenarios import Scenario

_GREY = "#808080"  # can be read on white and on black
_LINES = (("#2f81f7", "-"), ("#2da58e", "--"), ("#e08a1e", "-."), ("#d6568f", ":"))

_PANELS: Mapping[str, Callable[[Point], float]] = {
    "successful requests, %": lambda point: 100.0 * point.succeeded,
    "cache reads, % of the ideal": lambda point: 100.0 * point.cached,
    "added latency, 95th percentile, seconds": lambda point: point.added_p95,
    "attempts at the affected targets, %": lambda point: 100.0 * point.affected,
}

_STYLE: dict[Any, Any] = {  # the names of options are a type of Matplotlib's
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bud_asgi",  # the ids within the file are the same each time
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.titlecolor": _GREY,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.labelcolor": _GREY,
}


def plot(scenario: Scenario, courses: Mapping[str, Sequence[Point]], file: Path) -> None:
    """Write the plot of a scenario, in the format of the file's suffix.

    `courses` are the points of each policy, by its name. The time of the faults is shaded.
    """
    minutes = [(index + 0.5) * BUCKET / 60.0 for index in range(PLOTTED // BUCKET)]
    begin, end = (min(max(time, 0.0), PLOTTED) / 60.0 for time in scenario.disturbed)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 5.0), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        for axes, (title, value) in zip(panels.flat, _PANELS.items(), strict=True):
            for (name, points), (colour, style) in zip(courses.items(), _LINES, strict=True):
                axes.plot(minutes, [value(point) for point in points], style, color=colour, label=name, linewidth=1.6)
            axes.axvspan(begin, end, color=_GREY, alpha=0.15, linewidth=0.0)
            axes.set_title(title, loc="left")
            if "%" in title:
                axes.set_ylim(0.0, 104.0)
            axes.grid(axis="y", color=_GREY, alpha=0.25, linewidth=0.5)
        for axes in panels[1]:
            axes.set_xlabel("minutes")
            axes.set_xlim(0.0, PLOTTED / 60.0)
        figure.legend(
            *panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(_LINES), frameon=False
        )
        figure.savefig(
            file, transparent=True, metadata={"Date": None, "Creator": None} if file.suffix == ".svg" else None
        )
