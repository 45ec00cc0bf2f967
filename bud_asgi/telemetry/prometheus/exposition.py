"""The metrics in the forms of `prometheus_client`: a collector, and an ASGI app."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from bud_asgi.observer import Observer
from bud_asgi.options import OptionError
from bud_asgi.state import AppState
from bud_asgi.telemetry.prometheus.gauges import values_of_state
from bud_asgi.telemetry.prometheus.merging import merge
from bud_asgi.telemetry.prometheus.metrics import METRICS, Labels, Metric
from bud_asgi.telemetry.prometheus.observer import RequestCounts
from bud_asgi.telemetry.prometheus.series import Names, Series, Value, Values
from bud_asgi.telemetry.prometheus.shared import SharedFile, read_all

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the directory that the processes of a server share."""


class Metrics:
    """The metrics of an app: an ASGI app that a Prometheus server scrapes, and a collector of `prometheus_client`.

    The app answers GET and HEAD on any path, as text or OpenMetrics by `Accept`, compressed by `Accept-Encoding`, with
    all metrics of the `registry`. `collect` may be called from any thread. `state` returns that of the app, `observers`
    are what its requests are to be counted with.

    In the multiprocess mode of `prometheus_client` (the variable `PROMETHEUS_MULTIPROC_DIR`) the metrics are those of
    all processes whose apps have the same providers, a second old at most.
    """

    def __init__(self, state: Callable[[], AppState], registry: CollectorRegistry | None = None) -> None:
        self._series, self._targets = Series(), Names()
        self._state = state
        self.observers: tuple[Observer, ...] = (RequestCounts(self._series, self._targets),)
        self._file: SharedFile | None = None
        if directory := os.environ.get(SHARED_DIRECTORY):
            self._file = SharedFile(Path(directory), _digest([one.provider for one in state().credentials]), self._own)
            self.observers += (self._file,)
        self.registry = CollectorRegistry() if registry is None else registry
        try:
            self.registry.register(self)
        except ValueError as error:
            raise OptionError(
                "registry", "has the metrics of another app already; expected a CollectorRegistry for each app"
            ) from error

    def describe(self) -> Iterator[Family]:
        """The metrics without values: a registry learns the names from them."""
        return families({})

    def collect(self) -> Iterator[Family]:
        """All metrics with their values: with several processes, those of all."""
        values: Values = self._own()
        if self._file is not None:
            values = merge((self._file.others(time.time()), values))
        return families(values)

    def start(self) -> None:
        """Begin to share the values with other processes, if there are any."""
        if self._file is not None:
            self._file.start()

    def stop(self) -> None:
        """Share the last values."""
        if self._file is not None:
            self._file.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a scrape. A thread encodes it: a large one takes longer than streams should wait."""
        if scope["type"] != "http":
            raise RuntimeError(f"metrics are served over HTTP only, not as {scope['type']}")
        await (await self._answer(Request(scope)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return PlainTextResponse("Method not allowed", 405, {"allow": "GET, HEAD"})
        encode, content_type = choose_encoder(readable_accept(request.headers.get("accept", "")))
        headers = {"content-type": content_type, "cache-control": "no-store", "vary": "accept, accept-encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(await asyncio.to_thread(encode, self.registry), headers=headers)
        headers["content-encoding"] = "gzip"
        body = await asyncio.to_thread(lambda: gzip.compress(encode(self.registry), 1))
        return Response(body, headers=headers)

    def _own(self) -> dict[str, dict[Labels, Value]]:
        """The values of this process."""
        return {**self._series.values(), **values_of_state(self._state(), self._targets)}


def readable_accept(accept: str) -> str:
    """The header, or an empty one if `prometheus_client` would raise: for a version that is not a number."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):
        return ""
    return accept


class SharedMetrics:
    """A collector of the values that the processes of a directory share, for a process that serves nothing itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Family]:
        """All metrics with their values."""
        return families(read_all(self._directory, time.time()))


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "backslashreplace")).hexdigest()[:8]


def families(values: Mapping[str, Mapping[Labels, Value]]) -> Iterator[Family]:
    """The metrics in the form of `prometheus_client`."""
    for metric in METRICS:
        yield _family(metric, values.get(metric.name, {}))


def _family(metric: Metric, series: Mapping[Labels, Value]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in series.items():
            if isinstance(value, tuple):
                histogram.add_metric(labels, _buckets(metric, value[0]), value[1])
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in series.items():
        if not isinstance(value, tuple):
            family.add_metric(labels, value)
    return family


def _buckets(metric: Metric, counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """The buckets as they are exposed: each contains those below it."""
    total, buckets = 0, list[tuple[str, float]]()
    for bound, count in zip((*metric.bounds, inf), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == inf else str(bound), total))
    return buckets
