"""API keys as a backend: those that are passed in, and those of a store."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf

import msgspec
from starlette.authentication import AuthenticationError

from bud_asgi.auth.chain import CredentialBackend, Pending
from bud_asgi.auth.credentials import Authenticated, Status, authenticated
from bud_asgi.auth.keys import (
    DEFAULT_KEY_TIMING,
    ApiKey,
    EditableKeyStore,
    KeyAdmin,
    KeyLookup,
    KeyStore,
    KeyTiming,
    check_key_store,
)
from bud_asgi.options import OptionError, check_clock, check_items, check_type, duplicates, mismatch
from bud_asgi.secret import AnySecret, secret_option

_LONGEST_KEY = 512  # bytes; nothing longer is hashed
_PREFIX = b"sk-bud-"


class _Listed(msgspec.Struct, frozen=True):
    """A key in memory: its digest, or the HMAC of that, and the Unix time until which it is valid."""

    digest: bytes
    result: Authenticated
    until: float


class ApiKeys(CredentialBackend):
    """Authenticates by API keys, of which only the hashes are known.

    `keys` is `{name: hash}` or a sequence of `ApiKey`. Keys that begin with `sk-bud-` and are not among them are looked
    up in the `store`; the result is used for ten seconds. While the store is unavailable, keys that were used within
    the last hour are accepted, and others get a 529. `pepper` is the one that the keys were hashed with.
    `ApiKeys({})` accepts no key: for an app that only its own process calls, by `transport()`.

    Raises `OptionError` without keys and store, for a value that is not a hash (it is not shown, because it may be a
    key), for two keys of the same name or hash, and for keys that were hashed with a pepper if there is none.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | Sequence[ApiKey] | None = None,
        *,
        store: KeyStore | None = None,
        pepper: AnySecret | None = None,
        timing: KeyTiming = DEFAULT_KEY_TIMING,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if keys is None and store is None:
            raise OptionError("keys", "missing; expected keys, a store, or {} to accept no key at all", other="store")
        check_clock("clock", clock)
        check_clock("wall", wall)
        self._wall = wall
        self._secret = secret_option("pepper", pepper)
        self._pepper = self._secret.reveal().encode() if self._secret else None
        self._listed: dict[bytes, _Listed] = {}
        self._peppered = b""  # the pepper, if there is a listed key that needs it
        for index, key in enumerate(_checked(() if keys is None else keys)):
            for hash_, until in _hashes(key):
                self._add(f"keys[{index}]", hash_, authenticated(key.principal), until)
        self._store, self._lookup = store, None
        check_type("timing", timing, KeyTiming, "a KeyTiming")
        if store is not None:
            check_key_store(store)
            self._lookup = KeyLookup(store, self._pepper, timing, clock, wall)
        self._lookup_is_own = True

    @property
    def admin(self) -> KeyAdmin:
        """Creates, rotates, disables and deletes the keys of the store, with effect at once in this process.

        Raises `OptionError` without a store, and with one whose keys can only be looked up.
        """
        if not isinstance(self._store, EditableKeyStore) or self._lookup is None:
            raise mismatch("store", "an EditableKeyStore, such as SqlKeyStore(...)", self._store)
        return KeyAdmin(self._store, pepper=self._secret, wall=self._wall, on_change=self._lookup.forget)

    def check(self, credential: bytes) -> Authenticated | Pending | None:
        """The principal of a key, or what looks it up in the store; `None` for what is not a key of the gateway's.

        Keys are found by the first bytes of their hash, then compared in constant time. Raises `AuthenticationError`
        for a key that is unknown, disabled or has expired.
        """
        if len(credential) > _LONGEST_KEY:
            return _refuse(credential)
        digest = hashed = hashlib.sha256(credential).digest()
        listed = self._listed.get(hashed[:8])
        if listed is None and self._peppered:
            hashed = hmac.digest(self._peppered, digest, "sha256")
            listed = self._listed.get(hashed[:8])
        if listed is not None and hmac.compare_digest(listed.digest, hashed) and self._wall() < listed.until:
            return listed.result
        if self._lookup is None or credential[:7] != _PREFIX:
            return _refuse(credential if listed is None else _PREFIX)
        found, is_refused = self._lookup.known(digest)
        if is_refused:
            raise AuthenticationError
        if found is not None:
            return found
        return Pending(partial(self._fetch, self._lookup, digest), is_known=self._lookup.was_accepted(digest))

    async def status(self) -> Status:
        """Whether the store answers; `ready` without one."""
        return "ready" if self._lookup is None else await self._lookup.status()

    def known_status(self) -> Status:
        """The same as of the last call to the store. Calls nothing."""
        return "ready" if self._lookup is None else self._lookup.known_status()

    async def aclose(self) -> None:
        """Close the store's connections of the running event loop; they are opened again when needed."""
        if self._lookup is not None and self._lookup_is_own:
            await self._lookup.aclose()

    def continue_from(self, former: ApiKeys) -> None:
        """Take over the cached keys, and the ownership of the store, if the store is the same."""
        ours, theirs = self._lookup, former._lookup
        if ours is not None and theirs is not None and ours.is_like(theirs):
            self._lookup, self._lookup_is_own, former._lookup_is_own = theirs, True, False

    async def _fetch(self, lookup: KeyLookup, digest: bytes) -> Authenticated:
        found = await lookup.fetch(digest)
        if found is None:
            raise AuthenticationError
        return found

    def _add(self, option: str, hash_: str, result: Authenticated, until: float) -> None:
        kind, _, digits = hash_.partition(":")
        if kind != "sha256" and self._pepper is None:
            raise OptionError(f"{option}.hash", "was made with a pepper; expected pepper=... as well", other="pepper")
        if kind != "sha256":
            self._peppered = self._pepper or b""
        digest = bytes.fromhex(digits)
        if digest[:8] in self._listed:
            raise OptionError(f"{option}.previous_hash", "the hash of another key as well")
        self._listed[digest[:8]] = _Listed(digest, result, until)


def _refuse(credential: bytes) -> None:
    """Raise `AuthenticationError` for what looks like a key of the gateway's; anything else may be of another kind."""
    if credential[:7] == _PREFIX:
        raise AuthenticationError


def _hashes(key: ApiKey) -> Iterator[tuple[str, float]]:
    """The hashes of a key, and the Unix time until which each is valid."""
    until = key.expires.timestamp() if key.expires else inf
    yield key.hash, until if key.enabled else -inf
    if key.previous_hash is not None and key.previous_until is not None:
        yield key.previous_hash, min(until, key.previous_until.timestamp()) if key.enabled else -inf


def _checked(keys: Mapping[str, str] | Sequence[ApiKey]) -> Sequence[ApiKey]:
    """The keys as a list, in which no name or hash occurs twice."""
    checked = list(_keys(keys))
    for field in ("name", "hash"):
        for index, first in duplicates(getattr(key, field) for key in checked):
            raise OptionError(f"keys[{index}].{field}", f"duplicate API key {field}, already used by keys[{first}]")
    return checked


def _keys(keys: Mapping[str, str] | Sequence[ApiKey]) -> Iterator[ApiKey]:
    """The keys. Those of a mapping are named by number in errors: name and key may have changed places."""
    if isinstance(keys, Mapping):
        for index, (name, hash_) in enumerate(keys.items()):
            try:
                yield ApiKey(name=name, hash=hash_)
            except OptionError as error:
                raise OptionError(f"keys[{index}].{error.option}", error.problem) from None
        return
    expected = "a mapping of names to hashes, or a list of ApiKey"
    if isinstance(keys, str | bytes):
        raise mismatch("keys", expected, keys, hide=True)
    yield from check_items("keys", keys, expected, _check_key)


def _check_key(option: str, key: object) -> None:
    check_type(option, key, ApiKey, "an ApiKey")
