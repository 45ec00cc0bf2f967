"""API keys: stored as hashes, read from `Authorization: Bearer` or `x-api-key` (vendor page "API overview")."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from starlette.authentication import AuthenticationError

from bud_asgi.auth.chain import CredentialBackend
from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.exchange import MODELS_EXPECTED, Principal
from bud_asgi.limit import Limit, check_own_limits
from bud_asgi.options import (
    OptionError,
    check_items,
    check_name,
    check_text,
    check_texts,
    check_type,
    duplicates,
    mismatch,
)

HASH_EXPECTED = "sha256: and 64 lower-case hex digits, as written by `bud-asgi keys new NAME`"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST_KEY = 512  # bytes; nothing longer is hashed


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's key, as it is stored: `hash` is `sha256:` and 64 hex digits, made by `hash_api_key`.

    `name` is the principal's id. `models` are the names or `*` patterns that it may use. `limits` count for this key
    alone, and replace the app's limits per principal of the same kind and window. Raises `OptionError`.
    """

    name: str
    hash: str
    team: str | None = None
    models: tuple[str, ...] = ("*",)
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        """Check the options; lists become tuples."""
        check_name("name", self.name)
        check_text("hash", self.hash, HASH_EXPECTED, _HASH, hide=True)
        if self.team is not None:
            check_name("team", self.team)
        msgspec.structs.force_setattr(self, "models", check_texts("models", self.models, MODELS_EXPECTED))
        msgspec.structs.force_setattr(self, "limits", check_own_limits(self.limits))

    @property
    def principal(self) -> Principal:
        """The caller whose key this is."""
        return Principal(id=self.name, team=self.team, models=self.models, limits=self.limits)

    def __repr__(self) -> str:
        """Leave out the hash, and the limits, which are long."""
        return f"ApiKey(name={self.name!r}, team={self.team!r}, models={self.models!r})"


def new_api_key() -> str:
    """Make a random key of 256 bits. Give it to its owner and store only `hash_api_key(key)`."""
    return f"sk-bud-{secrets.token_urlsafe(32)}"


def hash_api_key(key: str) -> str:
    """The form in which a key is stored. A plain hash is enough for 256 random bits; it would not be for a password.

    Raises `OptionError`, which does not show the key, for what is not a string or is empty.
    """
    check_text("key", key, "an API key, as made by new_api_key()", hide=True)
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class ApiKeys(CredentialBackend):
    """Authenticates by API keys, of which only the hashes are known.

    Takes `{name: hash}` or a sequence of `ApiKey`. Raises
    `OptionError` for a value that is not a hash (it is not shown, because it may be a key) and for two keys of the same
    name or hash.
    """

    def __init__(self, keys: Mapping[str, str] | Sequence[ApiKey]) -> None:
        self._known: dict[bytes, tuple[bytes, Authenticated]] = {}
        checked = list(_keys(keys))
        for field in ("name", "hash"):
            for index, first in duplicates(getattr(key, field) for key in checked):
                raise OptionError(f"keys[{index}].{field}", f"duplicate API key {field}, already used by keys[{first}]")
        for key in checked:
            digest = bytes.fromhex(key.hash.removeprefix("sha256:"))
            self._known[digest[:8]] = (digest, authenticated(key.principal))

    def check(self, credential: bytes) -> Authenticated | None:
        """The principal of a key: found by the first bytes of its hash, then compared in constant time.

        `None` for what does not look like a key of the gateway's. Raises `AuthenticationError` for one that is unknown.
        """
        if len(credential) <= _LONGEST_KEY:
            digest = hashlib.sha256(credential).digest()
            known = self._known.get(digest[:8])
            if known and hmac.compare_digest(known[0], digest):
                return known[1]
        if credential.startswith(b"sk-bud-"):
            raise AuthenticationError
        return None


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
