"""What an API key is: its text, the hash of it that is stored, and the record of a stored key."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from math import inf

import msgspec

from bud_asgi.exchange import MODELS_EXPECTED, Principal
from bud_asgi.limit import Limit, check_own_limits
from bud_asgi.options import OptionError, check_flag, check_name, check_text, check_texts, check_type, mismatch
from bud_asgi.secret import AnySecret, secret_option

HASH_EXPECTED = "sha256: and 64 lower-case hex digits, as written by `bud-asgi keys new NAME`"
_HASH = re.compile(r"(hmac-)?sha256:[0-9a-f]{64}")
_KEY = re.compile(r"sk-bud-([A-Za-z0-9_-]{48})")
_NOT_EMPTY = re.compile(r".+", re.DOTALL)
_KEY_EXPECTED = "an API key, as made by new_api_key()"
_TIME_EXPECTED = "a time with an offset, such as 2027-01-31T00:00:00Z"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's key as it is stored: never the key itself, but its `hash`, made by `hash_api_key`.

    `name` is the principal's id. `models` are the names or `*` patterns that it may use. `limits` count for this key
    alone, and replace the app's limits per principal of the same kind and window. `owner` and `metadata` become the
    principal's metadata. From `expires` on, or while it is not `enabled`, the key is refused. Until `previous_until`
    the key of `previous_hash`, which this one replaces, is accepted as well. Times have a time zone; `last_used` may be
    late by a minute. Raises `OptionError`.
    """

    name: str
    hash: str
    owner: str | None = None
    team: str | None = None
    models: tuple[str, ...] = ("*",)
    limits: tuple[Limit, ...] = ()
    metadata: Mapping[str, str] = {}
    expires: datetime | None = None
    enabled: bool = True
    previous_hash: str | None = None
    previous_until: datetime | None = None
    created: datetime | None = None
    last_used: datetime | None = None

    def __post_init__(self) -> None:
        """Check the options; lists become tuples."""
        check_name("name", self.name)
        check_text("hash", self.hash, HASH_EXPECTED, _HASH, hide=True)
        for option in ("owner", "team"):
            if getattr(self, option) is not None:
                check_name(option, getattr(self, option))
        msgspec.structs.force_setattr(self, "models", check_texts("models", self.models, MODELS_EXPECTED, _NOT_EMPTY))
        msgspec.structs.force_setattr(self, "limits", check_own_limits(self.limits))
        _check_metadata(self.metadata)
        for option in ("expires", "previous_until", "created", "last_used"):
            _check_time(option, getattr(self, option))
        check_flag("enabled", self.enabled)
        _check_previous(self)

    @property
    def principal(self) -> Principal:
        """The caller whose key this is."""
        metadata = {**self.metadata, "owner": self.owner} if self.owner is not None else self.metadata
        return Principal(id=self.name, team=self.team, models=self.models, limits=self.limits, metadata=metadata)

    def valid_for(self, key_hash: str, now: float) -> float:
        """Seconds for which a key with this hash is accepted as this one, from the Unix time `now` on.

        0 if it is not accepted, infinite if it does not expire.
        """
        if not self.enabled:
            return 0.0
        left = self.expires.timestamp() - now if self.expires else inf
        if not hmac.compare_digest(self.hash, key_hash):
            if self.previous_until is None or not hmac.compare_digest(self.previous_hash or "", key_hash):
                return 0.0
            left = min(left, self.previous_until.timestamp() - now)
        return max(0.0, left)

    def __repr__(self) -> str:
        """Leave out the hashes and the metadata, and the limits, which are long."""
        state = "" if self.enabled else ", enabled=False"
        return f"ApiKey(name={self.name!r}, team={self.team!r}, models={self.models!r}{state})"


def new_api_key() -> str:
    """Make a random key of 256 bits with a checksum. Give it to its owner and store only `hash_api_key(key)`."""
    random = secrets.token_bytes(32)
    return f"sk-bud-{urlsafe_b64encode(random + _checksum(random)).decode()}"


def is_api_key(text: str) -> bool:
    """Whether a text has the form of a key of this gateway and its checksum is right: a mistyped key has not."""
    if (parts := _KEY.fullmatch(text)) is None:
        return False
    decoded = urlsafe_b64decode(parts[1])
    return _checksum(decoded[:32]) == decoded[32:]


def hash_api_key(key: str, pepper: AnySecret | None = None) -> str:
    """The form in which a key is stored: its SHA-256, or with a pepper the HMAC-SHA-256 of that.

    A plain hash is enough for 256 random bits; it would not be for a password. With a pepper, which is kept elsewhere,
    write access to the store is not enough to make a key. Raises `OptionError`, which does not show the key, for what
    is not a string or is empty.
    """
    check_text("key", key, _KEY_EXPECTED, hide=True)
    secret = secret_option("pepper", pepper)
    return hash_digest(hashlib.sha256(key.encode()).digest(), secret.reveal().encode() if secret else None)


def hash_digest(digest: bytes, pepper: bytes | None) -> str:
    """The stored form of a key, from its SHA-256."""
    if pepper is None:
        return f"sha256:{digest.hex()}"
    return f"hmac-sha256:{hmac.digest(pepper, digest, 'sha256').hex()}"


def _checksum(random: bytes) -> bytes:
    return zlib.crc32(random).to_bytes(4, "big")


def _check_metadata(metadata: object) -> None:
    check_type("metadata", metadata, Mapping, "a mapping of names to strings")
    for name, value in metadata.items():  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
        if not isinstance(name, str) or not isinstance(value, str):
            raise OptionError("metadata", "expected names with strings as values; the value is not shown")


def _check_time(option: str, value: object) -> None:
    if value is not None and (not isinstance(value, datetime) or value.utcoffset() is None):
        raise mismatch(option, _TIME_EXPECTED, str(value))


def _check_previous(key: ApiKey) -> None:
    if key.previous_hash is not None:
        check_text("previous_hash", key.previous_hash, HASH_EXPECTED, _HASH, hide=True)
        if key.previous_until is None:
            raise OptionError("previous_until", f"missing; expected {_TIME_EXPECTED}", other="previous_hash")
    elif key.previous_until is not None:
        raise OptionError("previous_hash", f"missing; expected {HASH_EXPECTED}", other="previous_until")
