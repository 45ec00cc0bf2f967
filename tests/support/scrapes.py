"""Scrapes of metrics, read by the parsers of `prometheus_client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from bud_asgi.telemetry.prometheus.metrics import METRICS

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}

Samples = Mapping[tuple[str, tuple[str, ...]], float]
"""Values by the name of the sample and the values of its labels, in the order of the metric's."""

_BY_NAME = {metric.name.removesuffix("_total"): metric for metric in METRICS}


def read_samples(text: str, *, openmetrics: bool = False) -> Samples:
    """All samples of a scrape but the buckets of histograms. Fails for what is not declared, or there twice."""
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    families = list((read_openmetrics if openmetrics else read_text)(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        metric = _BY_NAME[family.name]
        assert family.type == metric.kind
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                assert set(sample.labels) == set(metric.labels)
                key = sample.name, tuple(sample.labels[name] for name in metric.labels)
                assert key not in found
                found[key] = sample.value
    return found


def scrape(url: str, *, openmetrics: bool = False) -> Samples:
    """Scrape the metrics at an address."""
    reply = httpx.get(url, headers=OPENMETRICS if openmetrics else {}, timeout=30)
    assert reply.status_code == 200, reply.text
    return read_samples(reply.text, openmetrics=openmetrics)


def counted(before: Samples, after: Samples) -> dict[str, float]:
    """What the counters and the numbers of values have grown by: `requests_total messages.create ...` and so on."""
    return {
        " ".join([name.removeprefix("bud_"), *labels]): value - before.get((name, labels), 0.0)
        for (name, labels), value in after.items()
        if name.endswith(("_total", "_count")) and value != before.get((name, labels), 0.0)
    }


def total(samples: Samples, name: str, *labels: str) -> float:
    """The sum of the samples of a name whose labels begin so."""
    return sum(value for (one, of), value in samples.items() if one == name and of[: len(labels)] == labels)


def labels_of(samples: Samples, name: str) -> Sequence[tuple[str, ...]]:
    """The labels of all samples of a name."""
    return [labels for one, labels in samples if one == name]
