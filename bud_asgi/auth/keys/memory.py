"""A key store in memory, for tests and for hosts that load their keys themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from bud_asgi.auth.keys.record import ApiKey
from bud_asgi.auth.keys.store import DuplicateKey


class MemoryKeyStore:
    """An `EditableKeyStore` in this process's memory. Raises `DuplicateKey` for two keys of one name or hash."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: dict[str, ApiKey] = {}
        for key in keys:
            self._add(key)

    async def find(self, key_hash: str) -> ApiKey | None:
        """The key whose `hash` or `previous_hash` this is."""
        return self._find(key_hash)

    async def get(self, name: str) -> ApiKey | None:
        """The key of that name."""
        return self._keys.get(name)

    async def all(self) -> Sequence[ApiKey]:
        """All keys, by name."""
        return [self._keys[name] for name in sorted(self._keys)]

    async def add(self, key: ApiKey) -> None:
        """Add a key. Raises `DuplicateKey`."""
        self._add(key)

    async def rotate(self, name: str, key_hash: str, previous_until: datetime | None) -> bool:
        """Replace the hash of a key, and keep the present one until a time."""
        key = self._keys.get(name)
        previous = key.hash if key and previous_until else None
        return self._change(name, hash=key_hash, previous_hash=previous, previous_until=previous_until)

    async def update(self, name: str, fields: Mapping[str, object]) -> bool:
        """Set these fields of a key."""
        return self._change(name, **fields)

    async def delete(self, name: str) -> bool:
        """Delete a key."""
        return self._keys.pop(name, None) is not None

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        """Set `last_used` of these keys, unless it is later."""
        for name, time in used.items():
            key = self._keys.get(name)
            if key is not None and (key.last_used is None or key.last_used < time):
                self._change(name, last_used=time)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    def _find(self, key_hash: str) -> ApiKey | None:
        return next((key for key in self._keys.values() if key_hash in (key.hash, key.previous_hash)), None)

    def _add(self, key: ApiKey) -> None:
        if key.name in self._keys or self._find(key.hash) is not None:
            raise DuplicateKey(key.name)
        self._keys[key.name] = key

    def _change(self, name: str, **values: object) -> bool:
        key = self._keys.get(name)
        if key is not None:
            self._keys[name] = msgspec.structs.replace(key, **values)
        return key is not None
