"""The factory that uvicorn calls for the protocol of each connection."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

from bud_asgi.server.connection import ServerConnection
from bud_asgi.server.connections import Connections
from bud_asgi.server.limits import ServerLimits


class ConnectionFactory:
    """Makes the protocol of each connection, as `http=` of `uvicorn.Config`. The limits are those of each server."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._servers: WeakKeyDictionary[ServerState, Connections] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[ConnectionFactory], tuple[ServerLimits]]:
        """Workers get a factory with the same limits."""
        return ConnectionFactory, (self._limits,)

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ServerConnection:
        """Make the protocol of one connection. The arguments are uvicorn's."""
        connections = self._servers.get(server_state)
        if connections is None:
            loop = _loop or asyncio.get_running_loop()
            connections = Connections(self._limits, config, server_state, app_state, loop)
            self._servers[server_state] = connections
        return ServerConnection(connections)
