"""The interface between the server and the service that it stands in for.

The server accepts connections, records requests and sends replies; the service checks requests and makes replies.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Rendered, Reply


class Rejection(msgspec.Struct, frozen=True):
    """Why a request is invalid: the message for `Received.refusal`, and the error reply."""

    message: str
    reply: Reply


class Service(Protocol):
    """The service that a `StandIn` stands in for. Its methods do no I/O, and each is about one request."""

    @property
    def max_body(self) -> int:
        """The largest body that it accepts, in bytes."""
        ...

    def request_id(self, seed: str) -> str:
        """Make the id of a request, the same for the same seed."""
        ...

    def check(self, received: Received) -> Rejection | None:
        """Check a request; `None` if it is valid. One that is not `complete` is too large."""
        ...

    def answer(self, received: Received) -> Reply:
        """Make the default reply to a valid request."""
        ...

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """Encode the body of a reply to this request. Everything random comes from `seed`."""
        ...

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """Return the headers that the service adds to this reply."""
        ...
