"""A client of the Vertex AI stand-in that returns its replies as they are."""

import json
from collections.abc import Mapping
from typing import Any

from bud_asgi.testing import Reply, StandIn
from bud_asgi.testing.google import Tokens
from testing.raw_client import ask, unchunked, wire

MODEL = "claude-opus-5"
PARENT = "/v1/projects/bud-stand-in/locations/global/publishers/anthropic/models"
RESOURCE = f"{PARENT.removeprefix('/v1/')}/{MODEL}"
CREATE = f"{PARENT}/{MODEL}:rawPredict"
STREAM = f"{PARENT}/{MODEL}:streamRawPredict"
COUNT = f"{PARENT}/count-tokens:rawPredict"
HELLO = [{"role": "user", "content": "What is new?"}]
FIELDS: dict[str, Any] = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 100, "messages": HELLO}


def without(*names: str, **fields: Any) -> dict[str, Any]:
    """Return the usual fields without `names`, changed by `fields`."""
    return {name: value for name, value in {**FIELDS, **fields}.items() if name not in names}


class VertexClient:
    """Sends requests to a stand-in, with a token that it accepts."""

    def __init__(self, upstream: StandIn, tokens: Tokens) -> None:
        self.upstream, self.tokens = upstream, tokens
        self.token = tokens.issue("someone").value

    async def __call__(
        self,
        target: str = CREATE,
        fields: Mapping[str, Any] = FIELDS,
        headers: Mapping[str, str | None] | None = None,
        method: str = "POST",
    ) -> tuple[int, str, Any]:
        """Return status, head, and the decoded body (text if it is not JSON)."""
        head, body, _ = await ask(self.upstream, self._request(target, fields, headers or {}, method))
        text = head.decode()
        return int(text.split()[1]), text, json.loads(body) if "application/json" in text else body.decode()

    async def stream(self, reply: Reply | None) -> tuple[bytes, bytes, bool, str]:
        """Return head and content of this reply as a stream, whether it is complete, and how the connection ended."""
        self.upstream.always(reply)
        head, body, ended = await ask(self.upstream, self._request(STREAM, without(stream=True), {}, "POST"))
        content, _, whole = unchunked(body)
        return head, content, whole, ended

    def _request(self, target: str, fields: Mapping[str, Any], headers: Mapping[str, str | None], method: str) -> bytes:
        given = {"x-api-key": None, "anthropic-version": None, "authorization": f"Bearer {self.token}", **headers}
        return wire(json.dumps(fields).encode(), headers=given, start=f"{method} {target} HTTP/1.1")
