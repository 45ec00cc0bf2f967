"""Encodes the messages of `application/vnd.amazon.eventstream` ("Amazon Event Stream Specification")."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

_STRING = b"\x07"
_OVERHEAD = 16  # bytes of a message besides headers and payload


def message(headers: Mapping[str, str], payload: bytes = b"") -> bytes:
    """Encode a message whose headers are strings, as all of Bedrock's are."""
    encoded = (header(name, _STRING, _length_prefixed(value.encode())) for name, value in headers.items())
    return message_from_block(b"".join(encoded), payload)


def message_from_block(block: bytes, payload: bytes) -> bytes:
    """Encode a message from its encoded headers: add lengths and checksums."""
    lengths = _uint32(len(block) + len(payload) + _OVERHEAD) + _uint32(len(block))
    prelude = with_checksum(lengths)
    return with_checksum(prelude + block + payload)


def with_checksum(data: bytes) -> bytes:
    """Append the CRC-32 of `data`."""
    return data + _uint32(crc32(data))


def header(name: str, kind: bytes, value: bytes) -> bytes:
    """Encode one header: its name, the byte of its type, and its value, encoded as the type wants it."""
    encoded = name.encode()
    return bytes([len(encoded)]) + encoded + kind + value


def _length_prefixed(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _uint32(number: int) -> bytes:
    return number.to_bytes(4, "big")
