"""An app whose upstream requests are kept instead of being sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bud_asgi import ApiKey, ApiKeys, MessagesApp, hash_api_key
from bud_asgi.http import HttpError, HttpReply, HttpRequest
from support.asgi import Receiving, Sent, chunks, http_scope
from support.calls import HEADERS, KEY


class Captured:
    """An app with one API key, for `models`; other options are the app's. Each upstream request fails after it is kept.

    It is also the app's HTTP client.
    """

    def __init__(self, *, models: Sequence[str] = ("*",), **options: Any) -> None:
        if "middleware" not in options:
            options.setdefault("auth", ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=tuple(models))]))
        self.app = MessagesApp(client=lambda: self, **options)
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest) -> HttpReply:
        """Keep the request, and fail as if the upstream had closed the connection."""
        self.requests.append(request)
        raise HttpError("reset", "captured", sent=True)

    async def aclose(self) -> None:
        """Do nothing."""

    def post(
        self, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None, *, counting: bool = False
    ) -> Sent:
        """Send one request; `requests` has what went up for it."""
        self.requests.clear()
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {name.lower().encode(): value.encode() for name, value in {**HEADERS, **(headers or {})}.items()}
        path = "/v1/messages/count_tokens" if counting else "/v1/messages"
        scope = http_scope(lines.items(), path=path, raw_path=path.encode())
        sent = Sent()
        asyncio.run(self.app(scope, Receiving(*chunks(content)), sent))
        return sent

    @property
    def body(self) -> dict[str, Any]:
        """The body of the only request that went up."""
        (request,) = self.requests
        return json.loads(wire(request))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the only request that went up."""
        (request,) = self.requests
        return {name.decode(): value.decode("latin-1") for name, value in request.headers}


def wire(request: HttpRequest) -> bytes:
    """The bytes of a request's body."""
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)
