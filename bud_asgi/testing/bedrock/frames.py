"""Messages of `application/vnd.amazon.eventstream`, encoded ("Amazon Event Stream Specification")."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

_STRING = b"\x07"
_AROUND = 16  # bytes of a message without headers and payload


def message(headers: Mapping[str, str], payload: bytes = b"") -> bytes:
    """A message whose headers are strings, as those of Bedrock are."""
    return framed(b"".join(header(name, _STRING, _counted(value.encode())) for name, value in headers.items()), payload)


def framed(block: bytes, payload: bytes) -> bytes:
    """A message from its block of headers, with lengths and checksums around."""
    lengths = _four(len(block) + len(payload) + _AROUND) + _four(len(block))
    prelude = lengths + _four(crc32(lengths))
    return sealed(prelude + block + payload)


def sealed(unsealed: bytes) -> bytes:
    """Bytes of a message with their checksum."""
    return unsealed + _four(crc32(unsealed))


def header(name: str, kind: bytes, value: bytes) -> bytes:
    """One header: its name, the byte of its type and its value as the type has it."""
    written = name.encode()
    return bytes([len(written)]) + written + kind + value


def _counted(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _four(number: int) -> bytes:
    return number.to_bytes(4, "big")
