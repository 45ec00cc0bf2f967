"""Statements on an SQLite file, which several processes can share."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from bud_asgi.auth.keys.schema import VERSION, VERSION_TABLE, pending
from bud_asgi.auth.keys.store import DuplicateKey, KeyStoreUnavailable

T = TypeVar("T")
Row = Mapping[str, object]


class SQLite:
    """One connection, in a thread of its own, to a file in WAL mode: readers never wait for writers.

    `timeout` is how many seconds a write waits for that of another process. The file is only created by `migrate`.
    """

    def __init__(self, file: Path, timeout: float) -> None:
        self._file = file
        self._timeout = timeout
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def shown(self) -> str:
        """Its URL."""
        return f"sqlite:{self._file}"

    async def run(self, statement: str, values: Row) -> Sequence[Row]:
        """Run one statement, and return its rows. Raises `KeyStoreUnavailable` and `DuplicateKey`."""
        return await self._in_thread(lambda: self._execute(statement, values), str(values.get("name")))

    async def run_all(self, statement: str, values: Sequence[Row]) -> None:
        """Run one statement for each row of values, in one transaction. Raises `KeyStoreUnavailable`."""
        await self._in_thread(lambda: self._execute_all(statement, values))

    async def migrate(self) -> None:
        """Create the file and its tables, or bring them up to date. Raises `KeyStoreUnavailable`."""
        await self._in_thread(self._migrate)

    async def aclose(self) -> None:
        """Close the connection; it is opened again when needed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            closing = thread.submit(self._close)
            thread.shutdown(wait=False)
            await asyncio.wrap_future(closing)

    async def _in_thread(self, work: Callable[[], T], name: str = "") -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "bud_asgi keys")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.IntegrityError:
            raise DuplicateKey(name) from None
        except sqlite3.Error as error:
            raise KeyStoreUnavailable(_reason(error)) from None
        except OSError as error:
            raise KeyStoreUnavailable(f"{self.shown}: {error.strerror}") from None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            url = f"file:{quote(str(self._file))}?mode=rw"
            self._connection = sqlite3.connect(url, uri=True, timeout=self._timeout, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA synchronous = NORMAL")  # safe in WAL mode, and no wait for the disk
        return self._connection

    def _execute(self, statement: str, values: Row) -> Sequence[Row]:
        return [dict(row) for row in self._connect().execute(statement, dict(values)).fetchall()]

    def _execute_all(self, statement: str, values: Sequence[Row]) -> None:
        self._in_transaction(lambda connection: connection.executemany(statement, [dict(row) for row in values]))

    def _migrate(self) -> None:
        os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        self._connect().execute("PRAGMA journal_mode = WAL")
        self._in_transaction(_migrate)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], object]) -> None:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            work(connection)
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute(VERSION_TABLE)
    for statement in pending(int(connection.execute(VERSION).fetchone()["version"])):
        connection.execute(statement)


def _reason(error: sqlite3.Error) -> str:
    reason = str(error)
    if "no such table" in reason or "unable to open" in reason:
        return f"{reason}; it is created by `bud-asgi keys create` or `await store.migrate()`"
    return reason
