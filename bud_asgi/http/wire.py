"""How a request looks on the wire (RFC 9112, sections 2 to 6): pure, and checked before any connection is taken."""

from __future__ import annotations

from collections.abc import Iterator

from bud_asgi.http.seam import Body, HttpRequest

PIECE = 256 << 10
"""Bytes handed to the transport at once: bounds what it holds, and how long one TLS write keeps the loop."""

ONE_WRITE = 64 << 10
"""Up to so many bytes of body a copy is cheaper than a second buffer: head and body are joined."""

_TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE = bytes(range(0x21, 0x7F))
_FIELD_VALUE = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))
_OURS = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding"))
_MOST_CHECKED = 1024
_checked: set[bytes] = set()
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


def request_head(request: HttpRequest) -> bytes:
    """The request line and the fields, `host` and `content-length` included, up to the empty line.

    Raises `ValueError` for whatever could be read as something else than one request: spaces or control characters in
    method or target, names that are no token, control characters in values, a field that frames the message. The
    error names the place and never the value, which may be a credential.
    """
    check(request)
    length = content_length(request.body)
    lines = [request.method, b" ", request.target, b" HTTP/1.1\r\nhost: ", request.origin.authority, b"\r\n"]
    for name, value in request.headers:
        lines += (name, b": ", value, b"\r\n")
    if says_length(request.method, length):
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def check(request: HttpRequest) -> None:
    """Raise `ValueError` for what `request_head` refuses.

    Whole strings at once: a check of each value by itself would cost more than writing the head. Names are few, and
    known after their first use.
    """
    if not request.method or request.method.translate(None, _TCHAR):
        raise ValueError("the method is no token")
    if not request.target or request.target.translate(None, _VISIBLE):
        raise ValueError("the request target is empty, or has a space, a control character or a byte above 0x7e")
    for name, _ in request.headers:
        if name not in _checked:
            _check_name(name)
    if b"".join([value for _, value in request.headers]).translate(None, _FIELD_VALUE):
        culprit = next(name for name, value in request.headers if value.translate(None, _FIELD_VALUE))
        raise ValueError(f"the value of header {culprit.decode('ascii')} has a control character")


def _check_name(name: bytes) -> None:
    if not name or name.translate(None, _TCHAR):
        raise ValueError("a header name is no token")
    if name.lower() in _OURS:
        raise ValueError("host, content-length, connection and transfer-encoding are the engine's to write")
    if len(_checked) < _MOST_CHECKED:
        _checked.add(name)


def says_length(method: bytes, length: int) -> bool:
    """Whether a request has a `content-length`: with a body, and where one is expected (RFC 9110, 8.6)."""
    return length > 0 or method in _WITH_BODY


def content_length(body: Body) -> int:
    """The size of a body in bytes."""
    if isinstance(body, bytes):
        return len(body)
    return sum(memoryview(part).nbytes for part in body)


def pieces(head: bytes, body: Body) -> Iterator[list[bytes | memoryview]]:
    """Head and body as lists of buffers, one list a write: a small body is joined to its head, a large one not copied.

    No list holds more than `PIECE` bytes of body.
    """
    parts = (body,) if isinstance(body, bytes) else body
    if content_length(body) <= ONE_WRITE:
        yield [b"".join((head, *parts))]
        return
    batch: list[bytes | memoryview] = [head]
    room = PIECE
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            batch.append(rest[:room])
            rest, room = rest[room:], room - len(batch[-1])
            if not room:
                yield batch
                batch, room = [], PIECE
    if batch:
        yield batch
