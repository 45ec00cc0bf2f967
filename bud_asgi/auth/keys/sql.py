"""A key store in SQL: SQLite or PostgreSQL, by its URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

from bud_asgi.auth.keys.record import ApiKey
from bud_asgi.auth.keys.store import UPDATABLE
from bud_asgi.limit import Limit
from bud_asgi.options import OptionError, check_seconds, mismatch
from bud_asgi.secret import AnySecret, secret_option

URL_EXPECTED = "a URL such as sqlite:keys.db or postgresql://host/database"

_COLUMNS: Final = (
    "name, owner, team, models, limits, metadata, hash, previous_hash, previous_until, enabled, expires, created,"
    " last_used"
)
_LIMIT_FIELDS: Final = ("kind", "amount", "window", "models", "mode", "wait", "cache_reads")
_JSON: Final = frozenset({"models", "limits", "metadata"})
_TIMES: Final = frozenset({"previous_until", "expires", "created", "last_used"})
_VALUES: Final = ", ".join(f":{name.strip()}" for name in _COLUMNS.split(","))
_FIND: Final = f"SELECT {_COLUMNS} FROM bud_asgi_keys WHERE hash = :hash OR previous_hash = :hash"
_GET: Final = f"SELECT {_COLUMNS} FROM bud_asgi_keys WHERE name = :name"
_ALL: Final = f"SELECT {_COLUMNS} FROM bud_asgi_keys"
_ADD: Final = f"INSERT INTO bud_asgi_keys ({_COLUMNS}) VALUES ({_VALUES}) RETURNING name"
_ROTATE: Final = (
    "UPDATE bud_asgi_keys SET hash = :hash, previous_hash = CASE WHEN :keep THEN hash END,"
    " previous_until = :previous_until WHERE name = :name RETURNING name"
)
_DELETE: Final = "DELETE FROM bud_asgi_keys WHERE name = :name RETURNING name"
_NOTE_USED: Final = (
    "UPDATE bud_asgi_keys SET last_used = :used WHERE name = :name AND (last_used IS NULL OR last_used < :used)"
)

Row = Mapping[str, object]


class Database(Protocol):
    """Runs statements, whose parameters are written `:name`. Raises `KeyStoreUnavailable` and `DuplicateKey`."""

    @property
    def shown(self) -> str:
        """Its URL without a password."""
        ...

    async def run(self, statement: str, values: Row) -> Sequence[Row]:
        """Run one statement, and return its rows."""
        ...

    async def run_all(self, statement: str, values: Sequence[Row]) -> None:
        """Run one statement for each row of values."""
        ...

    async def migrate(self) -> None:
        """Create the tables, or bring them up to date."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        ...


class SqlKeyStore:
    """Keys in SQLite or PostgreSQL: an `EditableKeyStore` that several processes can share.

    `url` is `sqlite:` and the path of a file, or `postgresql://user:password@host/database`, as libpq reads it (extra
    `postgres`); a `Secret` is accepted. The tables are made by `migrate()`, or by any `bud-asgi keys` command.
    A relative path of a file starts at `folder`. A call waits for at most `timeout` seconds for a lock or a connection.
    Raises `OptionError`, and `MissingExtra`.
    """

    def __init__(self, url: AnySecret, *, timeout: float = 1.0, folder: str | Path = "") -> None:
        check_seconds("timeout", timeout, maximum=60.0)
        if not isinstance(folder, str | Path) or "\0" in str(folder):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("folder", "the path of a folder", folder)
        self._database = _database(url, timeout, Path(folder))

    def __repr__(self) -> str:
        return f"SqlKeyStore({self._database.shown!r})"

    async def find(self, key_hash: str) -> ApiKey | None:
        """The key whose `hash` or `previous_hash` this is. Raises `KeyStoreUnavailable`."""
        return _first(await self._database.run(_FIND, {"hash": key_hash}))

    async def get(self, name: str) -> ApiKey | None:
        """The key of that name. Raises `KeyStoreUnavailable`."""
        return _first(await self._database.run(_GET, {"name": name}))

    async def all(self) -> Sequence[ApiKey]:
        """All keys, by name. Raises `KeyStoreUnavailable`."""
        keys = [_from_row(row) for row in await self._database.run(_ALL, {})]
        return sorted(keys, key=lambda key: key.name)  # databases sort by languages

    async def add(self, key: ApiKey) -> None:
        """Add a key. Raises `DuplicateKey` and `KeyStoreUnavailable`."""
        await self._database.run(_ADD, _to_row(key))

    async def rotate(self, name: str, key_hash: str, previous_until: datetime | None) -> bool:
        """Replace the hash of a key, and keep the present one until a time. Raises `KeyStoreUnavailable`."""
        keep = previous_until is not None
        values = {"name": name, "hash": key_hash, "keep": keep, "previous_until": _time(previous_until)}
        return bool(await self._database.run(_ROTATE, values))

    async def update(self, name: str, fields: Mapping[str, object]) -> bool:
        """Set these fields of a key. Raises `KeyStoreUnavailable`."""
        changes = ", ".join(f"{column} = :{column}" for column in sorted(UPDATABLE & fields.keys()))
        statement = f"UPDATE bud_asgi_keys SET {changes} WHERE name = :name RETURNING name"
        values = {column: _to_column(column, value) for column, value in fields.items()}
        return bool(await self._database.run(statement, {**values, "name": name}))

    async def delete(self, name: str) -> bool:
        """Delete a key. Raises `KeyStoreUnavailable`."""
        return bool(await self._database.run(_DELETE, {"name": name}))

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        """Set `last_used` of these keys, unless it is later. Raises `KeyStoreUnavailable`."""
        rows = [{"name": name, "used": _time(used[name])} for name in sorted(used)]  # in one order: no deadlocks
        await self._database.run_all(_NOTE_USED, rows)

    async def migrate(self) -> None:
        """Create the tables, or bring them up to date. Raises `KeyStoreUnavailable`."""
        await self._database.migrate()

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they are opened again when needed."""
        await self._database.aclose()


def _database(url: AnySecret, timeout: float, folder: Path) -> Database:
    secret = secret_option("url", url)
    text = secret.reveal() if secret else ""
    scheme, colon, rest = text.partition(":")
    if scheme == "sqlite" and rest.removeprefix("//"):
        from bud_asgi.auth.keys.sqlite import SQLite  # noqa: PLC0415 - takes long to import

        return SQLite(folder / rest.removeprefix("//"), timeout)
    if colon and scheme in {"postgresql", "postgres"}:
        from bud_asgi.auth.keys.postgres import PostgreSQL  # noqa: PLC0415 - of an extra

        return PostgreSQL(text, timeout)
    raise OptionError("url", f"expected {URL_EXPECTED}, got a value that is not shown")


def _first(rows: Sequence[Row]) -> ApiKey | None:
    return _from_row(rows[0]) if rows else None


def _time(value: datetime | None) -> str | None:
    """A time as text, which can be compared in SQLite as well."""
    return value.astimezone(UTC).isoformat(timespec="microseconds") if value else None


def _to_row(key: ApiKey) -> Row:
    return {name: _to_column(name, getattr(key, name)) for name in key.__struct_fields__}


def _to_column(name: str, value: object) -> object:
    if name == "limits":
        limits = cast("Sequence[Limit]", value)
        return json.dumps([{field: getattr(limit, field) for field in _LIMIT_FIELDS} for limit in limits])
    if name in _JSON:
        return json.dumps(dict(cast("Mapping[str, str]", value)) if name == "metadata" else value)
    return _time(value) if isinstance(value, datetime) else value


def _from_row(row: Row) -> ApiKey:
    """The key of a row. Raises `OptionError` for one that is not valid."""
    try:
        columns: dict[str, Any] = {name: _value(name, value) for name, value in row.items()}
        columns["limits"] = tuple(Limit(**limit) for limit in columns["limits"])
        return ApiKey(**columns)
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError("keys", f"a row of the table bud_asgi_keys is invalid ({type(error).__name__})") from None


def _value(name: str, value: object) -> object:
    """The value of a column: SQLite returns those of JSON, times and booleans as they were written."""
    if name in _JSON and isinstance(value, str):
        return json.loads(value)
    if name in _TIMES and isinstance(value, str):
        return datetime.fromisoformat(value)
    return bool(value) if name == "enabled" else value
