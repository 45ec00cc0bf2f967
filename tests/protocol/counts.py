"""How many examples a property gets: a small fixed number, the same ones in every run, or the torture's."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TORTURE = bool(os.environ.get("BUD_ASGI_TORTURE"))


def count(usual: int, torture: int) -> int:
    """The one number in a usual run, the other under torture."""
    return torture if TORTURE else usual


def examples(usual: int = 200, torture: int = 20_000) -> settings:
    """Settings for a property."""
    return settings(
        max_examples=count(usual, torture),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
