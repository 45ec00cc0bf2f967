"""Authentication: the stage, its middleware, and backends. Any Starlette `AuthenticationBackend` works too."""

from bud_asgi.auth.api_keys import ApiKey, ApiKeys, hash_api_key, new_api_key
from bud_asgi.auth.chain import CredentialBackend, FirstOf, as_chain
from bud_asgi.auth.host import Anonymous, HostUser
from bud_asgi.auth.middleware import AuthMiddleware
from bud_asgi.auth.stage import AuthenticationFailed, authenticate, authenticate_now
from bud_asgi.auth.throttle import Throttle, TooManyFailures

__all__ = [
    "Anonymous",
    "ApiKey",
    "ApiKeys",
    "AuthMiddleware",
    "AuthenticationFailed",
    "CredentialBackend",
    "FirstOf",
    "HostUser",
    "Throttle",
    "TooManyFailures",
    "as_chain",
    "authenticate",
    "authenticate_now",
    "hash_api_key",
    "new_api_key",
]
