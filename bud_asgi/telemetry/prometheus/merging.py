"""Adding up the values of several processes, or of several things that share a label."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import add

from bud_asgi.telemetry.prometheus.metrics import METRICS, Labels, Metric
from bud_asgi.telemetry.prometheus.series import Value, Values

_BY_NAME = {metric.name: metric for metric in METRICS}


def merge(several: Iterable[Values]) -> dict[str, dict[Labels, Value]]:
    """One set of values from those of several processes. Metrics of another version are left out."""
    found: dict[str, dict[Labels, Value]] = {}
    for name, series in chain.from_iterable(values.items() for values in several):
        if (metric := _BY_NAME.get(name)) is not None:
            for labels, value in series.items():
                put(found, metric, labels, value)
    return found


def put(found: dict[str, dict[Labels, Value]], metric: Metric, labels: Labels, value: Value) -> None:
    """Add a value to those found before, by the rule of its metric."""
    series = found.setdefault(metric.name, {})
    series[labels] = _merged(metric, series[labels], value) if labels in series else value


def _merged(metric: Metric, one: Value, other: Value) -> Value:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return tuple(map(add, one[0], other[0])), one[1] + other[1]
    if isinstance(one, tuple) or isinstance(other, tuple):
        raise TypeError(f"{metric.name} is a histogram in one process, and none in another")
    if metric.merge == "sum":
        return one + other
    return max(one, other) if metric.merge == "max" else min(one, other)
