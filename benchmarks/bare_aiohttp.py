"""A bare ASGI pass-through on aiohttp, the baseline: `UPSTREAM=https://... uvicorn bare_aiohttp:app`."""

from __future__ import annotations

import os

import aiohttp
from starlette.types import Receive, Scope, Send
from yarl import URL

URL_UP = URL(os.environ["UPSTREAM"] + "/v1/messages")
NOT_UP = {b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"}
NOT_DOWN = {b"connection", b"keep-alive", b"transfer-encoding"}

_sessions: list[aiohttp.ClientSession] = []


def session() -> aiohttp.ClientSession:
    """Return the session, created on first use in the running loop."""
    if not _sessions:
        made = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300),  # the same as the engine's
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
        )
        _sessions.append(made)
    return _sessions[0]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Forward one request and relay its reply."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name not in NOT_UP]
    async with session().post(URL_UP, data=body, headers=headers, allow_redirects=False) as reply:
        lines = [(name.lower(), value) for name, value in reply.raw_headers]
        lines = [line for line in lines if line[0] not in NOT_DOWN]
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        async for chunk in reply.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
