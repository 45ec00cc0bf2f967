from __future__ import annotations

from collections.abc import Generator

import pytest
from support.calls import UPSTREAM_KEY
from support.gateway import Gateway, gateway

from bud_asgi.testing import StandIn, ThreadedStandIn


@pytest.fixture
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def here(upstream: ThreadedStandIn) -> Generator[Gateway]:
    """A gateway in front of the stand-in, with nothing left open at the end of the test."""
    with gateway(upstream.base_url) as one:
        yield one
        one.assert_nothing_open()
