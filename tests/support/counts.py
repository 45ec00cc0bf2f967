"""The number of examples of a property: small and deterministic by default, large in torture runs."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TORTURE = bool(os.environ.get("BUD_ASGI_TORTURE"))


def count(usual: int, torture: int) -> int:
    """Choose a count: the first in a usual run, the second in a torture run."""
    return torture if TORTURE else usual


def examples(usual: int = 50, torture: int = 20_000) -> settings:
    """Hypothesis settings for a property."""
    return settings(
        max_examples=count(usual, torture),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
