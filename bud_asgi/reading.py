"""Reading and decoding the body of a request."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import Receive

from bud_asgi.options import check_integer
from bud_asgi.protocol.body import BodyReader
from bud_asgi.protocol.errors import ClientGone, GatewayError, type_of_status
from bud_asgi.protocol.headers import Headers, check_request_headers
from bud_asgi.protocol.request import LARGE_BODY, MessagesRequest, check_unknown_size, decode_request


class HostRefused(GatewayError):
    """The host rejected the body, for example by its own limit on sizes. Its status, as an error object."""

    retryable = False

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.detail, headers=error.headers)
        self.status = error.status_code
        self.type = type_of_status(error.status_code)


async def read_request(receive: Receive, headers: Headers, *, max_body: int, counting: bool) -> MessagesRequest:
    """Read the body and decode it.

    Raises `InvalidRequest`, `RequestTooLarge` (for a declared length before anything is read), `HostRefused`, and
    `ClientGone` when the client disconnects before the body is complete.
    """
    check_request_headers(headers)
    body = await _read_body(receive, BodyReader(max_body), headers.get(b"content-length"))
    if len(body) > LARGE_BODY:
        await asyncio.sleep(0)  # joining, checking and decoding each hold the loop for a while
        check_unknown_size(body)
        await asyncio.sleep(0)
    return decode_request(body, counting=counting)


async def _read_body(receive: Receive, reader: BodyReader, content_length: bytes | None) -> bytes:
    reader.declare(content_length)
    more = True
    while more:
        try:
            message = await receive()
        except HTTPException as error:
            raise HostRefused(error) from error
        if message["type"] != "http.request":
            raise ClientGone("the client disconnected before its request was complete")
        await _feed(reader, message.get("body", b""))
        more = message.get("more_body", False)
    if reader.size > LARGE_BODY:
        await asyncio.sleep(0)
    return reader.finish()


async def _feed(reader: BodyReader, chunk: bytes) -> None:
    """Servers pass on some 64 KB at a time; a client in the same process may pass all at once, which holds the loop."""
    if len(chunk) <= LARGE_BODY:
        reader.feed(chunk)
        return
    for start in range(0, len(chunk), LARGE_BODY):
        reader.feed(chunk[start : start + LARGE_BODY])
        await asyncio.sleep(0)


def check_max_body(value: object) -> None:
    """Check the option `max_body`. Raises `OptionError`."""
    check_integer("max_body", value, "a number of bytes, more than 0", maximum=1 << 40)
