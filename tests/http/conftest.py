"""Every test of the engine runs on asyncio's loop and on uvloop, and leaves nothing open."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import trustme
import uvloop
from peer import Certificates

from bud_asgi.http import Engine


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops, for every async test of this room."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine that must be able to close everything it has opened."""
    engine = Engine()
    yield engine
    await engine.aclose()
    assert engine.open == 0
    assert engine.idle == 0
    assert not engine._common.clock.ticking  # pyright: ignore[reportPrivateUsage] - nothing may stay scheduled


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """A certificate for `localhost`, and contexts for both ends."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType] - pyOpenSSL's type
    return Certificates(server, client)
