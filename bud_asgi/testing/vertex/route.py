"""What the path of a request to Vertex AI names."""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from bud_asgi.testing.server.received import Received

_PATH = re.compile(
    r"/v1/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/([^/:]+):(rawPredict|streamRawPredict)"
)


class Route(msgspec.Struct, frozen=True):
    """The parts of a request's path."""

    project: str
    location: str
    model: str
    method: str

    @property
    def counting(self) -> bool:
        """Whether the request counts tokens; the model is in the body then."""
        return self.model == "count-tokens"

    @property
    def resource(self) -> str:
        """The model's full resource name."""
        return f"projects/{self.project}/locations/{self.location}/publishers/anthropic/models/{self.model}"


def parse_route(received: Received) -> Route | None:
    """Parse the path; `None` if it is not a method of Claude models."""
    found = _PATH.fullmatch(received.path.decode("latin-1"))
    return Route(*(unquote(part) for part in found.groups())) if found else None
