"""Statements on a PostgreSQL server (extra `postgres`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import LiteralString, cast

from bud_asgi.auth.keys.schema import VERSION, VERSION_TABLE, pending
from bud_asgi.auth.keys.store import DuplicateKey, KeyStoreUnavailable
from bud_asgi.extras import require
from bud_asgi.options import OptionError
from bud_asgi.printable import one_line

for _module in ("psycopg", "psycopg_pool"):
    require("A key store in PostgreSQL", _module, "postgres")

import psycopg  # noqa: E402 - the error for a missing extra comes first
from psycopg.conninfo import conninfo_to_dict  # noqa: E402
from psycopg.rows import DictRow, dict_row  # noqa: E402
from psycopg_pool import AsyncConnectionPool, PoolTimeout  # noqa: E402

Row = Mapping[str, object]
Pool = AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]

_MAX_CONNECTIONS = 4
"""For each event loop: lookups are cached, so there are few."""

_PARAMETER = re.compile(r":(\w+)")
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('bud_asgi_schema'))"


class PostgreSQL:
    """A small pool of connections for each event loop; they are opened when needed, and again after a failure.

    Works behind PgBouncer as well: nothing depends on the session of a connection.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise OptionError("url", "not a URL that libpq can read; the value is not shown") from None
        self._url = url
        self._timeout = timeout
        self._shown = f"postgresql://{parts.get('host') or ''}/{parts.get('dbname') or ''}"
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}

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
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close(timeout=self._timeout)

    @asynccontextmanager
    async def _connection(self, name: str = "") -> AsyncGenerator[psycopg.AsyncConnection[DictRow]]:
        """A connection of the pool. What psycopg raises is turned into the errors of key stores."""
        try:
            async with (await self._pool()).connection() as connection:
                yield connection
        except psycopg.errors.UniqueViolation:
            raise DuplicateKey(name) from None
        except PoolTimeout:
            raise KeyStoreUnavailable(f"no connection to {self._shown} within {self._timeout:g} s") from None
        except psycopg.errors.UndefinedTable:
            missing = "its tables are missing; they are created by `bud-asgi keys create` or `await store.migrate()`"
            raise KeyStoreUnavailable(missing) from None
        except psycopg.Error as error:
            raise KeyStoreUnavailable(f"{type(error).__name__}: {one_line(error, 200)}") from None

    async def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for ended in [other for other in list(self._pools) if other.is_closed()]:
                self._pools.pop(ended, None)
            pool = self._pools[loop] = self._new_pool()
            await pool.open()
        return pool

    def _new_pool(self) -> Pool:
        return AsyncConnectionPool(
            self._url,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": None},
            min_size=0,
            max_size=_MAX_CONNECTIONS,
            open=False,
            timeout=self._timeout,
            check=_check,
            name="bud_asgi keys",
        )


async def _check(connection: psycopg.AsyncConnection[DictRow]) -> None:
    """Check a connection of the pool before it is used: the server may have been restarted."""
    await connection.execute("")


def _query(statement: str) -> LiteralString:
    """A statement in psycopg's notation."""
    return cast("LiteralString", _PARAMETER.sub(r"%(\1)s", statement))
