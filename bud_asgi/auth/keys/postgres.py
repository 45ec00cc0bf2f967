"""Statements on a PostgreSQL server (extra `postgres`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import LiteralString, cast

import msgspec

from bud_asgi.auth.keys.schema import VERSION, VERSION_TABLE, pending
from bud_asgi.auth.keys.store import DuplicateKey, KeyStoreUnavailable
from bud_asgi.extras import require
from bud_asgi.options import OptionError
from bud_asgi.printable import one_line

require("A key store in PostgreSQL", "psycopg", "postgres")

import psycopg  # noqa: E402 - the error for a missing extra comes first
from psycopg.conninfo import conninfo_to_dict  # noqa: E402
from psycopg.rows import DictRow, dict_row  # noqa: E402

Row = Mapping[str, object]
Connection = psycopg.AsyncConnection[DictRow]

MAX_CONNECTIONS = 4
"""For each event loop: lookups are cached, so there are few."""

_PARAMETER = re.compile(r":(\w+)")
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('bud_asgi_schema'))"
_NO_TABLES = "its tables are missing; they are created by `bud-asgi keys create` or `await store.migrate()`"


class _Connections(msgspec.Struct, eq=False):
    """The connections of one event loop: those that are not in use, and how many may be."""

    free: asyncio.Semaphore
    idle: list[Connection] = []


class PostgreSQL:
    """A few connections for each event loop; they are opened when needed.

    A pool would go on trying on its own after a failure, with pauses of minutes: the next call tries at once, and its
    error has the reason. Works behind PgBouncer as well: nothing depends on the session of a connection.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise OptionError("url", "not a URL that libpq can read; the value is not shown") from None
        self._url = url
        self._timeout = timeout
        self._shown = f"postgresql://{parts.get('host') or ''}/{parts.get('dbname') or ''}"
        self._by_loop: dict[asyncio.AbstractEventLoop, _Connections] = {}

    @property
    def shown(self) -> str:
        """Its host and database."""
        return self._shown

    async def run(self, statement: str, values: Row) -> Sequence[Row]:
        """Run one statement, and return its rows. Raises `KeyStoreUnavailable` and `DuplicateKey`."""
        async with self._connection(str(values.get("name"))) as connection:
            return await (await connection.execute(_query(statement), values)).fetchall()

    async def run_all(self, statement: str, values: Sequence[Row]) -> None:
        """Run one statement for each row of values. Raises `KeyStoreUnavailable`."""
        async with self._connection() as connection:
            await connection.cursor().executemany(_query(statement), values)

    async def migrate(self) -> None:
        """Create the tables, or bring them up to date. Raises `KeyStoreUnavailable`."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(_LOCK)
            await connection.execute(VERSION_TABLE)
            row = await (await connection.execute(VERSION)).fetchone()
            for statement in pending(int(row["version"]) if row else 0):
                await connection.execute(_query(statement))

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they are opened again when needed."""
        connections = self._by_loop.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            for connection in connections.idle:
                await connection.close()

    @asynccontextmanager
    async def _connection(self, name: str = "") -> AsyncGenerator[Connection]:
        """A connection that works. What psycopg raises is turned into the errors of key stores."""
        try:
            async with self._borrowed() as connection:
                yield connection
        except psycopg.errors.UniqueViolation:
            raise DuplicateKey(name) from None
        except psycopg.errors.UndefinedTable:
            raise KeyStoreUnavailable(_NO_TABLES) from None
        except psycopg.Error as error:
            raise KeyStoreUnavailable(f"{type(error).__name__}: {one_line(error, 200)}") from None
        except TimeoutError:
            raise KeyStoreUnavailable(f"no connection to {self._shown} within {self._timeout:g} s") from None

    @asynccontextmanager
    async def _borrowed(self) -> AsyncGenerator[Connection]:
        """A connection for one call; it is closed if the call fails or is cancelled."""
        connections = self._connections()
        async with connections.free:
            async with asyncio.timeout(self._timeout):
                connection = await self._open(connections.idle)
            try:
                yield connection
            except psycopg.errors.UniqueViolation:
                connections.idle.append(connection)
                raise
            except BaseException:
                await connection.close()
                raise
            connections.idle.append(connection)

    async def _open(self, idle: list[Connection]) -> Connection:
        """An idle connection, unless the server has closed it, or a new one."""
        while idle:
            connection = idle.pop()
            try:
                await connection.execute("")
            except psycopg.OperationalError:
                await connection.close()
            else:
                return connection
        return await Connection.connect(
            self._url, autocommit=True, row_factory=dict_row, prepare_threshold=None, application_name="bud_asgi"
        )

    def _connections(self) -> _Connections:
        loop = asyncio.get_running_loop()
        connections = self._by_loop.get(loop)
        if connections is None:
            for ended in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(ended, None)
            connections = self._by_loop[loop] = _Connections(asyncio.Semaphore(MAX_CONNECTIONS))
        return connections


def _query(statement: str) -> LiteralString:
    """A statement in psycopg's notation."""
    return cast("LiteralString", _PARAMETER.sub(r"%(\1)s", statement))
