"""The interface of key stores, and the errors that they raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from bud_asgi.auth.keys.record import ApiKey
from bud_asgi.options import check_methods, mismatch, name_shown
from bud_asgi.protocol.errors import GatewayError

UPDATABLE: frozenset[str] = frozenset({"owner", "team", "models", "limits", "metadata", "expires", "enabled"})
"""The fields of an `ApiKey` that `EditableKeyStore.update` may set."""


class KeyStoreUnavailable(GatewayError):
    """The store did not answer in time, or not at all. `reason` is for the log, without secrets."""

    status = 529
    type = "overloaded_error"

    def __init__(self, reason: str) -> None:
        super().__init__("The API keys of this gateway are unavailable.", headers={"retry-after": "1"})
        self.reason = reason


class DuplicateKey(Exception):
    """The store has a key of that name, or with that hash, already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store has a key named {name_shown(name)!r} already, or one with its hash")
        self.name = name


class UnknownKey(Exception):
    """The store has no key of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the store has no key named {name_shown(name)!r}")
        self.name = name


class KeyStore(Protocol):
    """Where keys are looked up: all that authentication needs.

    Results are cached for ten seconds, so that a store is called once in that time for each key that is used.
    """

    async def find(self, key_hash: str) -> ApiKey | None:
        """The key whose `hash` or `previous_hash` this is, also if it has expired or is not enabled.

        The caller judges that: all refused keys then cost the same calls. Raises `KeyStoreUnavailable`; any other
        exception counts as one. May be called by several event loops. May be cancelled.
        """
        ...


@runtime_checkable
class EditableKeyStore(KeyStore, Protocol):
    """A store whose keys can be managed. Each call is atomic, and the next call of any process sees its effect.

    Each raises `KeyStoreUnavailable`. When a call is cancelled or fails so, whether it has had its effect is unknown.
    """

    async def get(self, name: str) -> ApiKey | None:
        """The key of that name."""
        ...

    async def all(self) -> Sequence[ApiKey]:
        """All keys, by name."""
        ...

    async def add(self, key: ApiKey) -> None:
        """Add a key. Raises `DuplicateKey` if its name or hash is used."""
        ...

    async def rotate(self, name: str, key_hash: str, previous_until: datetime | None) -> bool:
        """Replace the hash of a key; the present one becomes its `previous_hash`, or is dropped if there is no time.

        Returns whether there is such a key.
        """
        ...

    async def update(self, name: str, fields: Mapping[str, object]) -> bool:
        """Set these fields of a key; all others stay as they are. Returns whether there is such a key.

        They are out of `owner`, `team`, `models`, `limits`, `metadata`, `expires` and `enabled`, with values that are
        valid for an `ApiKey`.
        """
        ...

    async def delete(self, name: str) -> bool:
        """Delete a key. Returns whether there was one."""
        ...

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        """Set `last_used` of these keys, unless it is later. Names that do not exist are ignored."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they are opened again when needed."""
        ...


def check_key_store(store: object) -> None:
    """Check an option for a `KeyStore`. Raises `OptionError`."""
    expected = "an object with the method of a KeyStore, find(key_hash), such as SqlKeyStore(url)"
    if isinstance(store, str | bytes):  # which have a `find` of their own
        raise mismatch("store", expected, store, hide=True)
    check_methods("store", store, expected, ("find",))
