"""Header fields that have been checked, as lines and as the bytes that are sent (RFC 9110, 5.1 and 5.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

Header = tuple[bytes, bytes]
"""A header field: its lower-case name, and its value as sent on the wire."""

TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The characters of a token (RFC 9110, 5.6.2)."""

_FIELD_VALUE = b"\t " + bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
_IN_VALUE = bytes(byte in _FIELD_VALUE for byte in range(256))  # 0 for what a value must not contain
_RESERVED = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding"))
_MAX_KNOWN_NAMES = 1024
_MAX_KNOWN_NAME = 64
known_names: set[bytes] = set()
"""Names that are valid. They are few, so most are checked only once."""
lower_names: dict[bytes, bytes] = {}
"""Names as received, and in lower case: all open requests and replies share one object for each."""


class HeaderBlock(msgspec.Struct, frozen=True, gc=False):
    """Header fields that are valid, as the bytes that are sent: `wire`. Made by `header_block`."""

    wire: bytes

    @property
    def lines(self) -> tuple[Header, ...]:
        """The fields. Reads them from `wire`, where no name and no value can contain what separates them."""
        name_and_value = [line.partition(b": ") for line in self.wire.split(b"\r\n")[:-1]]
        return tuple([(name, value) for name, _, value in name_and_value])

    def __iter__(self) -> Iterator[Header]:
        """Iterate over the lines."""
        return iter(self.lines)

    def __add__(self, more: HeaderBlock) -> HeaderBlock:
        """The lines of both."""
        return HeaderBlock(self.wire + more.wire)

    def __repr__(self) -> str:
        """Leaves out the values: they may be credentials."""
        return f"HeaderBlock({', '.join(name.decode('ascii') for name, _ in self.lines)})"


def header_block(headers: Iterable[Header] | HeaderBlock) -> HeaderBlock:
    """Check header fields and encode them; a block is returned as it is.

    Raises `ValueError` for anything that could be read as something other than these fields: names that are not
    tokens, control characters in values, and fields that the engine writes itself. The message never contains a value,
    which may be a credential.
    """
    if isinstance(headers, HeaderBlock):
        return headers
    parts: list[bytes] = []
    for name, value in headers:
        if name not in known_names:
            _check_name(name)
        if 0 in value.translate(_IN_VALUE):
            raise ValueError(f"the value of header {name.decode('ascii')} contains a control character")
        parts += (name, b": ", value, b"\r\n")
    return HeaderBlock(b"".join(parts))


def _check_name(name: bytes) -> None:
    if not name or name.translate(None, TCHAR):
        raise ValueError("a header name is not a token")
    if name.lower() in _RESERVED:
        raise ValueError("host, content-length, connection and transfer-encoding are written by the engine")
    if len(known_names) < _MAX_KNOWN_NAMES and len(name) <= _MAX_KNOWN_NAME:
        known_names.add(name)


def lower_name(name: bytes) -> bytes:
    """A name in lower case, to be called if `lower_names` lacks it. It is remembered if it is short enough."""
    lower = name.lower()
    if len(name) <= _MAX_KNOWN_NAME:
        if len(lower_names) >= _MAX_KNOWN_NAMES:
            lower_names.clear()
        lower_names[name] = lower
    return lower
