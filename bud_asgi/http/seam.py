"""The HTTP client interface that providers use, whichever engine implements it.

`Engine` and `HttpxEngine` implement `HttpClient`. Nothing here is specific to Anthropic or to ASGI.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from functools import cached_property
from math import inf
from typing import Literal, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import msgspec

from bud_asgi.http.fields import Header, HeaderBlock, header_block
from bud_asgi.options import check_function, check_integer, check_text, check_type, url_shown
from bud_asgi.timeouts import Timeouts

_HOST = re.compile(r"[0-9A-Za-z._~%:-]+")

Body = bytes | Sequence[bytes | memoryview]
"""A request body as buffers, so that it can be sent again and assembled without copying."""


class Origin(msgspec.Struct, frozen=True, eq=False, dict=True, weakref=True):
    """An upstream server (RFC 9110, 4.3.1): created once, from configuration, never from a request.

    Compared by identity: connections are pooled per `Origin` object. Raises `OptionError`.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_text("host", self.host, "the name or address of a host, without a scheme or a port", _HOST)
        check_integer("port", self.port, "a port, 1 to 65535", maximum=65535)
        if self.tls is not None:
            check_type("tls", self.tls, ssl.SSLContext, "an ssl.SSLContext")

    @cached_property
    def authority(self) -> bytes:
        """The value of the `host` header, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == (443 if self.tls else 80)
        return (host if is_default else f"{host}:{self.port}").encode("ascii")


_usual: WeakValueDictionary[tuple[str, int, bool], Origin] = WeakValueDictionary()


def usual_origin(host: str, port: int, *, tls: bool) -> Origin:
    """The origin with the default TLS context (system authorities, verified), or without TLS.

    It is one object for as long as it is used: a provider that is made anew for the same server goes on with its
    connections. Raises `OptionError`.
    """
    origin = _usual.get((host, port, tls))
    if origin is None:
        origin = _usual[host, port, tls] = Origin(host, port, ssl.create_default_context() if tls else None)
    return origin


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request; every attempt creates its own.

    `target` is the path and query as raw bytes: nothing re-encodes it, so a signature over it stays valid. `headers`
    are lines, or a block of lines that have been checked already. They must not contain `host`, `content-length`,
    `connection` or `transfer-encoding`: the engine adds what is needed.
    """

    origin: Origin
    method: bytes
    target: bytes
    headers: Sequence[Header] | HeaderBlock
    body: Body = b""
    timeouts: Timeouts = Timeouts()

    def with_headers(self, more: Sequence[Header] | HeaderBlock) -> HttpRequest:
        """Return a copy with more header fields. Raises `ValueError`, without a value, if one is invalid."""
        own = self.headers
        first = own if isinstance(own, HeaderBlock) else header_block(own)
        second = more if isinstance(more, HeaderBlock) else header_block(more)
        return msgspec.structs.replace(self, headers=HeaderBlock(first.wire + second.wire))

    def __repr__(self) -> str:
        """Leaves out headers and body: they contain credentials and user data."""
        url = url_shown(f"//{self.origin.authority.decode()}{self.target.decode('latin-1')}")
        return f"HttpRequest({self.method.decode('latin-1')} {url.removeprefix('//')})"


class HttpReply(Protocol):
    """A reply whose head has arrived. Its reader owns it and must `close()` it on every path."""

    @property
    def status(self) -> int:
        """The final status code: the engine consumes 1xx replies."""
        ...

    @property
    def headers(self) -> Sequence[Header]:
        """The header fields in their order, with lower-case names and unchanged values."""
        ...

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received: only what `take` returns is left."""
        ...

    def take(self) -> bytes:
        """Remove and return the bytes received so far, `b""` if there are none. Never waits, never raises."""
        ...

    async def more(self, within: float = inf) -> bytes | None:
        """Wait for bytes of the body and return all that have arrived.

        Returns `b""` only at the end of the body, and `None` if nothing arrived within `within` seconds; nothing is
        lost then, and the next call continues. Bytes received before a failure are returned before it is raised.
        Raises `HttpError` (`timeout` after the request's `silence`, `reset`, `protocol`). If cancelled, nothing is
        lost; the reply's owner still has to close it.
        """
        ...

    def close(self) -> None:
        """End the exchange. Not async; may be called twice. Unless `done`, the connection is closed at once."""
        ...


class HttpClient(Protocol):
    """Sends HTTP requests. Bound to one event loop."""

    async def send(self, request: HttpRequest) -> HttpReply:
        """Send the request and wait for the head of its final reply.

        Raises `HttpError`; `ValueError` for an invalid method, target or header (before anything is sent or a
        connection is used). If cancelled, the exchange is aborted at once.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. May be called twice."""
        ...


@runtime_checkable
class Pooling(Protocol):
    """An HTTP client whose connections to one server can be closed."""

    async def forget(self, origin: Origin) -> None:
        """Close all connections to an origin, and wait until they are."""
        ...


def check_client(option: str, client: object) -> None:
    """Check for a function without arguments that makes an `HttpClient`, or the class of one. Raises `OptionError`."""
    check_function(option, client, "a function without arguments that makes an HttpClient, such as Engine")
    if isinstance(client, type):
        check_function(option, getattr(client, "send", None), "Engine, or another class of HttpClient", None, None)


class HttpError(Exception):
    """A failed exchange, with the facts that failover decides on.

    `kind`: `connect` (no connection: refused, no route, unknown name, timeout), `tls` (handshake or certificate),
    `timeout` (first byte or silence), `reset` (the connection ended before the reply was complete), `protocol` (not
    HTTP/1.1, or ambiguous framing). `reused`: the connection had served a request before. `sent`: bytes of the request
    may have been sent. `answered`: at least one byte of the reply was received.
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


def loop_for_engine() -> asyncio.AbstractEventLoop:
    """The running loop, which an engine is bound to. Raises `RuntimeError` if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        fault = "an engine must be made in its event loop; pass a function that makes one, as in client=Engine"
        raise RuntimeError(fault) from None


async def read_body(reply: HttpReply, limit: int, deadline: float = inf) -> tuple[bytes, bool]:
    """Read a body until its end, or until more than `limit` bytes have arrived.

    Returns the bytes, and whether the body is complete. Raises `HttpError`, also where it is not by the `deadline` on
    the monotonic clock.
    """
    if reply.done:
        return reply.take(), True
    chunks: list[bytes] = []
    size = 0
    while size <= limit and not reply.done:
        chunk = await next_chunk(reply, deadline)
        chunks.append(chunk)
        size += len(chunk)
    if reply.done:
        chunks.append(reply.take())
    return b"".join(chunks), reply.done


async def next_chunk(reply: HttpReply, deadline: float) -> bytes:
    """The next bytes of a body, `b""` at its end. Raises `HttpError`, also where none arrive by the deadline."""
    chunk = await reply.more(max(0.0, deadline - time.monotonic()))
    if chunk is None:
        raise HttpError("timeout", "the reply was not complete in time", sent=True, answered=True)
    return chunk
