"""The seam between a stand-in's server and what it stands in for.

The server listens, records what it sees and carries out replies; a service knows what to say.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Rendered, Reply


class Refusal(msgspec.Struct, frozen=True):
    """A request that the service doesn't take: the words for `Received.refusal`, and the reply."""

    message: str
    reply: Reply


class Service(Protocol):
    """What a `StandIn` stands in for. It does no I/O: each method is asked about one request, and returns at once."""

    @property
    def max_body(self) -> int:
        """The largest body that it takes, in bytes."""
        ...

    def request_id(self, seed: str) -> str:
        """The id of a request; the same for the same seed."""
        ...

    def refuse(self, received: Received) -> Refusal | None:
        """Why the service would refuse this request (too large if it is not `complete`); `None` if it takes it."""
        ...

    def answer(self, received: Received) -> Reply:
        """The reply to a request that it takes, unless the test says otherwise."""
        ...

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """Make the body of a reply to this request. Everything random comes from `seed`."""
        ...

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """What the service adds to this reply."""
        ...
