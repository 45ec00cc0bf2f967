"""Every engine test runs on asyncio's loop and on uvloop, and checks that nothing stays open.

`engine` is the project's own; `client` is each implementation of `HttpClient` in turn. httpx runs on asyncio's loop and
httpx2 on uvloop; with `BUD_ASGI_TORTURE=1` both run on both.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import trustme
import uvloop
from differences import DIFFERS, ENGINES, Client, Make
from peer import Certificates

from bud_asgi.http import Engine

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

TORTURE_ONLY = {("httpx", "uvloop"), ("httpx2", "asyncio")}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test of this directory on both loops."""
    return LOOPS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what only torture runs, and mark the expected failures of the httpx engines."""
    kept: list[pytest.Item] = []
    torture_only: list[pytest.Item] = []
    for item in items:
        name, _, case = item.name.removesuffix("]").partition("[")
        parts = case.split("-")
        engine = next((part for part in parts if part in ENGINES), None)
        loop = next((part for part in parts if part in LOOPS), None)
        if (engine, loop) in TORTURE_ONLY and "BUD_ASGI_TORTURE" not in os.environ:
            torture_only.append(item)
            continue
        rest = "-".join(part for part in parts if part not in (engine, loop))
        for key in (name, f"{name}[{rest}]", f"{name}[{engine}]", f"{name}[{engine}-{rest}]"):
            if engine not in {None, "engine"} and key in DIFFERS:
                item.add_marker(pytest.mark.xfail(reason=DIFFERS[key], strict=True))
        kept.append(item)
    config.hook.pytest_deselected(items=torture_only)
    items[:] = kept


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """The project's engine; after the test it must have closed everything."""
    engine = Engine()
    yield engine
    await engine.aclose()
    assert engine.open == 0
    assert engine.idle == 0
    assert not engine._loop_state.clock.ticking  # nothing stays scheduled


@pytest_asyncio.fixture(params=ENGINES)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Return a function that makes a client trusting what the context trusts; each must close everything."""
    made: list[Client] = []

    def make(trust: ssl.SSLContext) -> Client:
        made.append(ENGINES[request.param](trust))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()
        assert (client.open, client.idle) == (0, 0)
        assert not client.ticking


@pytest_asyncio.fixture
async def client(make: Make, certificates: Certificates) -> Client:
    """A client that trusts `certificates`."""
    return make(certificates.client)


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """A certificate for `localhost`, with TLS contexts for both ends."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    return Certificates(server, client)
