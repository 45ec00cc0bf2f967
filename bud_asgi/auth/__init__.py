"""Authentication: the stage, its middleware, and backends. Any Starlette `AuthenticationBackend` works too."""

from bud_asgi.auth.api_keys import ApiKeys
from bud_asgi.auth.chain import UNAUTHENTICATED, CredentialBackend, FirstOf, Pending, as_chain
from bud_asgi.auth.credentials import worst_of
from bud_asgi.auth.host import CREDENTIAL_HEADERS, Anonymous, HostToken, HostUser
from bud_asgi.auth.jwt import Grant, Issuer, IssuerUnavailable, JwksTiming, Jwt, check_issuers
from bud_asgi.auth.keys import (
    KEY_STORE_CHECKS,
    ApiKey,
    DuplicateKey,
    EditableKeyStore,
    KeyAdmin,
    KeyStore,
    KeyStoreUnavailable,
    KeyTiming,
    MemoryKeyStore,
    NewKey,
    SqlKeyStore,
    UnknownKey,
    hash_api_key,
    is_api_key,
    new_api_key,
)
from bud_asgi.auth.middleware import AuthMiddleware
from bud_asgi.auth.stage import AuthenticationFailed, authenticate, authenticate_now
from bud_asgi.auth.throttle import Throttle, TooManyFailures

__all__ = [
    "CREDENTIAL_HEADERS",
    "KEY_STORE_CHECKS",
    "UNAUTHENTICATED",
    "Anonymous",
    "ApiKey",
    "ApiKeys",
    "AuthMiddleware",
    "AuthenticationFailed",
    "CredentialBackend",
    "DuplicateKey",
    "EditableKeyStore",
    "FirstOf",
    "Grant",
    "HostToken",
    "HostUser",
    "Issuer",
    "IssuerUnavailable",
    "JwksTiming",
    "Jwt",
    "KeyAdmin",
    "KeyStore",
    "KeyStoreUnavailable",
    "KeyTiming",
    "MemoryKeyStore",
    "NewKey",
    "Pending",
    "SqlKeyStore",
    "Throttle",
    "TooManyFailures",
    "UnknownKey",
    "as_chain",
    "authenticate",
    "authenticate_now",
    "check_issuers",
    "hash_api_key",
    "is_api_key",
    "new_api_key",
    "worst_of",
]
