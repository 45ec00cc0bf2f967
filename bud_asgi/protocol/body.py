"""Taking in a request body: counted and checked for UTF-8 while it comes, before anything is made of it."""

from __future__ import annotations

import codecs

from bud_asgi.protocol.errors import InvalidRequest, RequestTooLarge

DEFAULT_MAX_BODY = 32 * 1024 * 1024
"""The largest body of a Messages request, in bytes (vendor page "Errors", request size limits)."""

_utf8 = codecs.getincrementaldecoder("utf-8")


def invalid_body(reason: str) -> InvalidRequest:
    """A fault of the body as a whole, in the words that clients know."""
    return InvalidRequest(f"The request body is not valid JSON: {reason}")


class BodyReader:
    """Collects the chunks of one body. No I/O.

    The check for UTF-8 goes along chunk by chunk: done at once it would hold the event loop for 46 ms over 32 MB, and
    the JSON decoder does not look inside the values that it hands on as they are.
    """

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._chunks: list[bytes] = []
        self._decoder: codecs.IncrementalDecoder | None = None
        self._inside_character = False
        self.size = 0

    def declare(self, content_length: bytes | None) -> None:
        """Judge the declared length, before the first byte. Raises `RequestTooLarge`."""
        if content_length is not None and content_length.isdigit() and len(content_length) <= 20:
            self._check(int(content_length))
        elif content_length is not None:
            raise InvalidRequest("content-length: Input should be a valid integer")

    def feed(self, chunk: bytes) -> None:
        """Take in a chunk. Raises `RequestTooLarge` past the limit, `InvalidRequest` at the first bad byte."""
        self.size += len(chunk)
        self._check(self.size)
        self._chunks.append(chunk)
        if self._inside_character or not chunk.isascii():
            self._inside_character = self._decode(chunk, final=False)

    def finish(self) -> bytes:
        """The whole body, joined once. Raises `InvalidRequest` when it ends inside a character."""
        if self._inside_character:
            self._decode(b"", final=True)
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check(self, size: int) -> None:
        if size > self._max_body:
            raise RequestTooLarge(f"Request exceeds the maximum size of {self._max_body} bytes")

    def _decode(self, chunk: bytes, *, final: bool) -> bool:
        """Whether a character has begun that is not whole yet."""
        decoder = self._decoder = self._decoder or _utf8()
        try:
            decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise invalid_body(f"it is not UTF-8 ({error.reason})") from None
        return bool(decoder.getstate()[0])
