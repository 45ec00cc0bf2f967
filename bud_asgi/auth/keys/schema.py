"""The tables of key stores, as the changes that led to them: a change that has been released is never edited."""

from __future__ import annotations

from typing import Final

VERSION_TABLE: Final = "CREATE TABLE IF NOT EXISTS bud_asgi_schema (version INTEGER PRIMARY KEY)"
VERSION: Final = "SELECT coalesce(max(version), 0) AS version FROM bud_asgi_schema"

# For both databases: SQLite keeps what it is given, whatever the type of the column.
_KEYS: Final = """\
CREATE TABLE bud_asgi_keys (
    name TEXT PRIMARY KEY,
    owner TEXT,
    team TEXT,
    models JSONB NOT NULL,
    limits JSONB NOT NULL,
    metadata JSONB NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    previous_hash TEXT,
    previous_until TIMESTAMPTZ,
    enabled BOOLEAN NOT NULL,
    expires TIMESTAMPTZ,
    created TIMESTAMPTZ,
    last_used TIMESTAMPTZ
)"""
_PREVIOUS: Final = "CREATE INDEX bud_asgi_keys_previous_hash ON bud_asgi_keys (previous_hash)"

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = ((_KEYS, _PREVIOUS, "INSERT INTO bud_asgi_schema VALUES (1)"),)
"""The statements that lead from each version to the next one, from version 0, without tables, on."""


def pending(version: int) -> list[str]:
    """The statements that lead from a version to the present one."""
    return [statement for change in MIGRATIONS[version:] for statement in change]
