"""A client that sends and returns raw bytes, without an HTTP library."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Literal

from bud_asgi.testing import StandIn

BODY: dict[str, Any] = {
    "model": "claude-opus-5",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "What is new?"}],
}
HEADERS = {
    "host": "stand-in",
    "x-api-key": "sk-ant-upstream",
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
}
Ended = Literal["eof", "reset", "open"]


def wire(
    body: Mapping[str, Any] | bytes | None = None,
    *,
    headers: Mapping[str, str | None] | None = None,
    start: str = "POST /v1/messages HTTP/1.1",
    **fields: Any,
) -> bytes:
    """Encode a request. A header of `None` is left out; `fields` change the default body."""
    sent = body if isinstance(body, bytes) else json.dumps({**(BODY if body is None else body), **fields}).encode()
    given: dict[str, str | None] = {**HEADERS, "content-length": str(len(sent)), **(headers or {})}
    lines = [start, *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_silent(self, silence: float = 1.0) -> tuple[bytes, Ended]:
        """Return all data until the connection ends or is silent for so many seconds, and which of them."""
        received = b""
        while True:
            try:
                async with asyncio.timeout(min(silence, 0.02) if _is_whole(received) else silence):
                    data = await self.reader.read(1 << 20)
            except TimeoutError:
                return received, "open"
            except ConnectionError:
                return received, "reset"
            if not data:
                return received, "eof"
            received += data

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


def _is_whole(received: bytes) -> bool:
    """Whether one complete reply is here, so that there is no need to wait long for more."""
    head, blank, body = received.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
    return bool(blank) and length.isdigit() and len(body) >= int(length)


async def connect(upstream: StandIn, *, limit: int = 1 << 16) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", upstream.port, limit=limit))


async def ask(upstream: StandIn, request: bytes, silence: float = 1.0) -> tuple[bytes, bytes, Ended]:
    """Send one request on a new connection; return head, raw body and end of the reply."""
    client = await connect(upstream)
    try:
        await client.send(request)
        received, ended = await client.until_silent(silence)
    finally:
        await client.close()
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body, ended


def unchunked(body: bytes) -> tuple[bytes, list[int], bool]:
    """Return the content of a chunked body, the sizes of its chunks, and whether it is complete."""
    content, sizes = b"", list[int]()
    while body:
        line, _, rest = body.partition(b"\r\n")
        size = int(line, 16)
        if size == 0:
            assert rest == b"\r\n"
            return content, sizes, True
        content += rest[:size]
        assert rest[size : size + 2] == b"\r\n"
        sizes.append(size)
        body = rest[size + 2 :]
    return content, sizes, False
