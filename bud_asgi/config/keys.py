"""Read the callers' keys, and the store of further ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bud_asgi.auth import ApiKey, SqlKeyStore
from bud_asgi.config.caller_tables import KeyConfig, KeyStoreConfig
from bud_asgi.config.durations import in_seconds
from bud_asgi.config.limits import read_limits
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import Problems, render
from bud_asgi.config.reading import TableReader, as_table
from bud_asgi.config.tables import GatewayConfig
from bud_asgi.limit import Dimension
from bud_asgi.options import duplicates
from bud_asgi.secret import Secret

_URL_EXPECTED = (
    'expected a URL such as "sqlite:keys.db" or "postgresql://host/database", or a reference such as env:NAME'
)
_VALID_URL = "sqlite:keys.db"


class KeySettings(msgspec.Struct, frozen=True):
    """The part of a configuration that commands on keys need: no provider, and no credential of one."""

    source: str
    keys: tuple[ApiKey, ...] = ()
    store: SqlKeyStore | None = None
    pepper: Secret | None = None


def read_keys(reader: TableReader, gateway: GatewayConfig, dimensions: Mapping[str, Dimension]) -> tuple[ApiKey, ...]:
    """Read the list of keys; those with problems, which are noted, are left out."""
    tables = gateway.get("keys", [])
    keys = [_read_key(reader, table, ("keys", index), dimensions) for index, table in enumerate(tables)]
    for field in ("name", "hash"):
        _check_unique(reader.problems, tables, field)
    for index, key in enumerate(keys):
        if key is not None and key.hash.startswith("hmac-") and "key_pepper" not in gateway:
            expected = 'was made with a pepper; expected key_pepper = "env:NAME" at the top of the file'
            reader.problems.add(("keys", index, "hash"), expected)
    return tuple(filter(None, keys))


def read_key_store(reader: TableReader, gateway: GatewayConfig) -> SqlKeyStore | None:
    """Read the table of the key store; `None`, with the problems noted, if it cannot be made."""
    path: KeyPath = ("key_store",)
    read = reader.read(KeyStoreConfig, gateway["key_store"], path) if "key_store" in gateway else None
    if read is None:
        return None
    url = reader.url(read.get("url"), (*path, "url"), _URL_EXPECTED, _VALID_URL)
    options = {**read, "url": url}
    return reader.make(KeyStoreConfig, partial(_key_store, reader.folder), options, path, {"url": _VALID_URL})


def _key_store(folder: Path, **options: Any) -> SqlKeyStore:
    if "timeout" in options:
        options["timeout"] = in_seconds("timeout", options["timeout"])
    return SqlKeyStore(**options, folder=folder)


def _read_key(reader: TableReader, table: object, path: KeyPath, dimensions: Mapping[str, Dimension]) -> ApiKey | None:
    read = reader.read(KeyConfig, table, path)
    if read is None:
        return None
    limits = read_limits(reader, read.get("limits", []), (*path, "limits"), dimensions, own=True)
    required = {"name": "name", "hash": f"sha256:{'0' * 64}"}
    return reader.make(KeyConfig, ApiKey, {**read, "limits": limits}, path, required)


def _check_unique(problems: Problems, tables: Sequence[object], field: str) -> None:
    values = [(as_table(table) or {}).get(field) for table in tables]
    for index, first in duplicates(value if isinstance(value, str) else object() for value in values):
        problems.add(("keys", index, field), f"duplicate {field}, already used by {render(('keys', first))}")
