"""A request as the stand-in received it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec


class Received(msgspec.Struct, eq=False, kw_only=True):
    """One request as it was received. The stand-in sets the later fields while it replies."""

    number: int
    """1 for the first request of the stand-in."""
    connection: int
    """The number of its connection; 1 for the first."""
    method: bytes
    target: bytes
    """Path and query as sent."""
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list[tuple[bytes, bytes]])
    """Names and values as sent, with their order, case and duplicates."""
    body: bytes = b""
    """The body without its framing; empty until `complete`."""
    complete: bool = False
    """Whether the whole request has arrived."""
    request_id: str = ""
    """The request id in the reply's header."""
    refusal: str | None = None
    """The error message if the request was rejected as invalid, else `None`."""
    replied: int = 0
    """Bytes of the reply that the kernel has taken so far, head and framing included."""
    done: bool = False
    """Whether the stand-in has finished its reply, be it complete or a fault."""
    aborted: float | None = None
    """When the client disconnected before `done`, as `time.monotonic()`; `None` if it did not."""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def values(self, name: str) -> list[bytes]:
        """Return every value of a header field, in order. The name may be in any case."""
        wanted = name.lower().encode("latin-1")
        return [value for key, value in self.headers if key.lower() == wanted]

    def header(self, name: str) -> bytes | None:
        """Return the only value of a header field; `None` if it is absent. Raises `ValueError` if there are several."""
        values = self.values(name)
        if len(values) > 1:
            raise ValueError(f"{name}: expected one value, got {len(values)}")
        return values[0] if values else None

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises `ValueError` if it is not valid JSON, `TypeError` if it is not an object.
        """
        decoded: object = json.loads(self.plain_body())
        if not isinstance(decoded, dict):
            raise TypeError(f"the body is not a JSON object but {type(decoded).__name__}")
        return cast("dict[str, Any]", decoded)

    def plain_body(self, limit: int = 64 << 20) -> bytes:
        """Return the body, decompressed if its `content-encoding` is gzip. Raises `ValueError` past `limit` bytes."""
        if self.header("content-encoding") != b"gzip":
            return self.body
        inflater = zlib.decompressobj(wbits=31)
        try:
            plain = inflater.decompress(self.body, limit + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(plain) > limit or not inflater.eof:
            raise ValueError("the compressed body is too large or truncated")
        return plain


def json_fields(received: Received) -> Mapping[str, Any]:
    """Return the body's top-level fields; empty if it is not a JSON object."""
    try:
        return received.json()
    except (ValueError, TypeError, RecursionError):
        return {}
