"""A minimal ASGI server: calls an app and keeps what it sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.protocol.operations import Operation
from bud_asgi.response import Response

Lines = Iterable[tuple[bytes, bytes]]
VERSION = (b"anthropic-version", b"2023-06-01")
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":1}'
DISCONNECT: Message = {"type": "http.disconnect"}


class Sent:
    """The messages that an app sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """ASGI's `send`."""
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The status of the one response that has begun."""
        starts = [message for message in self.messages if message["type"] == "http.response.start"]
        assert len(starts) == 1
        return starts[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers of the response. Fails if a name occurs twice."""
        lines: list[tuple[bytes, bytes]] = list(self.messages[0]["headers"])
        assert len({name for name, _ in lines}) == len(lines)
        return dict(lines)

    @property
    def body(self) -> bytes:
        """The body of the response, which has ended."""
        assert self.messages[-1].get("more_body", False) is False
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        """The error in the envelope of the response. Fails if the envelope or its headers are wrong."""
        envelope: dict[str, Any] = json.loads(self.body)
        assert envelope.keys() == {"type", "error", "request_id"}
        assert envelope["type"] == "error"
        assert envelope["request_id"].encode() == self.headers[b"request-id"]
        assert self.headers[b"content-type"] == b"application/json"
        assert self.headers[b"content-length"] == str(len(self.body)).encode()
        return envelope["error"]


class Receiving:
    """ASGI's `receive`: the given messages, then none. `calls` counts the calls."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.calls = 0

    async def __call__(self) -> Message:
        """Hand out the next message."""
        self.calls += 1
        if not self.messages:
            await asyncio.get_running_loop().create_future()
        return self.messages.pop(0)


def chunks(*parts: bytes) -> list[Message]:
    """The messages with which a server delivers a body in chunks."""
    last = len(parts) - 1
    return [{"type": "http.request", "body": part, "more_body": index < last} for index, part in enumerate(parts)]


def http_scope(headers: Lines = (), *, method: str = "POST", **more: object) -> Scope:
    """The scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/v1/messages",
        "raw_path": b"/v1/messages",
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        **more,
    }


def exchange_of(
    principal: Principal | str | None = "ann", operation: Operation | None = None, path: str = "/v1/messages"
) -> Exchange:
    """The record of a request whose body has not been read."""
    exchange = Exchange.of(http_scope([VERSION], path=path))
    exchange.principal = Principal(id=principal) if isinstance(principal, str) else principal
    exchange.operation = operation
    return exchange


async def call(app: ASGIApp, scope: Scope, receive: Receive | None = None) -> Sent:
    """Call an app, then wait for the tasks that outlive the request."""
    sent = Sent()
    try:
        await app(scope, receive or Receiving(), sent)
    finally:
        if (tasks := Exchange.of(scope).tasks) is not None:
            await tasks.drain(1)
    return sent


class Behind:
    """The app behind a middleware: keeps its scopes, and answers 200."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self.scopes.append(scope)
        if scope["type"] == "http":
            await Response(Exchange.of(scope), send).send_whole(200, [], b"ok")

    @property
    def principal(self) -> Any:
        """The principal of the only request."""
        assert len(self.scopes) == 1
        return Exchange.of(self.scopes[0]).principal
