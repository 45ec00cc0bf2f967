"""Key stores that are empty: in memory, in a file, in a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from support.postgres import Postgres, postgres

from bud_asgi.auth.keys import EditableKeyStore, MemoryKeyStore, SqlKeyStore


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def key_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EditableKeyStore]:
    if request.param == "memory":
        yield MemoryKeyStore()
        return
    is_file = request.param == "sqlite"
    server: Postgres | None = None if is_file else request.getfixturevalue("postgres_server")
    store = SqlKeyStore(f"sqlite:{tmp_path}/keys.db" if server is None else server.new_database(), timeout=10.0)
    await store.migrate()
    yield store
    await store.aclose()
