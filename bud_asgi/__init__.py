"""The Anthropic-compatible Messages API as a mountable ASGI app.

What the README uses is here; each room (`bud_asgi.auth`, `.limits`, `.routing`, `.providers`, `.http`, `.testing`)
shows the rest of its own.
"""

import typing

from starlette.middleware import Middleware

from bud_asgi.app import MessagesApp
from bud_asgi.attempt import Attempt, Target
from bud_asgi.auth import Anonymous, ApiKey, ApiKeys, AuthMiddleware, HostToken, HostUser, hash_api_key, new_api_key
from bud_asgi.config import ConfigError, from_env, from_file, reload_file
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limits import Limit, MemoryStore, RateLimitMiddleware, RedisStore
from bud_asgi.observer import Observer
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.usage import Usage
from bud_asgi.providers import Anthropic, AnthropicProvider, Bedrock, Vertex
from bud_asgi.routing import Route, RouteTable, RoutingMiddleware
from bud_asgi.secret import Secret
from bud_asgi.version import __version__

if typing.TYPE_CHECKING:
    from bud_asgi.telemetry.opentelemetry import OpenTelemetry

__all__ = [
    "Anonymous",
    "Anthropic",
    "AnthropicProvider",
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
    "OpenTelemetry",
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
    "reload_file",
]


def __getattr__(name: str) -> object:
    """Import `OpenTelemetry` on first use: its API takes a good part of the time that the whole package takes."""
    if name != "OpenTelemetry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bud_asgi.telemetry.opentelemetry import OpenTelemetry  # noqa: PLC0415

    return OpenTelemetry
