"""Receives a request body: checks its size and its UTF-8 chunk by chunk, before it is decoded."""

from __future__ import annotations

import codecs
import os
from io import BytesIO

from bud_asgi.protocol.errors import InvalidRequest, RequestTooLarge

DEFAULT_MAX_BODY = 32 * 1024 * 1024
"""The largest body of a Messages request, in bytes (vendor page "Errors", request size limits)."""

_utf8 = codecs.getincrementaldecoder("utf-8")


def invalid_body(reason: str) -> InvalidRequest:
    """The error for a body that is invalid as a whole, with the prefix that clients know."""
    return InvalidRequest(f"The request body is not valid JSON: {reason}")


def declared_size(content_length: bytes | None, max_body: int) -> int:
    """Check `content-length` before the body is read, and return it; 0 if there is none.

    Raises `RequestTooLarge` over the limit, `InvalidRequest` for a value that is not a number.
    """
    if content_length is None:
        return 0
    if not content_length.isdigit() or len(content_length) > 20:
        raise InvalidRequest("content-length: Input should be a valid integer")
    size = int(content_length)
    if size > max_body:
        raise _too_large(max_body)
    return size


class BodyReader:
    """Collects the chunks of one body. No I/O.

    UTF-8 is checked chunk by chunk, because checking 32 MB at once would block the event loop for 46 ms. It has to be
    checked here, because the JSON decoder does not look inside values that it returns as raw bytes.
    """

    __slots__ = ("_body", "_decoder", "_inside_character", "_max_body", "size")

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._body = BytesIO()
        self._decoder: codecs.IncrementalDecoder | None = None
        self._inside_character = False
        self.size = 0

    def feed(self, chunk: bytes) -> None:
        """Add a chunk. Raises `RequestTooLarge` past the limit, `InvalidRequest` at the first invalid byte."""
        if self.size + len(chunk) > self._max_body:
            raise _too_large(self._max_body)
        if self.size:
            self._body.write(chunk)
        else:  # the buffer is this chunk, uncopied, and grows in place once nothing else refers to it
            self._body = BytesIO(chunk)
            self._body.seek(0, os.SEEK_END)
        self.size += len(chunk)
        if self._inside_character or not chunk.isascii():
            self._inside_character = self._decode(chunk, final=False)

    def finish(self) -> bytes:
        """Return the body. Raises `InvalidRequest` if it ends inside a character."""
        if self._inside_character:
            self._decode(b"", final=True)
        body = self._body.getvalue()  # the buffer itself, not a copy of it
        self.clear()
        return body

    def clear(self) -> None:
        """Drop what has been collected."""
        self._body = BytesIO()

    def _decode(self, chunk: bytes, *, final: bool) -> bool:
        """Decode a chunk; true if it ends inside a character."""
        decoder = self._decoder = self._decoder or _utf8()
        try:
            decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise invalid_body(f"it is not UTF-8 ({error.reason})") from None
        return bool(decoder.getstate()[0])


def _too_large(max_body: int) -> RequestTooLarge:
    return RequestTooLarge(f"Request exceeds the maximum size of {max_body} bytes")
