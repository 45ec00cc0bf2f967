from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from claude_code import ClaudeCode
from clients_gateways import KEY, UPSTREAM_KEY, mounted, standalone
from clients_node import TypeScript
from clients_outside import Outside, nothing_outside
from clients_tap import Tap, tapped

from bud_asgi.testing import StandIn, ThreadedStandIn


@pytest.fixture
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def sdk(upstream: ThreadedStandIn) -> Generator[TypeScript]:
    """The TypeScript SDK before the mounted gateway."""
    with mounted(upstream) as base_url:
        yield TypeScript(baseURL=base_url, apiKey=KEY)


@pytest.fixture
def outside() -> Generator[Outside]:
    """Nothing may leave the machine, in no test that uses this."""
    with nothing_outside() as one:
        yield one
        assert one.asked == []


@pytest.fixture
def claude(tmp_path: Path, outside: Outside) -> ClaudeCode:
    return ClaudeCode(tmp_path, outside.proxy)


@pytest.fixture(params=["mounted", "standalone"])
def tap(request: pytest.FixtureRequest, upstream: ThreadedStandIn, tmp_path: Path) -> Generator[Tap]:
    """Sight of what a client sends to a gateway, of either kind."""
    gateway = mounted(upstream) if request.param == "mounted" else standalone(upstream, tmp_path)
    with gateway as base_url, tapped(base_url) as one:
        yield one
