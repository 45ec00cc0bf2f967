"""Recognises a head that a client repeats on its connection, so that it need not be parsed."""

from __future__ import annotations

from typing import Any

from bud_asgi.http.fields import Header

_LONGEST = 4 << 10
"""Bytes of the longest head that is kept, while its connection is idle or waits for a response of a known length."""

_LENGTH = b"content-length"
_LINES = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""As clients write it, after a line end, so that it is not found within another line."""


class RepeatedHead:
    """The scope of a head, and its bytes before and after the digits of its `content-length`.

    A client sends much the same head with each request. The parser keeps no state between two messages, so equal bytes
    mean an equal head. The bytes contain the client's credential: no other connection may use them.
    """

    __slots__ = ("_after", "_before", "_digits", "_index", "_size", "scope")

    def __init__(self, scope: dict[str, Any], head: bytes, digits: slice, index: int) -> None:
        self.scope = scope
        self._before, self._after = head[: digits.start], head[digits.stop :]
        self._size, self._digits, self._index = len(head), digits.stop - digits.start, index

    def match(self, received: bytearray, size: int) -> tuple[list[Header], bytes] | None:
        """The headers and the body, if the first `size` bytes are this head and a whole body of the declared length."""
        before, begin = self._before, self._size
        if size < begin or not received.startswith(before):
            return None
        length = b"%d" % (size - begin)
        if len(length) != self._digits or not received.startswith(length + self._after, len(before)):
            return None
        headers: list[Header] = self.scope["headers"].copy()
        headers[self._index] = (_LENGTH, length)
        return headers, bytes(received[begin:size])


def repeated_head(scope: dict[str, Any], head: bytes) -> RepeatedHead | None:
    """Return what recognises this head; `None` if it is long, has other bytes around it, or has no `content-length`."""
    is_one = head.find(b"\r\n\r\n") == len(head) - 4 and head.count(b"\r\n") == len(scope["headers"]) + 2
    if len(head) > _LONGEST or not is_one:  # of two requests in one read, it may end within the first body
        return None
    for line in _LINES:
        at = head.find(line)
        if at >= 0:
            begin = at + len(line)
            digits = slice(begin, head.index(b"\r", begin))
            return RepeatedHead(scope, head, digits, head.count(b"\r\n", 0, at))
    return None
