"""API keys: the record of a key, stores of keys, lookups in them, and their management.

A good order to read it in: `record`, what a key is; `store`, the interface of stores; `memory` and `sql`, the stores,
the latter on `sqlite` or `postgres` with one `schema`; `known`, what is remembered, and `lookup`, which calls a store;
`admin`, which changes keys; `suite`, tests of stores.
"""

from bud_asgi.auth.keys.admin import KeyAdmin, NewKey
from bud_asgi.auth.keys.lookup import KeyLookup
from bud_asgi.auth.keys.memory import MemoryKeyStore
from bud_asgi.auth.keys.record import HASH_EXPECTED, ApiKey, hash_api_key, hash_digest, is_api_key, new_api_key
from bud_asgi.auth.keys.sql import SqlKeyStore
from bud_asgi.auth.keys.store import (
    DuplicateKey,
    EditableKeyStore,
    KeyStore,
    KeyStoreUnavailable,
    UnknownKey,
    check_key_store,
)
from bud_asgi.auth.keys.suite import KEY_STORE_CHECKS
from bud_asgi.auth.keys.timing import DEFAULT_KEY_TIMING, KeyTiming

__all__ = [
    "DEFAULT_KEY_TIMING",
    "HASH_EXPECTED",
    "KEY_STORE_CHECKS",
    "ApiKey",
    "DuplicateKey",
    "EditableKeyStore",
    "KeyAdmin",
    "KeyLookup",
    "KeyStore",
    "KeyStoreUnavailable",
    "KeyTiming",
    "MemoryKeyStore",
    "NewKey",
    "SqlKeyStore",
    "UnknownKey",
    "check_key_store",
    "hash_api_key",
    "hash_digest",
    "is_api_key",
    "new_api_key",
]
