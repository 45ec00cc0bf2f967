"""The pytest plugin of bud_asgi. pytest loads it at its start, so it imports the package only for a fixture.

It is documented in docs/testing.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import anthropic

    from bud_asgi import MessagesApp, Principal
    from bud_asgi.testing import LoopWatchdog, ThreadedStandIn

PLACEHOLDER = "placeholder"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the configuration file."""
    parser.addini(
        "bud_asgi_env",
        "Environment variables to set before anything is imported, one a line: NAME=value, or NAME for a placeholder.",
        type="linelist",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set the variables, so that no test has a real key: also those that are set already."""
    for line in early_config.getini("bud_asgi_env"):
        name, _, value = line.partition("=")
        os.environ[name.strip()] = value.strip() or PLACEHOLDER


@pytest.fixture
def bud_app() -> MessagesApp:
    """Your `MessagesApp`. Define a fixture of this name in `conftest.py`, of any scope."""
    raise pytest.UsageError("define a fixture named bud_app in conftest.py; it returns your MessagesApp")


@pytest.fixture
def bud_upstream(bud_app: MessagesApp) -> Generator[ThreadedStandIn]:
    """A stand-in for the upstreams of `bud_app`: for the time of the test, all its providers send to it."""
    from bud_asgi import Anthropic
    from bud_asgi.testing import StandIn

    with StandIn().in_thread() as upstream:
        providers = [
            Anthropic(name=provider.name, base_url=upstream.base_url, api_key=upstream.api_key)
            for provider in bud_app.providers
        ]
        with bud_app.override(providers=providers):
            yield upstream


@pytest.fixture
def bud_client(
    bud_app: MessagesApp, bud_upstream: ThreadedStandIn
) -> Generator[Callable[[str | Principal], anthropic.Anthropic]]:
    """A function that makes a client of the official SDK, which calls `bud_app` as a `Principal` or an id."""
    from bud_asgi.testing.clients import blocking_clients

    with blocking_clients() as make:
        yield lambda principal: make(bud_app.transport(principal))


@pytest.fixture
def bud_async_client(
    bud_app: MessagesApp, bud_upstream: ThreadedStandIn
) -> Callable[[str | Principal], anthropic.AsyncAnthropic]:
    """A function that makes an async client of the official SDK. It calls `bud_app` as `bud_client` does."""
    from bud_asgi.testing.clients import async_client

    return lambda principal: async_client(bud_app.transport(principal))


@pytest.fixture
def bud_watchdog() -> Generator[LoopWatchdog]:
    """Fail the test if an event loop is blocked for more than `bud_watchdog.limit` seconds, 0.5 by default."""
    from bud_asgi.testing import LoopWatchdog

    with LoopWatchdog() as watchdog:
        yield watchdog
