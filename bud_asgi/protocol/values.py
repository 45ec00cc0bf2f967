"""Reads JSON values one level at a time: their items and fields stay undecoded, so that they keep their bytes."""

from __future__ import annotations

import msgspec

MAX_COMMAS = 300_000
"""A value with more commas is not parsed: creating millions of items would block the event loop."""

Object = dict[str, msgspec.Raw]

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(Object).decode


class TooManyValues(Exception):
    """A value has more than `MAX_COMMAS` commas, or needs more edits than are made."""


class _Typed(msgspec.Struct, frozen=True):
    type: str = ""


_decode_typed = msgspec.json.Decoder(_Typed).decode


def parse_list(value: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """Split a list into its items, undecoded. Raises one of `MALFORMED_JSON`, `TooManyValues`."""
    _check_commas(value)
    return _decode_list(value)


def parse_object(value: bytes | msgspec.Raw) -> Object:
    """Split an object into its fields, undecoded. Raises one of `MALFORMED_JSON`, `TooManyValues`."""
    _check_commas(value)
    return _decode_object(value)


def type_of(value: bytes | msgspec.Raw) -> str:
    """Return the `type` of an object; empty for one without a type, and for another value.

    Raises one of `MALFORMED_JSON`.
    """
    try:
        return _decode_typed(value).type
    except msgspec.ValidationError:
        return ""


def first_byte(value: bytes | msgspec.Raw) -> bytes:
    """Return the first byte of a value, which determines its JSON type."""
    return bytes(memoryview(value)[:1])


def is_object(value: bytes | msgspec.Raw) -> bool:
    """Return whether a value is a JSON object."""
    return first_byte(value) == b"{"


def _check_commas(value: bytes | msgspec.Raw) -> None:
    if len(memoryview(value)) > MAX_COMMAS and bytes(value).count(b",") > MAX_COMMAS:
        raise TooManyValues
