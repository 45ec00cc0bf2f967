from __future__ import annotations

from collections.abc import Generator

import pytest
from support.calls import UPSTREAM_KEY
from support.fixtures import here, upstream
from support.gateway import Gateway, gateway

from bud_asgi.testing import StandIn, ThreadedStandIn

__all__ = ["gateway_and_upstream", "here", "upstream"]


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway and its upstream, for all tests of a module."""
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in, gateway(stand_in.base_url) as one:
        yield one, stand_in
