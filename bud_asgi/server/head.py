"""The parts of an HTTP/1.1 head: status lines, header lines, the target of a request."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from itertools import chain
from string import ascii_letters, digits
from urllib.parse import unquote

import httptools

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}".encode() for status in range(100, 600)}
"""The status lines by status, without their line ends."""

_BAD = 0
_NAME_BYTES = b"!#$%&'*+-.^_`|~" + (digits + ascii_letters).encode()
_NAME = bytes(byte if byte in _NAME_BYTES else _BAD for byte in range(256))
_VALUE = bytes(byte if byte == 9 or (byte >= 32 and byte != 127) else _BAD for byte in range(256))

_KEPT, _KEPT_LENGTH = 512, 64

CONNECTION, LENGTH, TRANSFER = b"\r\nconnection: ", b"\r\ncontent-length: ", b"\r\ntransfer-encoding: "
_FRAMING = frozenset({CONNECTION, LENGTH, TRANSFER})


_prefixes: dict[bytes, bytes] = {}
"""What stands before the value of a field, by name: an app sends the same few names again and again."""


def _make_prefix(name: bytes) -> bytes:
    if not name or _BAD in name.translate(_NAME):
        raise RuntimeError("Invalid HTTP header name.")
    prefix = b"\r\n%b: " % name.lower()
    if len(_prefixes) < _KEPT and len(name) <= _KEPT_LENGTH:
        _prefixes[name] = prefix
    return prefix


def render_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, dict[bytes, bytes]]:
    """Header fields as lines, each with its line end in front, and the values of those that a server has to understand.

    The values are by `CONNECTION`, `LENGTH` and `TRANSFER`; those of repeated fields are joined by commas. Raises
    `RuntimeError` unless all names are tokens and no value has a control character (RFC 9110, 5.1 and 5.5).
    """
    parts: list[bytes] = []
    framing: dict[bytes, bytes] = {}
    for name, value in headers:
        prefix = _prefixes.get(name) or _make_prefix(name)
        parts += (prefix, value)
        if prefix in _FRAMING:
            framing[prefix] = b"%b, %b" % (framing[prefix], value) if prefix in framing else value
    if _BAD in b"".join(parts[1::2]).translate(_VALUE):
        raise RuntimeError("Invalid HTTP header value.")
    return b"".join(parts), framing


def has_token(value: bytes, token: bytes) -> bool:
    """Whether a list of tokens separated by commas, in any case, contains `token`."""
    return token in [one.strip() for one in value.lower().split(b",")]


def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The path of a request target, decoded and as it is, and its query. Raises for a target that has neither."""
    if target.startswith(b"/") and 35 not in target:  # without a fragment, which is not for a server
        raw_path, _, query = target.partition(b"?")
    else:
        url = httptools.parse_url(target)
        raw_path, query = url.path or b"/", url.query or b""
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, query


def below_root(root_path: str, path: str, raw_path: bytes) -> dict[str, str | bytes]:
    """The paths of a scope with a root path, which is put in front unless the proxy has left it there."""
    if path != root_path and not path.startswith(f"{root_path}/"):
        path, raw_path = root_path + path, root_path.encode() + raw_path
    return {"root_path": root_path, "path": path, "raw_path": raw_path}


def head_size(target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The size of a head with these fields, without its method and version."""
    lines = list(headers)
    return len(target) + len(b"".join(chain.from_iterable(lines))) + 4 * len(lines)
