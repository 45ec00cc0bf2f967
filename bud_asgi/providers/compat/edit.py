"""A request on its way to another service, and its values read one level at a time."""

from __future__ import annotations

import msgspec

from bud_asgi.protocol.request import MessagesRequest

MAX_COMMAS = 300_000
"""A value with more of them is not read: millions of items would hold the loop."""

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading raises for a value that is not as it should be."""

Object = dict[str, msgspec.Raw]

_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(Object)


class BodyEdit:
    """A request on its way to another service: what was changed so far, and what was left out of it.

    `flags` are the beta flags that travel.
    """

    __slots__ = ("changed", "dropped", "flags", "request", "without")

    def __init__(self, request: MessagesRequest, flags: list[str]) -> None:
        self.request = request
        self.flags = flags
        self.changed: dict[str, bytes] = {}
        self.without: set[str] = set()
        self.dropped: list[str] = []

    def value(self, name: str) -> bytes | None:
        """A top-level value as it is now; `None` where there is none, or none any more."""
        if name in self.without:
            return None
        return self.changed[name] if name in self.changed else self.request.value(name)

    def says(self, name: str, word: bytes) -> bool:
        """Whether a top-level value holds some bytes; nothing is copied to find out."""
        if name in self.without or name not in self.request.spans:
            return False
        changed = self.changed.get(name)
        return self.request.body.find(word, *self.request.spans[name]) >= 0 if changed is None else word in changed

    def drop(self, name: str) -> None:
        """Leave a top-level field out."""
        self.without.add(name)
        self.changed.pop(name, None)
        self.note(name)

    def note(self, name: str) -> None:
        """Name what was left out, once."""
        if name not in self.dropped:
            self.dropped.append(name)


def items_of(value: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """The items of a list, each as it stands. Raises one of `MALFORMED`."""
    _weigh(value)
    return _list_decoder.decode(value)


def fields_of(value: bytes | msgspec.Raw) -> Object:
    """The fields of an object, each as it stands. Raises one of `MALFORMED`."""
    _weigh(value)
    return _object_decoder.decode(value)


def first_of(value: bytes | msgspec.Raw) -> bytes:
    """The first byte of a value, which tells its kind."""
    return bytes(memoryview(value)[:1])


def is_object(value: bytes | msgspec.Raw) -> bool:
    """Whether a value is an object."""
    return first_of(value) == b"{"


def _weigh(value: bytes | msgspec.Raw) -> None:
    if len(memoryview(value)) > MAX_COMMAS and bytes(value).count(b",") > MAX_COMMAS:
        raise msgspec.DecodeError(f"more than {MAX_COMMAS} commas")
