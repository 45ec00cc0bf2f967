"""The values of the metrics: plain numbers, which cost a fraction of the locks that `prometheus_client` takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from bud_asgi.telemetry.prometheus.metrics import OTHER, Labels, Metric

MAX_NAMES = 200
"""How many routes, and how many targets, have a label of their own."""

MAX_SERIES = 2_000
"""How many series a metric may have before names in new ones become `other`. The other labels have closed sets."""

_LONGEST = 100

Value = float | tuple[tuple[int, ...], float]
"""A number; of a histogram how many values each bucket has, the last one all above, and their sum."""

Values = Mapping[str, Mapping[Labels, Value]]
"""Values by the name of the metric and by labels."""


class Counter:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Histogram:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Names:
    """Turns names into values of a label: the first `MAX_NAMES` as they are, printable and cut, the rest into `other`.

    Routes and targets are configured; those of a router function may be computed from what clients send.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def label(self, name: object) -> str:
        """The value for a name. A host's code may also have set something other than a string."""
        text = name if isinstance(name, str) else f"<{type(name).__name__}>"
        if (known := self._known.get(text)) is not None:
            return known
        if len(self._known) >= MAX_NAMES:
            return OTHER
        label = text.encode("utf-8", "backslashreplace").decode()
        label = "".join(one if one.isprintable() else "?" for one in label[:_LONGEST])
        self._known[text] = label
        return label


class Series:
    """The values of all metrics that are counted, by labels."""

    __slots__ = ("_counters", "_histograms")

    def __init__(self) -> None:
        self._counters: dict[Metric, dict[Labels, Counter]] = {}
        self._histograms: dict[Metric, dict[Labels, Histogram]] = {}

    def counter(self, metric: Metric, labels: Labels = ()) -> Counter:
        """The counter with these labels, which is 0 at first."""
        known = self._counters.setdefault(metric, {})
        labels = _bounded(metric, labels, known)
        return known.get(labels) or known.setdefault(labels, Counter())

    def histogram(self, metric: Metric, labels: Labels = ()) -> Histogram:
        """The histogram with these labels."""
        known = self._histograms.setdefault(metric, {})
        labels = _bounded(metric, labels, known)
        return known.get(labels) or known.setdefault(labels, Histogram(metric.bounds))

    def values(self) -> dict[str, dict[Labels, Value]]:
        """What all have now. May be called from another thread."""
        found: dict[str, dict[Labels, Value]] = {}
        for metric, counters in list(self._counters.items()):
            found[metric.name] = {labels: one.value for labels, one in list(counters.items())}
        for metric, histograms in list(self._histograms.items()):
            found[metric.name] = {labels: (tuple(one.counts), one.sum) for labels, one in list(histograms.items())}
        return found


def _bounded(metric: Metric, labels: Labels, known: Mapping[Labels, object]) -> Labels:
    """The labels, or those with `other` in place of names where there are too many series already."""
    if len(known) < MAX_SERIES or labels in known:
        return labels
    return tuple(OTHER if name in metric.named else value for name, value in zip(metric.labels, labels, strict=True))
