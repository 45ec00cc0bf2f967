"""The metrics of an app, which are made on first use, because `prometheus_client` is optional."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from bud_asgi.extras import require
from bud_asgi.observer import Observers
from bud_asgi.options import OptionError
from bud_asgi.state import AppState

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from bud_asgi.telemetry.prometheus import Metrics


class MetricsSource:
    """What metrics are made of: the `state` of an app, and the events that its `observers` get.

    It is a context manager around the life of an app, in which several processes share their values.
    """

    def __init__(self, state: Callable[[], AppState], observers: Observers) -> None:
        self._state, self._observers = state, observers
        self._metrics: Metrics | None = None

    def __enter__(self) -> Self:
        if self._metrics is not None:
            self._metrics.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._metrics is not None:
            self._metrics.stop()

    def make(self, registry: CollectorRegistry | None) -> Metrics:
        """The metrics, the same at each call. Raises `OptionError` and `MissingExtra`, as `MessagesApp.metrics`."""
        require("MessagesApp.metrics()", "prometheus_client", "prometheus")
        from bud_asgi.telemetry.prometheus import Metrics  # noqa: PLC0415 - only with the extra

        if self._metrics is None:
            self._metrics = Metrics(self._state, registry)
            for observer in self._metrics.observers:
                self._observers.add(observer)
        elif registry is not None and registry is not self._metrics.registry:
            raise OptionError("registry", "metrics() has been called before, with another registry")
        return self._metrics
