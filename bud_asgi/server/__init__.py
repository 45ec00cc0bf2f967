"""The HTTP/1.1 protocol that `bud-asgi serve` runs in uvicorn, with limits on heads, bodies and connections.

Any other app can use it: `uvicorn --http bud_asgi.server:http_protocol`, or in code, with limits of its own,
`uvicorn.Config(app, http=ConnectionFactory(ServerLimits(...)))`. Needs the extra `server`.
"""

from bud_asgi.server.factory import ConnectionFactory
from bud_asgi.server.limits import ServerLimits, default_connections

__all__ = ["ConnectionFactory", "ServerLimits", "default_connections", "http_protocol"]

http_protocol = ConnectionFactory(ServerLimits(connections=default_connections()))
"""The factory with the default limits."""
