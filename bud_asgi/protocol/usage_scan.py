"""The usage of a Message whose body is relayed in pieces, because it is too large to be held."""

from __future__ import annotations

import re

from bud_asgi.protocol.usage import Usage, read_usage

_MAX_USAGE = 64 << 10  # bytes of a usage object
_BEFORE = 64  # bytes: the part of the top level that is kept to recognise a key
_SMALL = 1 << 10  # bytes that are read token by token
_PASSES = 8  # pairs of brackets are removed from the inside out, so many levels deep

_OUTSIDE = re.compile(rb'[^"{}\[\]]++')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_USAGE_KEY = re.compile(rb'(?:^|[{,\s])"usage"\s*:\s*\Z')
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


class UsageScanner:
    """Finds the top-level `usage` of a JSON object in its bytes, cut anywhere. It holds nothing else.

    A piece within nested values is skipped as a whole: without its strings, only its brackets are counted. So a `usage`
    within the content is not taken for that of the message, and the time is linear in the size of the body.
    """

    __slots__ = ("_before", "_depth", "_escaped", "_in_string", "_keeping", "_kept", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._before = b""
        self._kept = bytearray()
        self._keeping = False

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes. What is found is in `usage` from then on."""
        if not piece or (not self._keeping and self._skip(piece)):
            return
        if len(piece) <= _SMALL:
            self._read(piece)
            return
        half = len(piece) // 2
        self.feed(piece[:half])
        self.feed(piece[half:])

    def _skip(self, piece: bytes) -> bool:
        """Skip a piece in which nothing of the top level stands; return whether it is one."""
        if self._depth <= 1 and not self._in_string:
            return False
        text = piece[1:] if self._escaped else piece
        if b"\\" in text:
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = text.split(b'"')
        if self._depth <= 1:
            if len(parts) > 1:
                return False
            self._note(piece[-_BEFORE:])
        else:
            brackets = _unpaired(b"".join(parts[int(self._in_string) :: 2]))
            closing = brackets.count(b"]")
            if self._depth - closing <= 1:
                return False
            self._depth += len(brackets) - 2 * closing
        self._in_string ^= len(parts) % 2 == 0
        self._escaped = text.endswith(b"\\")
        return True

    def _read(self, piece: bytes) -> None:
        """Read a piece token by token."""
        at = 0
        while at < len(piece):
            if self._in_string:
                end = self._end_of_string(piece, at)
            elif match := _OUTSIDE.match(piece, at):
                end = match.end()
            else:
                self._enter(piece[at : at + 1])
                at += 1
                continue
            self._note(piece[at:end])
            at = end

    def _end_of_string(self, piece: bytes, at: int) -> int:
        """Skip the rest of a string, with its closing quote if that has arrived."""
        start = at + 1 if self._escaped else at
        self._escaped = False
        match = _INSIDE.match(piece, start)
        end = start if match is None else match.end()
        if end < len(piece):
            self._escaped = piece.startswith(b"\\", end)  # the last byte
            self._in_string = self._escaped
        return min(end + 1, len(piece))

    def _enter(self, byte: bytes) -> None:
        """Take a quote or a bracket."""
        if byte == b'"':
            self._in_string = True
        elif byte in b"[{":
            if self._depth == 1 and byte == b"{" and _USAGE_KEY.search(self._before):
                self._keeping = True
                self._kept.clear()
            self._depth += 1
        else:
            self._depth -= 1
        self._note(byte)
        if self._keeping and self._depth == 1:
            self._keeping = False
            self.usage = read_usage(bytes(self._kept))

    def _note(self, token: bytes) -> None:
        """Keep what belongs to the usage, and on the top level the latest bytes, which may be its key."""
        if not self._keeping:
            if self._depth <= 1:
                self._before = (self._before + token)[-_BEFORE:]
        elif len(self._kept) <= _MAX_USAGE:
            self._kept += token


def _unpaired(text: bytes) -> bytes:
    """The brackets of a text without strings, less the pairs that are easily seen."""
    brackets = text.translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(_PASSES):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return brackets
