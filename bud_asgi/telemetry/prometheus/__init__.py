"""Metrics for Prometheus. Needs `prometheus_client`."""

from bud_asgi.telemetry.prometheus.exposition import SHARED_DIRECTORY, Metrics, SharedMetrics
from bud_asgi.telemetry.prometheus.observer import RequestCounts

__all__ = ["SHARED_DIRECTORY", "Metrics", "RequestCounts", "SharedMetrics"]
