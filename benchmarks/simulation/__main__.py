"""Run all scenarios under all policies, and write the figures and plots of docs/simulation.md: `make simulate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from math import inf
from pathlib import Path

import msgspec

from benchmarks.simulation.figures import Figures, Point, figures_of, points_of
from benchmarks.simulation.plots import plot
from benchmarks.simulation.policies import AFFINITY, POLICIES, Policy, affinity_within
from benchmarks.simulation.report import bounds_section, goals_table, scenario_section, write
from benchmarks.simulation.run import simulate
from benchmarks.simulation.scenarios import MAIN, SCENARIOS, UNDISTURBED, Scenario

SEEDS = range(1, 7)
MANY_SEEDS = range(1, 31)
"""For what depends on how conversations happen to be spread."""
BOUNDS = (0.0, 0.5, 0.75, 1.0, 1.5, inf)
DOCS = Path(__file__).parents[2] / "docs"


class Outcome(msgspec.Struct, frozen=True):
    """The figures and the course of a policy in a scenario, of all runs together."""

    figures: Figures
    points: list[Point]


def outcome(scenario: Scenario, policy: Policy) -> Outcome:
    """Run a scenario under a policy, once for each seed."""
    runs = [simulate(scenario, policy, seed) for seed in SEEDS]
    return Outcome(figures_of(runs), points_of(runs))


def each_run(scenario: Scenario, policy: Policy) -> list[Figures]:
    """The figures of many runs, each alone."""
    return [figures_of([simulate(scenario, policy, seed)]) for seed in MANY_SEEDS]


def compare(executor: Executor, scenario: Scenario) -> str:
    """Compare the policies in a scenario: write its plot, and return its section."""
    found = list(executor.map(outcome, [scenario] * len(POLICIES), POLICIES))
    names = [policy.name for policy in POLICIES]
    courses = [one.points for one in found]
    plot(scenario, dict(zip(names, courses, strict=True)), DOCS / "simulation" / f"{scenario.name}.svg")
    return scenario_section(scenario, dict(zip(names, (one.figures for one in found), strict=True)))


def compare_bounds(executor: Executor) -> Sequence[str]:
    """Run the main scenario often, and compare bounds on the load of a target; returns the sections."""
    policies = [AFFINITY, *map(affinity_within, BOUNDS)]
    goals, *bounds = executor.map(each_run, [MAIN, *[UNDISTURBED] * len(BOUNDS)], policies)
    return goals_table(goals), bounds_section(dict(zip(BOUNDS, bounds, strict=True)))


def main() -> None:
    """Write the page and its plots."""
    (DOCS / "simulation").mkdir(exist_ok=True)
    with ProcessPoolExecutor() as executor:
        sections: list[str] = []
        for scenario in SCENARIOS:
            print(scenario.title, file=sys.stderr, flush=True)
            sections.append(compare(executor, scenario))
        print("Goals and bounds", file=sys.stderr, flush=True)
        goals, bounds = compare_bounds(executor)
    write(DOCS / "simulation.md", [goals, *sections, bounds])


if __name__ == "__main__":
    main()
