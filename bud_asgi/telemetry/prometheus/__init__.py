"""Metrics for Prometheus. Needs `prometheus_client`."""

from bud_asgi.telemetry.prometheus.exposition import Metrics, SharedMetrics
from bud_asgi.telemetry.prometheus.observer import RequestCounts

__all__ = ["Metrics", "RequestCounts", "SharedMetrics"]
