"""A reply of Bedrock in the Anthropic format, read through a codec. It logs the error that AWS ends a stream with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from math import inf

from bud_asgi.http import Header, HttpError, HttpReply
from bud_asgi.protocol.usage import Usage
from bud_asgi.providers.bedrock.stream import Codec

_log = logging.getLogger("bud_asgi")


class ConvertedReply:
    """An `HttpReply` whose bytes are converted by a codec. It buffers nothing itself.

    When the codec reports an `error`, `more` returns the bytes before it and then raises `HttpError` (`protocol`). An
    `upstream_error` is logged as that of `source`: a request id and the name of a provider.
    """

    __slots__ = ("_codec", "_done", "_error", "_logged", "_reply", "_source", "headers")

    def __init__(self, reply: HttpReply, codec: Codec, content_type: bytes, *, source: str) -> None:
        self._reply = reply
        self._codec = codec
        self._source = source
        self._done = False
        self._logged = False
        self._error: HttpError | None = None
        kept = [line for line in reply.headers if line[0] not in {b"content-type", b"content-length"}]
        self.headers: Sequence[Header] = [*kept, (b"content-type", content_type)]

    @property
    def status(self) -> int:
        """The status of the upstream's reply."""
        return self._reply.status

    @property
    def usage(self) -> Usage | None:
        """The usage that the upstream reported outside the bytes of the reply; see `ReportsUsage`."""
        return self._codec.usage

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received, converted and returned."""
        return self._done

    def take(self) -> bytes:
        """Return the converted bytes of what has already arrived, `b""` if none. Never waits."""
        return b"" if self._done or self._error is not None else self._convert(self._reply.take())

    async def more(self, within: float = inf) -> bytes | None:
        """Wait for the next bytes; see `HttpReply.more`. `within` includes chunks that convert to no bytes."""
        data = self.take()
        if data or self._done:
            return data
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while self._error is None:
            chunk = await self._reply.more(max(0.0, deadline - loop.time()))
            if chunk is None:
                return None
            data = self._convert(chunk)
            if data or self._done:
                return data
        raise self._error

    def close(self) -> None:
        """Close the upstream's reply."""
        self._reply.close()

    def _convert(self, chunk: bytes) -> bytes:
        reply, codec = self._reply, self._codec
        data = codec.feed(chunk) if chunk else b""
        if reply.done and not codec.error:
            if rest := reply.take():
                data += codec.feed(rest)
            data += codec.finish()
            self._done = not codec.error
        if codec.error:
            self._error = HttpError("protocol", codec.error, sent=True, answered=True)
        if codec.upstream_error is not None and not self._logged:
            self._logged = True
            _log.warning(
                "%s ended its stream with an error: %.500s", self._source, codec.upstream_error.upstream_message
            )
        return data
