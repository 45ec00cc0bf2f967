"""The fixtures of tests over real sockets: a gateway and its upstream."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from bud_asgi.testing import StandIn, ThreadedStandIn
from support.calls import UPSTREAM_KEY
from support.gateway import Gateway, gateway


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway and its upstream, for all tests of a module. A module that needs other options overrides this."""
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in, gateway(stand_in.base_url) as one:
        yield one, stand_in


@pytest.fixture
def here(gateway_and_upstream: tuple[Gateway, ThreadedStandIn]) -> Generator[Gateway]:
    """The gateway, without records of earlier tests, and with nothing left open at the end of the test."""
    one, _ = gateway_and_upstream
    one.forget()
    yield one
    one.assert_nothing_open()


@pytest.fixture
def upstream(gateway_and_upstream: tuple[Gateway, ThreadedStandIn]) -> Generator[ThreadedStandIn]:
    """The upstream, without requests of earlier tests; what it was to reply does not outlive the test."""
    _, stand_in = gateway_and_upstream
    stand_in.requests.clear()
    yield stand_in
    stand_in.always(None)
    stand_in._stand_in._queue.clear()
