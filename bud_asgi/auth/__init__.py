"""Authentication: the stage, its middleware, and backends. Any Starlette `AuthenticationBackend` works too."""

from bud_asgi.auth.api_keys import ApiKey, ApiKeys, hash_api_key, new_api_key
from bud_asgi.auth.host import CREDENTIAL_HEADERS, Anonymous, HostToken, HostUser
from bud_asgi.auth.middleware import AuthMiddleware
from bud_asgi.auth.stage import UNAUTHENTICATED, AuthenticationFailed, authenticate, authenticate_now, check_backend

__all__ = [
    "CREDENTIAL_HEADERS",
    "UNAUTHENTICATED",
    "Anonymous",
    "ApiKey",
    "ApiKeys",
    "AuthMiddleware",
    "AuthenticationFailed",
    "HostToken",
    "HostUser",
    "authenticate",
    "authenticate_now",
    "check_backend",
    "hash_api_key",
    "new_api_key",
]
