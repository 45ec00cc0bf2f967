"""OpenTelemetry's own SDK, with exporters that keep what they get."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind

from bud_asgi import OpenTelemetry

Attributes = Mapping[str, Any]


class Signals:
    """Spans in the order of their ends, and metrics."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.observer = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended."""
        return self.exporter.get_finished_spans()

    @property
    def request(self) -> ReadableSpan:
        """The only span of a request."""
        (span,) = (span for span in self.spans if span.kind is not SpanKind.CLIENT)
        return span

    @property
    def attempts(self) -> list[ReadableSpan]:
        """The spans of the attempts."""
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    def points(self) -> dict[str, list[tuple[Attributes, Any]]]:
        """The points of each metric since the start: attributes and point."""
        found: dict[str, list[tuple[Attributes, Any]]] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [(dict(point.attributes or {}), point) for point in metric.data.data_points]
                    found.setdefault(metric.name, []).extend(points)
        return found

    def everything(self) -> str:
        """All signals as text."""
        spans = [span.to_json() for span in self.spans]
        data = self.reader.get_metrics_data()
        return "\n".join([*spans, data.to_json() if data else "", json.dumps(self.names())])

    def names(self) -> list[str]:
        """The names of all attributes and metrics."""
        points = self.points()
        used = {name for span in self.spans for name in span.attributes or {}}
        used |= {name for values in points.values() for attributes, _ in values for name in attributes}
        return sorted(used | points.keys())


def context_of(span: ReadableSpan) -> SpanContext:
    """The context of a span: its ids."""
    assert span.context is not None
    return span.context


def attributes_of(span: ReadableSpan) -> Attributes:
    """The attributes of a span."""
    return dict(span.attributes or {})
