"""What uvicorn costs without an app behind it: a constant answer, `uvicorn alone:app`."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send
from upstream import MESSAGE

LINES = [(b"content-type", b"application/json"), (b"content-length", str(len(MESSAGE)).encode())]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, answer."""
    if scope["type"] != "http":
        return
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": LINES})
    await send({"type": "http.response.body", "body": MESSAGE})
