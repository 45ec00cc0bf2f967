"""The gateway of the tests with OpenTelemetry."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support.telemetry import Signals

from telemetry.traced_stage import Stage, traced_stage


@pytest.fixture(scope="package")
def one_stage() -> Generator[Stage]:
    """A gateway that is traced, for all tests of the package."""
    with traced_stage(Signals()) as stage:
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Generator[Stage]:
    """The gateway, without requests of earlier tests, and with nothing left open at the end of the test."""
    one_stage.reset()
    yield one_stage
    one_stage.here.assert_nothing_open()
    assert one_stage.signals.observer._traces == {}
