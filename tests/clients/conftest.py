from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from claude_code import ClaudeCode
from clients_gateways import mounted, standalone
from clients_node import TypeScript
from clients_outside import BlockedInternet, blocked_internet
from clients_tap import Tap, tapped
from support.calls import KEY, UPSTREAM_KEY

from bud_asgi.testing import StandIn, ThreadedStandIn


@pytest.fixture
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def sdk(upstream: ThreadedStandIn) -> Generator[TypeScript]:
    """The TypeScript SDK as a client of the mounted gateway."""
    with mounted(upstream) as base_url:
        yield TypeScript(baseURL=base_url, apiKey=KEY)


@pytest.fixture
def internet() -> Generator[BlockedInternet]:
    """No request may leave the machine."""
    with blocked_internet() as internet:
        yield internet
        assert internet.requests == []


@pytest.fixture
def claude(tmp_path: Path, internet: BlockedInternet) -> ClaudeCode:
    return ClaudeCode(tmp_path, internet.proxy)


@pytest.fixture(params=["mounted", "standalone"])
def tap(request: pytest.FixtureRequest, upstream: ThreadedStandIn, tmp_path: Path) -> Generator[Tap]:
    """A tap in front of a mounted and of a standalone gateway."""
    gateway = mounted(upstream) if request.param == "mounted" else standalone(upstream, tmp_path)
    with gateway as base_url, tapped(base_url) as tap:
        yield tap
