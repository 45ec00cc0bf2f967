"""Traces and metrics through OpenTelemetry's API, which is imported on first use: that takes a while."""

from bud_asgi.telemetry.opentelemetry.content import Capture, Content
from bud_asgi.telemetry.opentelemetry.observer import OpenTelemetry

__all__ = ["Capture", "Content", "OpenTelemetry"]
