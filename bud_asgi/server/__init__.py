"""What `bud-asgi serve` runs in uvicorn: the protocol of its connections, with limits on heads and connections.

`uvicorn.Config(app, http=ConnectionFactory(ServerLimits()))` uses it in another program. Needs the extra `server`.
"""

from bud_asgi.server.connections import ConnectionFactory
from bud_asgi.server.limits import ServerLimits, default_connections

__all__ = ["ConnectionFactory", "ServerLimits", "default_connections"]
