"""The same bare pass-through on the project's own engine: `UPSTREAM=https://... uvicorn bare_engine:app`."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from bud_asgi.http import Engine, HttpRequest, Origin

UP = urlsplit(os.environ["UPSTREAM"])
ORIGIN = Origin(UP.hostname or "", UP.port or 0, ssl.create_default_context() if UP.scheme == "https" else None)
NOT_UP = {b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"}
NOT_DOWN = {b"connection", b"keep-alive", b"transfer-encoding"}

_engines: list[Engine] = []


def engine() -> Engine:
    """Return the engine, created on first use in the running loop."""
    if not _engines:
        _engines.append(Engine())
    return _engines[0]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Forward one request and relay its reply."""
    if scope["type"] != "http":
        return
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message["more_body"]
    headers = [line for line in scope["headers"] if line[0] not in NOT_UP]
    reply = await engine().send(HttpRequest(ORIGIN, b"POST", b"/v1/messages", headers, parts))
    try:
        lines = [line for line in reply.headers if line[0] not in NOT_DOWN]
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        more = True
        while more:
            chunk = reply.take() if reply.done else await reply.more() or b""
            more = not reply.done
            if not more:
                chunk += reply.take()
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
    finally:
        reply.close()
