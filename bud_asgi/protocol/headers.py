"""Which headers are forwarded to the upstream and to the client (vendor pages "API overview", "API versioning").

Both directions are allow-lists: headers that are not named here are not forwarded, above all credentials, cookies,
`host` and hop-by-hop fields.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bud_asgi.protocol.account_fields import ACCOUNT_FIELDS, account_header
from bud_asgi.protocol.errors import HeadTooLarge, InvalidRequest

Headers = Mapping[bytes, bytes]
"""Header values by lower-case name; the lines of a repeated field are joined (RFC 9110, 5.3)."""

MAX_HEAD = 1 << 16
"""Bytes of a request's target and header fields."""

MAX_HEADER_LINES = 200
"""Number of a request's header fields."""

TRACE_PARENT, TRACE_STATE = TRACE_CONTEXT = (b"traceparent", b"tracestate")
"""The headers of the W3C's "Trace Context"."""

_MAX_KNOWN = 256
_MAX_KNOWN_SIZE = 4096
"""Bytes that the names of one client may take in memory to be remembered, by estimate: 1 MB for all."""

_VERSION = b"anthropic-version"
_USUAL_VERSION = b"2023-06-01"
_ENCODING = b"content-encoding"
_VERSIONS = re.compile(rb"[!-+\--~]{1,64}")  # visible ASCII except the comma, which joins repeated lines
_PRINTABLE = re.compile(rb"[ -~\t]*")

_COMMA = ord(",")
_TAB = ord("\t")
_ACCOUNT_HEADERS = frozenset({field.header for field in ACCOUNT_FIELDS.values() if field.header})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_NUMBER = rb"[0-9]{1,10}(?:\.[0-9]{1,6})?"
_DATE = rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"  # RFC 9110, 5.6.7
_FROM_ERROR = (
    (b"retry-after", re.compile(_NUMBER + rb"|" + _DATE)),
    (b"retry-after-ms", re.compile(_NUMBER)),
    (b"x-should-retry", re.compile(rb"true|false")),
)
_IN_UTF_8 = re.compile(rb"(?:application/json|text/event-stream)(?:[ \t]*;[ \t]*charset=\"?utf-?8\"?)?", re.IGNORECASE)
_USUAL_TYPES = {
    b"application/json": b"application/json",
    b"text/event-stream": b"text/event-stream",
    b"text/event-stream; charset=utf-8": b"text/event-stream",
}
"""The media types of the values of `content-type` that most replies have."""

_REQUEST_IDS = (b"request-id", b"x-amzn-requestid")
_UPSTREAM_ID = b"upstream-request-id"
_IN_REQUEST_ID = bytes(chr(byte) in string.ascii_letters + string.digits + "._-" for byte in range(256))  # 0 if not
_MAX_REQUEST_ID = 128


class HeaderNames(msgspec.Struct, frozen=True):
    """What the names of a request's headers show: which are `forwarded`, `checked`, and `account` fields.

    `size` plus the length of the values, joined by single spaces, is the size of the headers in bytes.
    """

    are_lower: bool
    size: int
    forwarded: tuple[bytes, ...]
    checked: tuple[bytes, ...]
    account: tuple[bytes, ...]


known_names: dict[tuple[bytes, ...], HeaderNames] = {}
"""What the names that clients sent show. It is emptied when it is full."""


def names_of(headers: Iterable[bytes]) -> HeaderNames:
    """What the names of these headers show: remembered, because a client sends the same names each time."""
    names = tuple(headers)
    return known_names.get(names) or _read_names(names)


def _read_names(names: tuple[bytes, ...]) -> HeaderNames:
    """What names that are not known show; it is remembered if they are short enough."""
    joined = b"".join(names)
    special = [name for name in names if name[:9] == b"anthropic" or name in _ACCOUNT_HEADERS]
    forwarded = tuple([name for name in special if name[:10] == b"anthropic-"])
    checked = tuple([name for name in (_ENCODING, *forwarded) if name in names and name != _VERSION])
    account = tuple([name for name in special if account_header(name)])
    size = len(joined) + 3 * len(names) + 1  # each line ends with two bytes, and has two between name and value
    shown = HeaderNames(joined.islower(), size, forwarded, checked, account)
    if len(joined) + 64 * len(names) <= _MAX_KNOWN_SIZE:
        if len(known_names) >= _MAX_KNOWN:
            known_names.clear()
        known_names[names] = shown
    return shown


def head_too_large(lines: int) -> HeadTooLarge:
    """The error for a head of over `MAX_HEADER_LINES` lines, or over `MAX_HEAD` bytes with the path and query."""
    if lines > MAX_HEADER_LINES:
        return HeadTooLarge(f"The request has more than {MAX_HEADER_LINES} header lines")
    return HeadTooLarge(f"The request line and headers exceed {MAX_HEAD} bytes")


def read_headers(lines: Sequence[tuple[bytes, bytes]]) -> tuple[Headers, HeaderNames, int]:
    """Return merged header lines, what their names show, and their size in the head of a request.

    Most clients' lines need no merging, which is found out at less cost than merging them. If there are more than
    `MAX_HEADER_LINES`, none is read, and the size is over `MAX_HEAD`, so that the request is refused.
    """
    if len(lines) > MAX_HEADER_LINES:
        return {}, names_of(()), MAX_HEAD + 1
    merged = dict(lines)
    key = tuple(merged)
    names = known_names.get(key) or _read_names(key)
    values = b" ".join(merged.values())
    # A value that begins or ends with a space makes two in a row, or is the first or the last.
    is_stripped = values.strip() is values and _TAB not in values and values.find(b"  ") < 0
    if is_stripped and names.are_lower and len(merged) == len(lines):
        return merged, names, names.size + len(values)
    merged = merge_headers(lines)
    names, values = names_of(merged), b" ".join(merged.values())
    return merged, names, names.size + len(values) + 4 * (len(lines) - len(merged))


def merge_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Merge header lines into one value per lower-case name.

    Spaces and tabs around a value are removed (RFC 9110, 5.5): servers leave trailing ones in place. Lines of
    `anthropic-beta` are joined by a bare comma, as the service's own SDKs write it.
    """
    values_of: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values_of.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return {name: (b"," if name == b"anthropic-beta" else b", ").join(values) for name, values in values_of.items()}


def check_request_headers(headers: Headers, names: HeaderNames) -> None:
    """Check the headers that a Messages request must have or must not have. Raises `InvalidRequest`.

    Exactly one `anthropic-version` is required; the upstream decides whether it supports that version. Headers that
    are forwarded must be printable ASCII.
    """
    version = headers.get(_VERSION)
    if not version:
        raise InvalidRequest("anthropic-version: header is required")
    if version != _USUAL_VERSION and not _VERSIONS.fullmatch(version):
        shown = version[:100].decode("ascii", "backslashreplace")
        raise InvalidRequest(f'anthropic-version: "{shown}" is not a valid version')
    for name in names.checked:
        value = headers.get(name, b"")
        if name == _ENCODING:
            if value.strip().lower() not in {b"identity", b""}:
                raise InvalidRequest(
                    "content-encoding: compressed request bodies are not supported",
                    details={"error_code": "request_body_encoding_unsupported"},
                )
        elif not _PRINTABLE.fullmatch(value):
            raise InvalidRequest(f"{name.decode('latin-1')}: header must be printable ASCII")


def forwarded_headers(
    headers: Headers, names: HeaderNames | None = None, *, trace_context: bool = False
) -> list[tuple[bytes, bytes]]:
    """The client's headers that are forwarded to an Anthropic-format upstream: `anthropic-*`, unchanged.

    `names` may be those of a larger set of headers. `trace_context` includes `traceparent` and `tracestate` (W3C
    "Trace Context").
    """
    lines: list[tuple[bytes, bytes]] = []
    for name in (names or names_of(headers)).forwarded:
        if name in headers:
            lines.append((name, headers[name]))  # noqa: PERF401 - usually one: a comprehension would cost twice as much
    if trace_context:
        traced = [(name, headers[name]) for name in TRACE_CONTEXT if name in headers]
        lines += [line for line in traced if _PRINTABLE.fullmatch(line[1])]
    return lines


def credential_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers that carry the client's own credential."""
    return [
        (name, one_credential(value))
        for name, value in headers.items()
        if name in _CREDENTIALS and _PRINTABLE.fullmatch(value)
    ]


def one_credential(value: bytes) -> bytes:
    """The value of a credential's header; where its lines were joined and all are equal, that of one line.

    The Python SDK sends `x-api-key` twice if a caller sets it in `extra_headers`. The case of a scheme does not matter
    (RFC 9110, 11.1).
    """
    if _COMMA not in value:
        return value
    lines = [line.strip(b" \t") for line in value.split(b",")]
    return lines[0] if len(set(map(_with_lower_scheme, lines))) == 1 else value


def _with_lower_scheme(line: bytes) -> bytes:
    scheme, blank, credential = line.partition(b" ")
    return scheme.lower() + blank + credential.strip(b" ") if blank else line


def reply_fields(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """An upstream's response headers by lower-case name; the first line of a repeated field is used."""
    fields = dict(headers)
    return fields if len(fields) == len(headers) else dict(reversed(headers))


def request_id_of(headers: Headers) -> str:
    """The upstream's id for a request, from `request-id` or AWS's `x-amzn-requestid`; empty if absent or invalid."""
    for name in _REQUEST_IDS:
        value = headers.get(name)
        if value and len(value) <= _MAX_REQUEST_ID and 0 not in value.translate(_IN_REQUEST_ID):
            return value.decode()
    return ""


def relayed_headers(headers: Headers, request_id: str | None) -> list[tuple[bytes, bytes]]:
    """The headers of an upstream's reply that are forwarded to the client: `content-type`, and the upstream's id.

    Only values of the form that the field has are forwarded, so none can carry anything else. The upstream's rate
    limits, organization and workspace describe the operator's account and are not forwarded. `request_id` is the
    upstream's, as the attempt recorded it, and becomes `upstream-request-id`.
    """
    content_type = headers.get(b"content-type", b"")
    if content_type not in _USUAL_TYPES and not _IN_UTF_8.fullmatch(content_type):
        content_type = media_type(headers)
    line = (b"content-type", content_type)
    return [line, (_UPSTREAM_ID, request_id.encode())] if request_id else [line]


def relayed_error_headers(headers: Headers, request_id: str | None) -> list[tuple[bytes, bytes]]:
    """The same for an error: the headers about retries, and the upstream's id."""
    lines = [(name, headers[name]) for name, form in _FROM_ERROR if form.fullmatch(headers.get(name, b""))]
    if request_id:
        lines.append((_UPSTREAM_ID, request_id.encode()))
    return lines


def media_type(headers: Headers) -> bytes:
    """The media type of `content-type`, in lower case and without parameters; `b""` if absent."""
    value = headers.get(b"content-type", b"")
    return _USUAL_TYPES.get(value) or value.partition(b";")[0].strip().lower()
