"""Reading the body of a request and the models that it names, and discarding the body of one that is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import Receive

from bud_asgi.budget import Upload
from bud_asgi.protocol.body import BodyReader, declared_size
from bud_asgi.protocol.errors import ClientGone, HostRefused
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.named_models import named_models
from bud_asgi.protocol.request import LARGE_BODY, MessagesRequest, NamedModel, check_unknown_size

MAX_DISCARDED = 4 << 20
"""The most that is read of a body whose request has been refused, in bytes, unless its length is declared."""

MAX_DECLARED_DISCARDED = 64 << 20
"""The longest declared length up to which such a body is read to its end: many clients read only when all is sent."""

MAX_BUFFERED = 1 << 16
"""Bodies up to this size, in bytes, are read before the budget has room: servers have them in memory already."""


async def read_body(receive: Receive, headers: Headers, upload: Upload, max_body: int) -> bytes:
    """Read the body, checked to be UTF-8. What it takes of the budget is released on errors, else by the caller.

    Raises `InvalidRequest`, `RequestTooLarge` (for a declared length before anything is read), `BodiesFull`,
    `HostRefused`, and `ClientGone` when the client disconnects before the body is complete.
    """
    chunk, message, reader = b"", None, None
    try:
        if (declared := declared_size(headers.get(b"content-length"), max_body)) > MAX_BUFFERED:
            await upload.wait_for_room(declared)
        upload.began_at = 0.0
        while not upload.complete:
            upload.waiting_since = 0.0
            message = await receive()
            upload.waiting_since = None
            if message["type"] != "http.request":
                raise ClientGone("the client disconnected before its request was complete")  # noqa: TRY301 - once a request
            chunk = message.get("body", b"")
            size = len(chunk)
            upload.complete = not message.get("more_body", False)
            if (
                upload.complete
                and reader is None
                and size <= LARGE_BODY
                and size <= max_body
                and chunk.isascii()
                and upload.take(size)
            ):
                return chunk if type(chunk) is bytes else bytes(chunk)
            reader = reader or BodyReader(max_body)
            await _feed(reader, chunk, upload)
            chunk, message = b"", None  # a client in the same process may have sent the whole body in it
        return b"" if reader is None else await _finished(reader)
    except BaseException as error:
        upload.waiting_since, chunk, message = None, b"", None  # the traceback of the error refers to these
        if reader is not None:
            reader.clear()
        upload.release()
        if isinstance(error, HTTPException):
            raise HostRefused(error.status_code, error.detail, error.headers) from error  # such as a limit on sizes
        raise


async def with_named_models(request: MessagesRequest) -> MessagesRequest:
    """Find the further models that the body names, in steps that let the event loop run. Raises `InvalidRequest`."""
    found: list[NamedModel] = []
    for model in named_models(request):
        if model is None:
            await asyncio.sleep(0)
        else:
            found.append(model)
    return msgspec.structs.replace(request, named_models=tuple(found)) if found else request


async def _finished(reader: BodyReader) -> bytes:
    """The whole body. To check and to decode a large one each hold the loop for a while."""
    body = reader.finish()
    if len(body) > LARGE_BODY:
        await asyncio.sleep(0)
        check_unknown_size(body)
        await asyncio.sleep(0)
    return body


async def _feed(reader: BodyReader, chunk: bytes, upload: Upload) -> None:
    """Servers pass on some 64 KB at a time; a client in the same process may pass all at once, which holds the loop."""
    for start in range(0, len(chunk), LARGE_BODY):
        piece = chunk[start : start + LARGE_BODY]
        reader.feed(piece)
        if not upload.take(len(piece)):
            await upload.wait_to_take(len(piece))
        if len(chunk) > LARGE_BODY:
            await asyncio.sleep(0)


async def discard_body(receive: Receive, headers: Headers, *, within: float, silence: float = 0.0) -> bool:
    """Read the rest of a body and drop it; return whether it has ended.

    Stops after `within` seconds, after `silence` seconds without a byte (0: it takes only what has arrived already),
    and past `MAX_DISCARDED` bytes, or the length in `headers` if that is at most `MAX_DECLARED_DISCARDED`.
    """
    declared = headers.get(b"content-length", b"")
    length = int(declared) if declared.isdigit() and len(declared) < 10 else 0
    limit = length if MAX_DISCARDED < length <= MAX_DECLARED_DISCARDED else MAX_DISCARDED
    deadline = asyncio.get_running_loop().time() + within
    with suppress(Exception):  # a `receive` of the host's may raise anything; the request has been refused already
        async with asyncio.timeout(None) as timer:
            return await _discard(receive, timer, deadline, silence, limit)
    return False


async def _discard(receive: Receive, timer: asyncio.Timeout, deadline: float, silence: float, limit: int) -> bool:
    now, size = asyncio.get_running_loop().time, 0
    while size < limit:
        timer.reschedule(min(now() + silence, deadline))
        message = await receive()
        if message["type"] != "http.request":
            return False
        if not message.get("more_body", False):
            return True
        size += len(message.get("body", b""))
    return False
