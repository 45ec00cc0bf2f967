"""The server of every stand-in: connections, replies and faults, for any service."""

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.server.service import Rejection, Service
from bud_asgi.testing.server.stand_in import StandIn
from bud_asgi.testing.server.threads import ThreadedStandIn

__all__ = ["Received", "Rejection", "Reply", "Service", "StandIn", "ThreadedStandIn"]
