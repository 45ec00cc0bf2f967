"""A reply read through a codec: what arrives is converted before the reader gets it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from math import inf
from typing import Protocol

from bud_asgi.http.seam import Header, HttpError, HttpReply


class Codec(Protocol):
    """Converts the bytes of a reply, in chunks of any size."""

    @property
    def error(self) -> str:
        """Why the reply is invalid from here on; empty while it is valid."""
        ...

    @property
    def pending(self) -> bool:
        """Whether `feed(b"")` continues with an earlier chunk, which would have become too many bytes at once."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Convert a chunk; return the bytes that it completes."""
        ...

    def finish(self) -> bytes:
        """End the reply; return the remaining bytes."""
        ...


class ConvertedReply:
    """An `HttpReply` with other headers, whose bytes are converted by a codec. It buffers nothing itself.

    When the codec reports an `error`, `more` returns the bytes before it and then raises `HttpError` (`protocol`).
    """

    __slots__ = ("_codec", "_done", "_error", "_reply", "headers")

    def __init__(self, reply: HttpReply, codec: Codec, headers: Sequence[Header]) -> None:
        self._reply = reply
        self._codec = codec
        self._done = False
        self._error: HttpError | None = None
        self.headers = headers

    @property
    def status(self) -> int:
        """The status of the upstream's reply."""
        return self._reply.status

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received, converted and returned."""
        return self._done

    def take(self) -> bytes:
        """Return the converted bytes of what has already arrived, `b""` if none. Never waits."""
        if self._done or self._error is not None:
            return b""
        return self._convert(b"" if self._codec.pending else self._reply.take())

    async def more(self, within: float = inf) -> bytes | None:
        """Wait for the next bytes; see `HttpReply.more`. `within` includes chunks that convert to no bytes."""
        if self._done:
            return b""
        reply, codec = self._reply, self._codec
        deadline = inf if within == inf else time.monotonic() + within
        while self._error is None:
            if codec.pending:
                await asyncio.sleep(0)  # this can go on for long without waiting for the upstream
                chunk = b""
            elif (chunk := await reply.more(within)) is None:
                return None
            data = self._convert(chunk)
            if data or self._done:
                return data
            within = max(0.0, deadline - time.monotonic())
        raise self._error

    def close(self) -> None:
        """Close the upstream's reply."""
        self._reply.close()

    def _convert(self, chunk: bytes) -> bytes:
        reply, codec = self._reply, self._codec
        data = codec.feed(chunk) if chunk or codec.pending else b""
        if reply.done and not codec.error and not codec.pending:
            if rest := reply.take():
                data += codec.feed(rest)
            if not codec.error and not codec.pending:
                data += codec.finish()
                self._done = not codec.error
        if codec.error:
            self._error = HttpError("protocol", codec.error, sent=True, answered=True)
        return data
