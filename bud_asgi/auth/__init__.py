"""Who is asking: the middleware, and the backends that prove it. Any Starlette `AuthenticationBackend` works too."""

from bud_asgi.auth.api_keys import ApiKey, ApiKeys, hash_api_key, new_api_key
from bud_asgi.auth.host import Anonymous, HostUser
from bud_asgi.auth.middleware import AuthenticationFailed, AuthMiddleware

__all__ = [
    "Anonymous",
    "ApiKey",
    "ApiKeys",
    "AuthMiddleware",
    "AuthenticationFailed",
    "HostUser",
    "hash_api_key",
    "new_api_key",
]
