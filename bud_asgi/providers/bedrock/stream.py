"""Bedrock's replies in the Anthropic format: the event stream as server-sent events, the count of tokens as JSON.

What the bytes become is a codec, without I/O; `ConvertedReply` is a reply read through one. Sources: AWS,
"InvokeModelWithResponseStream" (`ResponseStream`), "CountTokens"; vendor page "Streaming Messages".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

import msgspec

from bud_asgi.http import Header, HttpError, HttpReply
from bud_asgi.protocol.errors import GatewayError, error_body
from bud_asgi.protocol.sse import ONE_LINE, PING, error_event
from bud_asgi.providers.bedrock.errors import AwsFault, fault_of_message
from bud_asgi.providers.bedrock.frames import EventStreamDecoder, EventStreamError, EventStreamMessage

MAX_COUNT = 1 << 16
"""The largest answer of CountTokens that is read, in bytes."""

_TYPE = b'{"type":"'
_DELTA = b'{"type":"content_block_delta"'
_BEFORE_DELTA = b"event: content_block_delta\ndata: "
_NAMES = frozenset(
    {
        b"content_block_delta",
        b"content_block_start",
        b"content_block_stop",
        b"message_delta",
        b"message_start",
        b"message_stop",
    }
)
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_NAME = re.compile(r"[!-~]{1,100}")


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    data: bytes = msgspec.field(name="bytes")


class _Event(msgspec.Struct, frozen=True):
    type: str = ""


class _Count(msgspec.Struct, frozen=True, rename="camel"):
    input_tokens: int


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_count = msgspec.json.Decoder(_Count).decode
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Codec(Protocol):
    """Turns the bytes of a reply into others, in pieces of any size."""

    @property
    def broken(self) -> str:
        """Why nothing after here can be read; empty as long as it can."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take in some bytes; what they become, as far as that is known."""
        ...

    def finish(self) -> bytes:
        """Say that the reply has ended; what is left to write."""
        ...


class EventsToSse:
    """The event stream of InvokeModelWithResponseStream as the one of the Messages API. A `Codec`.

    Each event of the Message is written as it came. The metrics stay behind, whether they come in `message_stop` or in
    a chunk of their own. `explain` gives the error for an exception, which ends the stream by an `error` event in the
    envelope, with `request_id`. After the last event nothing more is written.
    """

    __slots__ = ("_decoder", "_ended", "_explain", "_request_id", "broken")

    def __init__(self, request_id: str, explain: Callable[[AwsFault], GatewayError]) -> None:
        self.broken = ""
        self._decoder = EventStreamDecoder()
        self._ended = False
        self._explain = explain
        self._request_id = request_id

    def feed(self, data: bytes) -> bytes:
        """The events that the bytes complete."""
        if self._ended or self.broken:
            return b""
        try:
            messages = self._decoder.feed(data)
        except EventStreamError as error:
            messages = error.messages
            self.broken = str(error)
        written: list[bytes] = []
        try:
            for message in messages:
                if message.headers.event_type == "chunk" and message.headers.message_type == "event":
                    self._write_event(_decode_chunk(message.payload).data, written)
                else:
                    written.append(self._write_other(message))
                if self._ended:
                    self.broken = ""
                    break
        except _MALFORMED as error:
            self.broken = f"an event is no JSON: {error}"
        return b"".join(written)

    def finish(self) -> bytes:
        """Nothing; a stream that ended inside a message is broken."""
        if not self._ended and not self.broken:
            try:
                self._decoder.finish()
            except EventStreamError as error:
                self.broken = str(error)
        return b""

    def _write_other(self, message: EventStreamMessage) -> bytes:
        fault = fault_of_message(message)
        if fault is None:
            return b""
        self._ended = True
        return error_event(error_body(self._explain(fault), self._request_id))

    def _write_event(self, event: bytes, written: list[bytes]) -> None:
        event = event.translate(ONE_LINE)
        if event.startswith(_DELTA):  # nearly all of a stream
            written += (_BEFORE_DELTA, event, b"\n\n")
            return
        name = event[9 : event.find(b'"', 9)] if event.startswith(_TYPE) else b""
        if name not in _NAMES:
            name = _name_of(event)
        if name == b"message_stop":
            self._ended = True
            written.append(_STOP)
        elif name:
            self._ended = name == b"error"
            written += (b"event: ", name, b"\ndata: ", event, b"\n\n", PING if name == b"message_start" else b"")


def _name_of(event: bytes) -> bytes:
    """The name of an event that is not one of the usual ones, or not written as usual; none without a type."""
    name = _decode_event(event).type
    if name and not _NAME.fullmatch(name):
        raise msgspec.DecodeError(f"its type is {name[:100]!a}")
    return name.encode()


class CountToJson:
    """The answer of CountTokens as the one of `count_tokens`. A `Codec`."""

    __slots__ = ("_read", "broken")

    def __init__(self) -> None:
        self.broken = ""
        self._read = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Nothing yet."""
        self._read += data
        if len(self._read) > MAX_COUNT:
            self.broken = f"more than {MAX_COUNT} bytes for a count of tokens"
            self._read.clear()
        return b""

    def finish(self) -> bytes:
        """The answer."""
        try:
            return msgspec.json.encode({"input_tokens": _decode_count(self._read).input_tokens})
        except _MALFORMED as error:
            self.broken = f"no count of tokens: {error}"
            return b""


class ConvertedReply:
    """An `HttpReply` whose bytes went through a codec. It holds what the codec holds, and nothing else.

    Where the codec is broken, `more` raises `HttpError` (`protocol`), after it has handed out what came before.
    """

    __slots__ = ("_codec", "_done", "_error", "_reply", "headers")

    def __init__(self, reply: HttpReply, codec: Codec, content_type: bytes) -> None:
        self._reply = reply
        self._codec = codec
        self._done = False
        self._error: HttpError | None = None
        kept = [line for line in reply.headers if line[0] not in {b"content-type", b"content-length"}]
        self.headers: Sequence[Header] = [*kept, (b"content-type", content_type)]

    @property
    def status(self) -> int:
        """The status of the reply."""
        return self._reply.status

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received, converted and handed out."""
        return self._done

    def take(self) -> bytes:
        """What is here already, `b""` if nothing."""
        return b"" if self._done or self._error is not None else self._convert(self._reply.take())

    async def more(self, within: float = inf) -> bytes | None:
        """The next bytes; see `HttpReply.more`. Silence is counted from the last byte that became something."""
        data = self.take()
        if data or self._done:
            return data
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while self._error is None:
            chunk = await self._reply.more(max(0.0, until - loop.time()))
            if chunk is None:
                return None
            data = self._convert(chunk)
            if data or self._done:
                return data
        raise self._error

    def close(self) -> None:
        """End the exchange."""
        self._reply.close()

    def _convert(self, chunk: bytes) -> bytes:
        reply, codec = self._reply, self._codec
        data = codec.feed(chunk) if chunk else b""
        if reply.done and not codec.broken:
            if rest := reply.take():
                data += codec.feed(rest)
            data += codec.finish()
            self._done = not codec.broken
        if codec.broken:
            self._error = HttpError("protocol", codec.broken, sent=True, answered=True)
        return data
