"""Encodes a request (RFC 9112, sections 2 to 6) and validates it before a connection is used. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from bud_asgi.http.fields import TCHAR, HeaderBlock, header_block
from bud_asgi.http.seam import Body, HttpRequest

MAX_WRITE = 512 << 10
"""Most bytes of body in one write: bounds the transport's buffer, and the time that one TLS write blocks the loop."""

MAX_JOINED_BODY = 64 << 10
"""Size in bytes up to which copying the body behind the head is cheaper than writing two buffers."""

_VISIBLE = bytes(range(0x21, 0x7F))
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_METHODS = frozenset((b"GET", b"HEAD", *_WITH_BODY))
_MAX_KNOWN_TARGETS = 256
_MAX_KNOWN_TARGET = 256
known_targets: set[bytes] = set()
"""Targets that are valid. There are few, so most are checked only once."""


def request_head(request: HttpRequest) -> bytes:
    """Encode the request line and the header fields, including `host` and `content-length`, up to the empty line.

    Raises `ValueError` for anything that could be read as something other than this one request: spaces or control
    characters in the method or target, and what `header_block` rejects. The message never contains a value, which may
    be a credential.
    """
    method, target, headers, body = request.method, request.target, request.headers, request.body
    if target not in known_targets or method not in _METHODS:
        check_target(request)
    fields = headers.wire if isinstance(headers, HeaderBlock) else header_block(headers).wire
    length = len(body) if isinstance(body, bytes) else content_length(body)
    if length > 0 or method in _WITH_BODY:
        fields += b"content-length: %d\r\n" % length
    host = request.origin.authority
    return b"".join((method, b" ", target, b" HTTP/1.1\r\nhost: ", host, b"\r\n", fields, b"\r\n"))


def check_target(request: HttpRequest) -> None:
    """Raise `ValueError` for an invalid method or target."""
    method, target = request.method, request.target
    if not method or method.translate(None, TCHAR):
        raise ValueError("the method is not a token")
    if not target or target.translate(None, _VISIBLE):
        raise ValueError("the request target is empty or contains a space, a control character or a byte above 0x7e")
    if len(known_targets) < _MAX_KNOWN_TARGETS and len(target) <= _MAX_KNOWN_TARGET:
        known_targets.add(target)


def needs_content_length(method: bytes, length: int) -> bool:
    """Whether a request needs a `content-length`: if it has a body or its method expects one (RFC 9110, 8.6)."""
    return length > 0 or method in _WITH_BODY


def content_length(body: Body) -> int:
    """Return the size of a body in bytes."""
    if isinstance(body, bytes):
        return len(body)
    return sum([part.nbytes if isinstance(part, memoryview) else len(part) for part in body])


def joined(head: bytes, body: Body) -> bytes | None:
    """Return head and body as one buffer, or `None` if the body is too large to be copied."""
    if isinstance(body, bytes):
        return head + body if len(body) <= MAX_JOINED_BODY else None
    return b"".join((head, *body)) if content_length(body) <= MAX_JOINED_BODY else None


def write_batches(head: bytes, body: Body) -> Iterator[list[bytes | memoryview]]:
    """Yield head and body as lists of buffers, one list per write, with at most `MAX_WRITE` bytes of body in each.

    A small body is joined to its head; a large one is not copied.
    """
    if (whole := joined(head, body)) is not None:
        yield [whole]
        return
    parts = (body,) if isinstance(body, bytes) else body
    batch: list[bytes | memoryview] = [head]
    room = MAX_WRITE
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            batch.append(rest[:room])
            rest, room = rest[room:], room - len(batch[-1])
            if not room:
                yield batch
                batch, room = [], MAX_WRITE
    if batch:
        yield batch
