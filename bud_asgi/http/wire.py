"""Encodes a request (RFC 9112, sections 2 to 6) and validates it before a connection is used. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from bud_asgi.http.seam import Body, HttpRequest

MAX_WRITE = 512 << 10
"""Most bytes of body in one write: bounds the transport's buffer, and the time that one TLS write blocks the loop."""

MAX_JOINED_BODY = 64 << 10
"""Size in bytes up to which copying the body behind the head is cheaper than writing two buffers."""

_TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE = bytes(range(0x21, 0x7F))
_FIELD_VALUE = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))
_RESERVED = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding"))
_MAX_KNOWN_NAMES = 1024
_known_names: set[bytes] = set()
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


def request_head(request: HttpRequest) -> bytes:
    """Encode the request line and the header fields, including `host` and `content-length`, up to the empty line.

    Raises `ValueError` for anything that could be read as something other than this one request: spaces or control
    characters in the method or target, header names that are not tokens, control characters in values, and headers
    that the engine writes itself. The message never contains a value, which may be a credential.
    """
    check_request(request)
    length = content_length(request.body)
    lines = [request.method, b" ", request.target, b" HTTP/1.1\r\nhost: ", request.origin.authority, b"\r\n"]
    for name, value in request.headers:
        lines += (name, b": ", value, b"\r\n")
    if needs_content_length(request.method, length):
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def check_request(request: HttpRequest) -> None:
    """Raise `ValueError` for an invalid method, target or header, as described in `request_head`.

    All values are checked as one string: checking each would cost more than encoding the head. Names are few, so each
    is checked only once.
    """
    if not request.method or request.method.translate(None, _TCHAR):
        raise ValueError("the method is not a token")
    if not request.target or request.target.translate(None, _VISIBLE):
        raise ValueError("the request target is empty or contains a space, a control character or a byte above 0x7e")
    for name, _ in request.headers:
        if name not in _known_names:
            _check_name(name)
    if b"".join([value for _, value in request.headers]).translate(None, _FIELD_VALUE):
        invalid = next(name for name, value in request.headers if value.translate(None, _FIELD_VALUE))
        raise ValueError(f"the value of header {invalid.decode('ascii')} contains a control character")


def _check_name(name: bytes) -> None:
    if not name or name.translate(None, _TCHAR):
        raise ValueError("a header name is not a token")
    if name.lower() in _RESERVED:
        raise ValueError("host, content-length, connection and transfer-encoding are written by the engine")
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(name)


def needs_content_length(method: bytes, length: int) -> bool:
    """Whether a request needs a `content-length`: if it has a body or its method expects one (RFC 9110, 8.6)."""
    return length > 0 or method in _WITH_BODY


def content_length(body: Body) -> int:
    """Return the size of a body in bytes."""
    if isinstance(body, bytes):
        return len(body)
    return sum([memoryview(part).nbytes for part in body])


def joined(head: bytes, body: Body) -> bytes | None:
    """Return head and body as one buffer, or `None` if the body is too large to be copied."""
    if content_length(body) > MAX_JOINED_BODY:
        return None
    return head + body if isinstance(body, bytes) else b"".join((head, *body))


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
