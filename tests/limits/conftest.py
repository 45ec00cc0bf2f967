"""One Valkey server for all tests of a process; each test has a key prefix of its own."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support.valkey import Valkey, valkey_server


@pytest.fixture(scope="session")
def valkey() -> Generator[Valkey]:
    """The server."""
    with valkey_server() as server:
        yield server
