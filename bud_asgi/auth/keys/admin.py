"""Management of the keys in a store: what the `bud-asgi keys` commands do, for code."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from bud_asgi.auth.keys.record import ApiKey, hash_api_key, new_api_key
from bud_asgi.auth.keys.store import EditableKeyStore, UnknownKey
from bud_asgi.limit import Limit
from bud_asgi.options import OptionError, check_clock, check_function, check_type, mismatch
from bud_asgi.secret import AnySecret, Secret, secret_option

EDITABLE_EXPECTED = "an EditableKeyStore, such as SqlKeyStore(...)"
DEFAULT_OVERLAP = timedelta(days=1)
"""How long the previous key works after a rotation."""


class NewKey(msgspec.Struct, frozen=True):
    """A key that has just been made: the key itself, which is not stored, and its record."""

    key: Secret
    record: ApiKey


class KeyAdmin:
    """Creates, changes, rotates, disables and deletes the keys in a store.

    `pepper` is that of the `ApiKeys` that use the store. Each method raises `KeyStoreUnavailable`; whether the change
    has been made is then unknown. A change takes effect within ten seconds everywhere, and at once for the `ApiKeys`
    whose `admin` this is. Raises `OptionError`.
    """

    def __init__(
        self,
        store: EditableKeyStore,
        *,
        pepper: AnySecret | None = None,
        wall: Callable[[], float] = time.time,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        if isinstance(store, type):
            raise mismatch("store", EDITABLE_EXPECTED, store)
        check_type("store", store, EditableKeyStore, EDITABLE_EXPECTED)
        check_clock("wall", wall)
        if on_change is not None:
            check_function("on_change", on_change, "a function of the name of a key", "name")
        self._store = store
        self._pepper = secret_option("pepper", pepper)
        self._wall = wall
        self._on_change = on_change

    async def create(
        self,
        name: str,
        *,
        owner: str | None = None,
        team: str | None = None,
        models: Sequence[str] = ("*",),
        limits: Sequence[Limit] = (),
        metadata: Mapping[str, str] | None = None,
        expires: datetime | None = None,
    ) -> NewKey:
        """Make a key. `ApiKey` explains the options. Raises `DuplicateKey`, and `OptionError` for an invalid option."""
        key = new_api_key()
        record = ApiKey(
            name=name,
            hash=hash_api_key(key, self._pepper),
            owner=owner,
            team=team,
            models=cast("tuple[str, ...]", models),  # checked, and made a tuple, there
            limits=cast("tuple[Limit, ...]", limits),
            metadata=metadata or {},
            expires=expires,
            created=self._now(),
        )
        self._check_expiry(record.expires)
        await self._store.add(record)
        self._changed(name)
        return NewKey(Secret(key), record)

    async def update(
        self,
        name: str,
        *,
        owner: str | UnsetType | None = UNSET,
        team: str | UnsetType | None = UNSET,
        models: Sequence[str] | UnsetType = UNSET,
        limits: Sequence[Limit] | UnsetType = UNSET,
        metadata: Mapping[str, str] | UnsetType = UNSET,
        expires: datetime | UnsetType | None = UNSET,
    ) -> ApiKey:
        """Change fields of a key, and return its record: those that are given, each as a whole.

        Raises `UnknownKey`, and `OptionError` for an invalid value.
        """
        options = {
            "owner": owner,
            "team": team,
            "models": models,
            "limits": limits,
            "metadata": metadata,
            "expires": expires,
        }
        given = {field: value for field, value in options.items() if value is not UNSET}
        record = msgspec.structs.replace(await self.get(name), **given)  # which checks them
        if "expires" in given:
            self._check_expiry(record.expires)
        if given:
            await self._update(name, {field: getattr(record, field) for field in given})
        return record

    async def rotate(self, name: str, *, overlap: timedelta = DEFAULT_OVERLAP) -> NewKey:
        """Replace a key by a new one of the same name; the present one works on during `overlap`.

        No more than two keys work at a time: one that was replaced before stops working. Raises `UnknownKey`.
        """
        check_type("overlap", overlap, timedelta, "a timedelta")
        if overlap < timedelta(0):
            raise OptionError("overlap", "must not be negative")
        key = new_api_key()
        until = self._now() + overlap if overlap else None
        self._check(name, await self._store.rotate(name, hash_api_key(key, self._pepper), until))
        return NewKey(Secret(key), await self.get(name))

    async def get(self, name: str) -> ApiKey:
        """The record of a key. Raises `UnknownKey`."""
        record = await self._store.get(name)
        if record is None:
            raise UnknownKey(name)
        return record

    async def find(self, key: str) -> ApiKey | None:
        """The record of a key that was found somewhere, also if it is not valid any more. The key is not stored."""
        return await self._store.find(hash_api_key(key, self._pepper))

    async def all(self) -> Sequence[ApiKey]:
        """All records, by name."""
        return await self._store.all()

    async def disable(self, name: str) -> None:
        """Refuse a key until it is enabled again. Raises `UnknownKey`."""
        await self._update(name, {"enabled": False})

    async def enable(self, name: str) -> None:
        """Accept a key again that was disabled. Raises `UnknownKey`."""
        await self._update(name, {"enabled": True})

    async def delete(self, name: str) -> None:
        """Delete a key. Raises `UnknownKey`."""
        self._check(name, await self._store.delete(name))

    async def _update(self, name: str, fields: Mapping[str, object]) -> None:
        self._check(name, await self._store.update(name, fields))

    def _check_expiry(self, expires: datetime | None) -> None:
        if expires is not None and expires <= self._now():
            raise OptionError("expires", f"has already passed: {expires.isoformat()}")

    def _check(self, name: str, was_found: bool) -> None:
        self._changed(name)
        if not was_found:
            raise UnknownKey(name)

    def _changed(self, name: str) -> None:
        if self._on_change is not None:
            self._on_change(name)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)
