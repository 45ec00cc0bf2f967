"""Metrics for Prometheus."""

from bud_asgi.telemetry.prometheus.observer import RequestCounts
from bud_asgi.telemetry.prometheus.series import Series

__all__ = ["RequestCounts", "Series"]
