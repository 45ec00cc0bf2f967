"""Messages of `application/vnd.amazon.eventstream`, decoded (AWS, "Amazon Event Stream Specification").

A message is a prelude (total length, headers length, their CRC-32), headers, a payload and the CRC-32 of all before it.
All integers are big-endian, both checksums are those of zlib. No I/O, no JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal
from zlib import crc32

import msgspec

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
"""The media type of a body made of such messages."""

MAX_HEADERS = 128 << 10
"""The largest block of headers that a service may send ("Message Format"), in bytes."""

MAX_PAYLOAD = 24 << 20
"""The largest payload that a service may send ("Message Format"), in bytes. Bedrock's own are below 1.4 MB."""

Lengths = tuple[int, int, int]
"""What a prelude says: the length of the message, that of its headers, and its own checksum."""

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_MOST_PRELUDES = 1024

HeaderValue = bool | int | str | bytes
"""What a header may hold: a boolean, an integer (a timestamp is one, in milliseconds), a string, bytes (a UUID too)."""


def _name(field: str) -> str:
    return ":" + field.replace("_", "-")


class EventStreamHeaders(msgspec.Struct, frozen=True, rename=_name):
    """The headers that say what a message is; `None` where one is absent."""

    message_type: str | None = None
    """`event`, `exception` (modelled, named by `exception_type`) or `error` (unmodelled, `error_code`)."""
    event_type: str | None = None
    exception_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    content_type: str | None = None


class EventStreamMessage(msgspec.Struct, frozen=True, gc=False):
    """One message whose checksums are right."""

    headers: EventStreamHeaders
    payload: bytes


Reason = Literal["checksum", "length", "headers", "cut"]
"""What is wrong with a stream.

`checksum`: of a prelude or of a message. `length`: over the bounds, or too small for the headers. `headers`: cut,
doubled, of an unknown or the wrong type, no UTF-8. `cut`: the stream ended inside a message.
"""


class EventStreamError(ValueError):
    """The stream is no event stream, or is damaged: nothing after it can be read. What came before is in `messages`."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason: Reason = reason
        self.messages: list[EventStreamMessage] = []


class EventStreamDecoder:
    """Decodes a byte stream: chunks of any size in, whole messages out.

    It keeps the bytes of one message that has begun. What a service may send bounds them: more is refused when the
    prelude is here, not when the message is.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = _PRELUDE.size
        self._block = b""
        self._preludes: dict[bytes, Lengths] = {}
        self._headers = EventStreamHeaders()
        self._failure: EventStreamError | None = None

    def feed(self, chunk: bytes) -> list[EventStreamMessage]:
        """Take in a chunk and return the messages that it completes.

        Raises `EventStreamError` at the first that is broken, with the whole ones before it in `messages`; then again
        for each further chunk.
        """
        if self._failure:
            raise EventStreamError(self._failure.reason, str(self._failure))
        pending = self._pending
        if pending:
            pending += chunk
            if len(pending) < self._needed:
                return []
            chunk = bytes(pending)
            pending.clear()
        messages: list[EventStreamMessage] = []
        try:
            taken = self._decode(chunk, messages)
        except EventStreamError as error:
            self._failure = error
            error.messages = messages
            raise
        pending += chunk[taken:]
        return messages

    def finish(self) -> None:
        """Say that the stream has ended. Raises `EventStreamError`: `cut` if that was inside a message.

        After a broken message it raises what was wrong with that.
        """
        self.feed(b"")
        if self._pending:
            raise EventStreamError("cut", f"the stream ended after {len(self._pending)} bytes of a message")

    def _decode(self, data: bytes, messages: list[EventStreamMessage]) -> int:
        """Decode what is whole into `messages`; how many bytes that took."""
        start, size = 0, len(data)
        preludes, block, headers, checksum = self._preludes, self._block, self._headers, _CHECKSUM.unpack_from
        while size - start >= 12:
            prelude = data[start : start + 12]
            total, headers_length, prelude_crc = preludes.get(prelude) or self._read_prelude(prelude)
            end = start + total
            if end > size:
                self._needed = total
                return start
            payload_end = end - 4
            if (crc32(data[start + 8 : payload_end], prelude_crc),) != checksum(data, payload_end):
                raise EventStreamError("checksum", "the checksum of a message is wrong")
            headers_end = start + 12 + headers_length
            # the headers of one stream's messages are mostly the same bytes
            if headers_length != len(block) or not data.startswith(block, start + 12):
                block = data[start + 12 : headers_end]
                headers = self._headers = _headers(block)
                self._block = block
            messages.append(EventStreamMessage(headers, data[headers_end:payload_end]))
            start = end
        self._needed = 12
        return start

    def _read_prelude(self, prelude: bytes) -> Lengths:
        """Judge the first bytes of a message. They are remembered: a stream has few that differ."""
        total, headers_length, prelude_crc = lengths = _PRELUDE.unpack(prelude)
        if crc32(prelude[:8]) != prelude_crc:
            raise EventStreamError("checksum", "the checksum of a prelude is wrong")
        if headers_length > MAX_HEADERS or not 0 <= total - 16 - headers_length <= MAX_PAYLOAD:
            raise EventStreamError("length", f"a message of {total} bytes with {headers_length} bytes of headers")
        if len(self._preludes) < _MOST_PRELUDES:
            self._preludes[prelude] = lengths
        return lengths


def parse_headers(block: bytes) -> dict[str, HeaderValue]:
    """The headers in a block of them, in order. Raises `EventStreamError` (`headers`)."""
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(block):
            value_at = at + 1 + block[at]
            name = block[at + 1 : value_at].decode()
            if name in headers:
                raise EventStreamError("headers", f"the header {name!r} occurs twice")
            headers[name], at = _VALUES[block[value_at]](block, value_at + 1)
    except (IndexError, struct.error):
        raise EventStreamError("headers", "the headers are cut, or of an unknown type") from None
    except UnicodeDecodeError:
        raise EventStreamError("headers", "a header is no UTF-8") from None
    if at > len(block):
        raise EventStreamError("headers", "the headers are cut")
    return headers


def _headers(block: bytes) -> EventStreamHeaders:
    try:
        return msgspec.convert(parse_headers(block), EventStreamHeaders)
    except msgspec.ValidationError as error:
        raise EventStreamError("headers", f"a header is of the wrong type: {error}") from None


Read = Callable[[bytes, int], tuple[HeaderValue, int]]


def _constant(value: bool) -> Read:
    return lambda block, at: (value, at)


def _integer(code: str) -> Read:
    layout = struct.Struct(code)
    return lambda block, at: (layout.unpack_from(block, at)[0], at + layout.size)


def _bytes(block: bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + int.from_bytes(block[at : at + 2], "big")
    return block[at + 2 : end], end


def _string(block: bytes, at: int) -> tuple[str, int]:
    value, end = _bytes(block, at)
    return value.decode(), end


def _uuid(block: bytes, at: int) -> tuple[bytes, int]:
    return block[at : at + 16], at + 16


_VALUES: tuple[Read, ...] = (
    _constant(True),
    _constant(False),
    _integer(">b"),
    _integer(">h"),
    _integer(">i"),
    _integer(">q"),
    _bytes,
    _string,
    _integer(">q"),
    _uuid,
)
"""How the value of each header type is read, by the type's number; gives the value and where it ends."""
