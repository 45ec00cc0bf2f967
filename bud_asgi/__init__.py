"""The Anthropic-compatible Messages API as a mountable ASGI app.

What the README uses is here; each room (`bud_asgi.auth`, `.limits`, `.routing`, `.providers`, `.http`, `.testing`)
shows the rest of its own.
"""

from starlette.middleware import Middleware

from bud_asgi.app import MessagesApp
from bud_asgi.attempt import Attempt, Target
from bud_asgi.auth import Anonymous, ApiKey, ApiKeys, AuthMiddleware, HostToken, HostUser, hash_api_key, new_api_key
from bud_asgi.config import ConfigError, from_env, from_file
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limits import Limit, MemoryStore, RateLimitMiddleware, RedisStore
from bud_asgi.observer import Observer
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.usage import Usage
from bud_asgi.providers import Anthropic, Bedrock, Vertex
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware
from bud_asgi.secret import Secret

__version__ = "0.1.0"

__all__ = [
    "Anonymous",
    "Anthropic",
    "ApiKey",
    "ApiKeys",
    "Attempt",
    "AuthMiddleware",
    "Bedrock",
    "ConfigError",
    "Exchange",
    "GatewayError",
    "HostToken",
    "HostUser",
    "Limit",
    "MemoryStore",
    "MessagesApp",
    "Middleware",
    "Observer",
    "Principal",
    "RateLimitMiddleware",
    "RedisStore",
    "Route",
    "RouteTable",
    "RoutingMiddleware",
    "Secret",
    "Target",
    "Usage",
    "Vertex",
    "__version__",
    "from_env",
    "from_file",
    "hash_api_key",
    "new_api_key",
]
