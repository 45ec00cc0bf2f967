"""API keys: stored as hashes, read from `Authorization: Bearer` or `x-api-key` (vendor page "API overview")."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError
from starlette.requests import HTTPConnection

from bud_asgi.exchange import MODELS_EXPECTED, Exchange, Principal
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
from bud_asgi.protocol.headers import Headers, one_credential

HASH_EXPECTED = "sha256: and 64 lower-case hex digits, as written by `bud-asgi keys new NAME`"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(rb"bearer +", re.IGNORECASE)
_LONGEST_KEY = 512  # bytes; nothing longer is hashed
_BEARER, _API_KEY, _BOTH = (b"authorization",), (b"x-api-key",), (b"authorization", b"x-api-key")

Authenticated = tuple[AuthCredentials, Principal]
"""A backend's result, in Starlette's terms: the scopes that a user has, and the user."""


def authenticated(principal: Principal) -> Authenticated:
    """A backend's result for a principal."""
    return AuthCredentials(["authenticated"]), principal


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


class ApiKeys(AuthenticationBackend):
    """Authenticates by API keys, of which only the hashes are known.

    Takes `{name: hash}` or a sequence of `ApiKey`. Where a request has both headers, the bearer token is tried first,
    and one valid credential is enough. A header that is sent twice counts as one if both lines are equal. Raises
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

    async def authenticate(self, conn: HTTPConnection) -> Authenticated | None:
        """The principal of the key, `None` without a credential. Raises `AuthenticationError` for an invalid one."""
        if conn.scope["type"] == "http":
            exchange = Exchange.of(conn.scope)
            found, exchange.credential_headers = self.find(exchange.headers)
            return found
        return self.find(dict(conn.scope["headers"]))[0]

    def find(self, headers: Headers) -> tuple[Authenticated | None, tuple[bytes, ...]]:
        """Do the same with headers. Also returns the names of those that are keys, which may not be sent upstream."""
        authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
        bearer = _bearer_token(one_credential(authorization)) if authorization else b""
        by_bearer = self._look_up(bearer) if bearer else None
        if api_key and (api_key := one_credential(api_key)) and (by_api_key := self._look_up(api_key)):
            return (by_bearer, _BOTH) if by_bearer else (by_api_key, _API_KEY)
        if by_bearer or not (authorization or api_key):
            return by_bearer, _BEARER if by_bearer else ()
        if bearer:
            raise AuthenticationError("Invalid bearer token")
        raise AuthenticationError("invalid x-api-key" if api_key else "Invalid authorization header")

    def _look_up(self, credential: bytes) -> Authenticated | None:
        """Look up by the first bytes of the hash, then compare the whole in constant time."""
        if len(credential) > _LONGEST_KEY:
            return None
        digest = hashlib.sha256(credential).digest()
        known = self._known.get(digest[:8])
        return known[1] if known and hmac.compare_digest(known[0], digest) else None


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


def _bearer_token(authorization: bytes) -> bytes:
    scheme = _SCHEME.match(authorization)
    return authorization[scheme.end() :].strip() if scheme else b""
