"""The seam of the way up: what a provider sends and gets, whatever engine carries it.

`HttpClient` is filled by the engine of this package. The records say nothing of Anthropic or of ASGI.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Literal, Protocol

import msgspec

Header = tuple[bytes, bytes]
"""A header field: a lower-case name and its value as it is on the wire."""

Body = bytes | Sequence[bytes | memoryview]
"""A request body in buffers, so that it can be sent again and needs no copy to be spliced."""


class Origin(msgspec.Struct, frozen=True, eq=False):
    """A server to talk to (RFC 9110, 4.3.1): made once, from configuration, never from a request.

    Compared by identity: connections are pooled by origin object.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> bytes:
        """The value of the `host` header: the port is left out where it is the scheme's own."""
        return _authority(self.host, self.port, 443 if self.tls else 80)


@lru_cache(maxsize=256)
def _authority(host: str, port: int, default: int) -> bytes:
    host = f"[{host}]" if ":" in host else host
    return (host if port == default else f"{host}:{port}").encode("ascii")


class Timeouts(msgspec.Struct, frozen=True):
    """How long the parts of an exchange may take, in seconds.

    `connect` covers name resolution, TCP and TLS. `first_byte` runs from the last byte of the request to the head of
    the reply. `silence` is the longest pause between two reads of the reply's body, and between two writes of the
    request's.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    silence: float = 300.0


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request, made anew for each attempt.

    `target` is the path with its query as raw bytes: nothing re-encodes it, so signatures over it hold. `headers` come
    without `host`, `content-length` and `connection`: the engine adds those.
    """

    origin: Origin
    method: bytes
    target: bytes
    headers: Sequence[Header]
    body: Body = b""
    timeouts: Timeouts = Timeouts()

    def with_headers(self, more: Sequence[Header]) -> HttpRequest:
        """The same with more fields."""
        headers = (*self.headers, *more)
        return HttpRequest(self.origin, self.method, self.target, headers, self.body, self.timeouts)

    def __repr__(self) -> str:
        """Without headers and body: a credential and somebody's words are in them."""
        return f"HttpRequest({self.method.decode()} {self.origin.authority.decode()}{self.target.decode()})"


class HttpReply(Protocol):
    """A reply whose head is here. Its reader owns it and must `close()` it on every path."""

    @property
    def status(self) -> int:
        """The final status: 1xx are consumed by the engine."""
        ...

    @property
    def headers(self) -> Sequence[Header]:
        """Names in lower case, order kept, values as they came."""
        ...

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received: nothing is left but what `take` hands out."""
        ...

    def take(self) -> bytes:
        """What is here already, `b""` if nothing. Never waits, never raises."""
        ...

    async def more(self, within: float = inf) -> bytes | None:
        """The next bytes, all that are here; `b""` only at the true end; `None` when silent for `within` seconds.

        Nothing is lost by a `None`: the next call goes on. Bytes that came before a failure are handed out before it
        is raised. Raises `HttpError` (`timeout` after the request's own `silence`, `reset`, `protocol`). Cancelled, it
        loses nothing; whoever owns the reply closes it.
        """
        ...

    def close(self) -> None:
        """End the exchange. Not async, may be called twice: unless `done`, the connection is gone at once."""
        ...


class HttpClient(Protocol):
    """Sends requests. Belongs to one event loop."""

    async def send(self, request: HttpRequest) -> HttpReply:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for a target or header that can't be written (nothing has been sent then, no
        connection taken). Cancelled, the exchange is aborted at once.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        ...


class HttpError(Exception):
    """An exchange failed. What failover must know is in it.

    `kind`: `connect` (no connection: refused, no route, name unknown, too slow), `tls` (handshake or certificate),
    `timeout` (first byte or silence), `reset` (the connection ended where it must not), `protocol` (not HTTP, or HTTP
    that can't be trusted). `reused`: the connection had served before. `sent`: a byte of the request may have left.
    `answered`: a byte of the reply came back.
    """

    def __init__(
        self,
        kind: Literal["connect", "tls", "timeout", "reset", "protocol"],
        message: str,
        *,
        reused: bool = False,
        sent: bool = False,
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: Literal["connect", "tls", "timeout", "reset", "protocol"] = kind
        self.reused = reused
        self.sent = sent
        self.answered = answered


async def read_body(reply: HttpReply, limit: int) -> tuple[bytes, bool]:
    """All of a body, or what has come of it past `limit` bytes; and whether it is whole. Raises `HttpError`."""
    if reply.done:
        return reply.take(), True
    chunks: list[bytes] = []
    size = 0
    while size <= limit and not reply.done:
        chunk = await reply.more() or b""
        chunks.append(chunk)
        size += len(chunk)
    if reply.done:
        chunks.append(reply.take())
    return b"".join(chunks), reply.done
