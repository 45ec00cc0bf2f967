"""What the stand-in saw of a request, and of the connection it came on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec


class Received(msgspec.Struct, eq=False, kw_only=True):
    """One request, as it came. The stand-in fills the last fields while it answers."""

    number: int
    """1 for the first request that the stand-in received."""
    connection: int
    """The number of its connection; 1 for the first."""
    method: bytes
    target: bytes
    """Path and query, raw."""
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list[tuple[bytes, bytes]])
    """Names and values as they came: order, case and duplicates are kept."""
    body: bytes = b""
    """The body without its framing; empty until `complete`."""
    complete: bool = False
    """Whether the whole request has arrived."""
    request_id: str = ""
    """What the reply's `request-id` header says."""
    refusal: str | None = None
    """The message with which the stand-in's judge refused the request, if it did."""
    replied: int = 0
    """Bytes of the reply that were handed to the kernel so far, head and framing included."""
    done: bool = False
    """Whether the stand-in has carried out its reply to the end, be that a whole reply or the fault asked for."""
    aborted: float | None = None
    """When the peer went away before `done`, on the monotonic clock (`time.monotonic()`); `None` if it did not."""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def values(self, name: str) -> list[bytes]:
        """Every value of a header field, in order; the name in any case."""
        wanted = name.lower().encode("latin-1")
        return [value for key, value in self.headers if key.lower() == wanted]

    def header(self, name: str) -> bytes | None:
        """The only value of a header field, `None` if it is absent. Raises `ValueError` if there are several."""
        values = self.values(name)
        if len(values) > 1:
            raise ValueError(f"{name} came {len(values)} times")
        return values[0] if values else None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object (`Any` inside: this is for a test's own look at it).

        Raises `ValueError` if it is no JSON, `TypeError` if it is no object.
        """
        decoded: object = json.loads(self.plain_body())
        if not isinstance(decoded, dict):
            raise TypeError(f"the body is no JSON object but {type(decoded).__name__}")
        return cast("dict[str, Any]", decoded)

    def plain_body(self, limit: int = 64 << 20) -> bytes:
        """The body, decompressed if its `content-encoding` is gzip. Raises `ValueError` past `limit` bytes."""
        if self.header("content-encoding") != b"gzip":
            return self.body
        inflater = zlib.decompressobj(wbits=31)
        try:
            plain = inflater.decompress(self.body, limit + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(plain) > limit or not inflater.eof:
            raise ValueError("the compressed body is too large or cut off")
        return plain


def fields_of(received: Received) -> Mapping[str, Any]:
    """The body's top-level fields; none if it is no JSON object."""
    try:
        return received.json()
    except (ValueError, TypeError, RecursionError):
        return {}
