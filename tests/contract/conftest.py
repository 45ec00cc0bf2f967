from __future__ import annotations

from collections.abc import Generator

import pytest

pytest.register_assert_rewrite(
    "contract.line", "contract.rows_requests", "contract.rows_routes", "contract.rows_replies"
)

from support.calls import UPSTREAM_KEY  # noqa: E402

from bud_asgi.testing import StandIn, ThreadedStandIn  # noqa: E402
from contract.line import Line, line_to  # noqa: E402


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    """One that takes every request, so that it is the gateway alone that judges."""
    with StandIn(api_key=UPSTREAM_KEY, strict=False).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def straight(upstream: ThreadedStandIn) -> Generator[Line]:
    """A gateway and nothing else between a client and the upstream; nothing is left open at the end."""
    with line_to(upstream) as line:
        yield line
        line.here.assert_nothing_open()
