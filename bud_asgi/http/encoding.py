"""Content codings (RFC 9110, 8.4.1; RFC 1950 to 1952): requests ask for none, but proxies on the way may apply one."""

from __future__ import annotations

import zlib
from typing import Protocol

from bud_asgi.http.converted import ConvertedReply
from bud_asgi.http.reply import READ_AHEAD
from bud_asgi.http.seam import HttpError, HttpReply
from bud_asgi.printable import one_line

MAX_STEP = READ_AHEAD
"""Most bytes that are decompressed at once, so that a small reply cannot fill the memory, or hold the event loop."""

_GZIP = frozenset({b"gzip", b"x-gzip"})
_MAGIC = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_OUTDATED = frozenset({b"content-encoding", b"content-length"})


def decode_content(reply: HttpReply) -> HttpReply:
    """Return the reply without its content coding: gzip or deflate. Most replies have none and are returned as such.

    The body is decompressed as it is read, never more than `MAX_STEP` at once. Raises `HttpError` (`protocol`) for
    other codings, and for more than one.
    """
    values = [value for name, value in reply.headers if name == b"content-encoding"]
    if not values:
        return reply
    codings = [coding for value in values for each in value.split(b",") if (coding := each.strip().lower())]
    applied = [coding for coding in codings if coding != b"identity"]
    if not applied:
        return reply
    if len(applied) > 1 or applied[0] not in {*_GZIP, b"deflate"}:
        shown = one_line(b", ".join(applied).decode("latin-1"), 100)
        raise HttpError("protocol", f"cannot decode the content-encoding {shown!r}", sent=True, answered=True)
    kept = [line for line in reply.headers if line[0] not in _OUTDATED]
    return ConvertedReply(reply, Inflater(applied[0] in _GZIP), kept)


class _Member(Protocol):
    """What is used of zlib's decompression object."""

    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Inflater:
    """Decompresses gzip, of any number of members, or deflate, with a zlib header or without. A `Codec`.

    What follows the compressed data is ignored. A body that ends early is an `error`.
    """

    __slots__ = ("_gzip", "_is_complete", "_member", "_over", "_rest", "error", "pending")

    def __init__(self, gzip: bool) -> None:
        self.error = ""
        self.pending = False
        self._gzip = gzip
        self._member: _Member | None = None
        self._rest = b""
        self._is_complete = False
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """Return at most `MAX_STEP` bytes; then there is more while `pending`."""
        written: list[bytes] = []
        room, unread = MAX_STEP, self.pending
        self._rest += data
        while (self._rest or unread) and room and not self._over and self._open():
            try:
                inflated = self._inflate(room)
            except zlib.error as error:
                self.error = f"the compressed body is invalid: {error}"
                break
            written.append(inflated)
            room -= len(inflated)
            unread = False
        self.pending = not room and not self._over and not self.error
        return b"".join(written)

    def finish(self) -> bytes:
        """Return nothing; check that the compressed data was whole."""
        if not self._is_complete:
            self.error = "the compressed body ended early"
        return b""

    def _open(self) -> bool:
        """Begin a member unless one is open; `False` if there are too few bytes to know what it is."""
        if self._member is not None:
            return True
        start = self._rest.lstrip(b"\0") if self._is_complete else self._rest  # members may be padded
        self._rest = start
        if len(start) < len(_MAGIC):
            return False
        if self._is_complete and not start.startswith(_MAGIC):
            self._end()
            return False
        self._is_complete = False
        self._member = zlib.decompressobj(_GZIP_BITS if self._gzip else _deflate_bits(start))
        return True

    def _inflate(self, room: int) -> bytes:
        member = self._member
        assert member is not None  # noqa: S101 - opened by the caller
        inflated = member.decompress(self._rest, room)
        self._rest = member.unconsumed_tail
        if member.eof:
            self._rest = member.unused_data
            self._member = None
            self._is_complete = True
            if not self._gzip:
                self._end()
        return inflated

    def _end(self) -> None:
        """Ignore what follows."""
        self._over = True
        self._rest = b""


def _deflate_bits(start: bytes) -> int:
    """Return the window bits for a `deflate` body: that means zlib's format, but some servers send raw deflate."""
    has_header = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0
    return _ZLIB_BITS if has_header else _RAW_BITS
