"""A decoder for `application/vnd.amazon.eventstream` (AWS, "Amazon Event Stream Specification").

A message is a prelude (total length, headers length, CRC-32 of both), headers, a payload, and the CRC-32 of everything
before it. Integers are big-endian, the checksums are zlib's. No I/O, no JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Literal
from zlib import crc32

import msgspec

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
"""The media type of an AWS event stream."""

MAX_HEADERS = 128 << 10
"""The largest block of headers that a service may send ("Message Format"), in bytes."""

MAX_PAYLOAD = 24 << 20
"""The largest payload that a service may send ("Message Format"), in bytes. Bedrock's own are below 1.4 MB."""

Layout = tuple[int, Callable[[bytes, int], tuple[bytes, int]], int]
"""How to decode messages with the same prelude and headers.

It contains their length, a function that returns the payload and the checksum of the message at an offset of a buffer,
and the checksum of the prelude and the headers.
"""

_PRELUDE = struct.Struct(">III")
_MAX_LAYOUTS = 512
_MAX_BLOCK = 256

HeaderValue = bool | int | str | bytes
"""The value of a header. A timestamp is an integer (milliseconds), a UUID is bytes."""


def _name(field: str) -> str:
    return ":" + field.replace("_", "-")


class EventStreamHeaders(msgspec.Struct, frozen=True, rename=_name):
    """The headers that identify a message; `None` for one that is absent."""

    message_type: str | None = None
    """`event`, `exception` (modelled, named by `exception_type`) or `error` (unmodelled, `error_code`)."""
    event_type: str | None = None
    exception_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    content_type: str | None = None


class EventStreamMessages(msgspec.Struct, frozen=True, gc=False):
    """Successive messages that have the same headers, with valid checksums."""

    headers: EventStreamHeaders
    payloads: list[bytes]


Reason = Literal["checksum", "length", "headers", "truncated"]
"""Why a stream cannot be decoded.

`checksum`: wrong checksum of a prelude or a message. `length`: above the maximum, or too small for the headers.
`headers`: truncated, duplicate, of an unknown or wrong type, or not UTF-8. `truncated`: the stream ended inside a
message.
"""


class EventStreamError(ValueError):
    """The stream is invalid, and nothing after this point can be decoded. `messages` has what was decoded before it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.messages: list[EventStreamMessages] = []


class EventStreamDecoder:
    """Decodes a byte stream: chunks of any size in, whole messages out.

    It buffers at most one incomplete message. A message over the maximum size is rejected as soon as its prelude has
    arrived.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = _PRELUDE.size
        self._layouts = _remembered(b"")
        self._failure: EventStreamError | None = None

    def feed(self, chunk: bytes) -> list[EventStreamMessages]:
        """Decode a chunk; return the messages that it completes.

        Raises `EventStreamError` for the first invalid message, with the valid ones before it in `messages`; every
        later call raises it again.
        """
        if self._failure:
            raise EventStreamError(self._failure.reason, str(self._failure))
        if self._pending:
            self._pending += chunk
            if len(self._pending) < self._needed:
                return []
            chunk = bytes(self._pending)
            self._pending.clear()
        start, size, layouts = 0, len(chunk), self._layouts
        messages: list[EventStreamMessages] = []
        payloads: list[bytes] = []
        try:
            while start < size:
                layout = layouts.get(chunk[start : start + layouts.length]) or self._learn(chunk, start)
                if layout is None:
                    break
                total, split, checksum = layout
                if start + total > size:
                    self._needed = total
                    break
                payload, expected = split(chunk, start)
                if crc32(payload, checksum) != expected:
                    raise EventStreamError("checksum", "wrong message checksum")  # noqa: TRY301 - recorded below
                if not payloads or layouts is not self._layouts:
                    layouts, payloads = self._layouts, []
                    messages.append(EventStreamMessages(layouts.headers, payloads))
                payloads.append(payload)
                start += total
        except EventStreamError as error:
            self._failure = error
            error.messages = messages
            raise
        if start < size:
            self._pending += chunk[start:]
        return messages

    def finish(self) -> None:
        """End the stream. Raises `EventStreamError`: `truncated` inside a message, or the error that `feed` raised."""
        self.feed(b"")
        if self._pending:
            raise EventStreamError("truncated", f"the stream ended after {len(self._pending)} bytes of a message")

    def _learn(self, data: bytes, start: int) -> Layout | None:
        """Verify the message that begins at an offset and return its layout; `None` if the message is incomplete."""
        prelude = data[start : start + _PRELUDE.size]
        self._needed = _PRELUDE.size
        if len(prelude) < self._needed:
            return None
        total, headers_length, checksum = _PRELUDE.unpack(prelude)
        if crc32(prelude[:8]) != checksum:
            raise EventStreamError("checksum", "wrong prelude checksum")
        payload_length = total - 16 - headers_length
        if headers_length > MAX_HEADERS or not 0 <= payload_length <= MAX_PAYLOAD:
            raise EventStreamError("length", f"invalid length: {total} bytes, {headers_length} of them headers")
        end = start + total
        if end > len(data):
            self._needed = total
            return None
        if crc32(memoryview(data)[start : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise EventStreamError("checksum", "wrong message checksum")
        beginning = data[start : start + _PRELUDE.size + headers_length]
        self._layouts = _layouts_of(beginning[_PRELUDE.size :])
        split = struct.Struct(f">{len(beginning)}x{payload_length}sI").unpack_from
        layout = self._layouts[beginning] = total, split, crc32(beginning)
        return layout


class _Layouts(dict[bytes, Layout]):
    """The layouts of messages with one block of headers, by their first `length` bytes: prelude and headers."""

    __slots__ = ("headers", "length")

    def __init__(self, block: bytes) -> None:
        self.headers = _headers(block)
        self.length = _PRELUDE.size + len(block)


_remembered = lru_cache(maxsize=4)(_Layouts)
"""The layouts by block of headers. Streams share them: most have the same headers, and few preludes."""


def _layouts_of(block: bytes) -> _Layouts:
    if len(block) > _MAX_BLOCK:
        return _Layouts(block)
    layouts = _remembered(block)
    if len(layouts) >= _MAX_LAYOUTS:
        layouts.clear()
    return layouts


def parse_headers(block: bytes) -> dict[str, HeaderValue]:
    """Decode a block of headers, in order. Raises `EventStreamError` (`headers`)."""
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(block):
            value_at = at + 1 + block[at]
            name = block[at + 1 : value_at].decode()
            if name in headers:
                raise EventStreamError("headers", f"duplicate header {name!r}")
            headers[name], at = _VALUES[block[value_at]](block, value_at + 1)
    except (IndexError, struct.error):
        raise EventStreamError("headers", "truncated headers, or an unknown header type") from None
    except UnicodeDecodeError:
        raise EventStreamError("headers", "a header is not UTF-8") from None
    if at > len(block):
        raise EventStreamError("headers", "truncated headers")
    return headers


def _headers(block: bytes) -> EventStreamHeaders:
    try:
        return msgspec.convert(parse_headers(block), EventStreamHeaders)
    except msgspec.ValidationError as error:
        raise EventStreamError("headers", f"a header has the wrong type: {error}") from None


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
"""The decoder of each header type, by its number. It returns the value and the offset of its end."""
