"""A body read to its end."""

from __future__ import annotations

from bud_asgi.http.seam import HttpReply


async def read_body(reply: HttpReply, limit: int) -> tuple[bytes, bool]:
    """All of a body, or what has come of it past `limit` bytes; and whether it is whole. Raises `HttpError`."""
    if reply.done:
        return reply.take(), True
    chunks: list[bytes] = []
    size = 0
    while size <= limit and not reply.done:
        chunk = await reply.more() or b""
        chunks.append(chunk)
        size += len(chunk)
    if reply.done:
        chunks.append(reply.take())
    return b"".join(chunks), reply.done
