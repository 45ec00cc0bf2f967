"""Which headers are forwarded to the upstream and to the client (vendor pages "API overview", "API versioning").

Both directions are allow-lists: headers that are not named here are not forwarded, above all credentials, cookies,
`host` and hop-by-hop fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bud_asgi.protocol.errors import HeadTooLarge, InvalidRequest

Headers = Mapping[bytes, bytes]
"""Header values by lower-case name; the lines of a repeated field are joined (RFC 9110, 5.3)."""

MAX_HEAD = 1 << 16
"""Bytes of a request's target and header fields."""

MAX_HEADER_LINES = 200
"""Number of a request's header fields."""

_VERSION = re.compile(rb"[!-+\--~]{1,64}")  # visible ASCII except the comma, which joins repeated lines
_PRINTABLE = re.compile(rb"[ -~\t]*")

_COMMA = ord(",")
_ANTHROPIC = b"anthropic-"
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_NUMBER = rb"[0-9]{1,10}(?:\.[0-9]{1,6})?"
_DATE = rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"  # RFC 9110, 5.6.7
_FROM_ERROR = (
    (b"retry-after", re.compile(_NUMBER + rb"|" + _DATE)),
    (b"retry-after-ms", re.compile(_NUMBER)),
    (b"x-should-retry", re.compile(rb"true|false")),
)
_IN_UTF_8 = re.compile(rb"(?:application/json|text/event-stream)(?:[ \t]*;[ \t]*charset=\"?utf-?8\"?)?", re.IGNORECASE)
_REQUEST_IDS = (b"request-id", b"x-amzn-requestid")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def check_head(lines: int, headers: Headers, target: int) -> None:
    """Check the size of a request's head: the number of its lines, the merged headers, the length of path and query.

    Several servers have no limit of their own. Raises `HeadTooLarge`.
    """
    if lines > MAX_HEADER_LINES:
        raise HeadTooLarge(f"The request has more than {MAX_HEADER_LINES} header lines")
    if len(b"".join(headers)) + len(b"".join(headers.values())) + 4 * lines + target > MAX_HEAD:
        raise HeadTooLarge(f"The request line and headers exceed {MAX_HEAD} bytes")


def merge_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Merge header lines into one value per lower-case name.

    Spaces and tabs around a value are removed (RFC 9110, 5.5): servers leave trailing ones in place. Lines of
    `anthropic-beta` are joined by a bare comma, as the service's own SDKs write it.
    """
    lines = tuple(lines)
    merged: dict[bytes, bytes] = dict(lines)
    if len(merged) == len(lines) and b"".join(merged).islower():  # no name is repeated: the common case
        values = b"\0%b\0" % b"\0".join(merged.values())
        if not (b" \0" in values or b"\0 " in values or b"\t" in values):
            return merged
    values_of: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values_of.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return {name: (b"," if name == b"anthropic-beta" else b", ").join(values) for name, values in values_of.items()}


def check_request_headers(headers: Headers) -> None:
    """Check the headers that a Messages request must have or must not have. Raises `InvalidRequest`.

    Exactly one `anthropic-version` is required; the upstream decides whether it supports that version. Headers that
    are forwarded must be printable ASCII.
    """
    version = headers.get(b"anthropic-version")
    if not version:
        raise InvalidRequest("anthropic-version: header is required")
    if not _VERSION.fullmatch(version):
        shown = version[:100].decode("ascii", "backslashreplace")
        raise InvalidRequest(f'anthropic-version: "{shown}" is not a valid version')
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"identity", b""}:
        raise InvalidRequest(
            "content-encoding: compressed request bodies are not supported",
            details={"error_code": "request_body_encoding_unsupported"},
        )
    if b" ".join(headers).count(_ANTHROPIC) == 1:
        return  # no others than the version
    for name in [name for name in headers if name[:10] == _ANTHROPIC]:
        if not _PRINTABLE.fullmatch(headers[name]):
            raise InvalidRequest(f"{name.decode('latin-1')}: header must be printable ASCII")


def forwarded_headers(headers: Headers, *, trace_context: bool = False) -> list[tuple[bytes, bytes]]:
    """The client's headers that are forwarded to an Anthropic-format upstream: `anthropic-*`, unchanged.

    `trace_context` includes `traceparent` and `tracestate` (W3C "Trace Context").
    """
    return [
        line
        for line in headers.items()
        if line[0][:10] == _ANTHROPIC or (trace_context and line[0] in _TRACE_CONTEXT and _PRINTABLE.fullmatch(line[1]))
    ]


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
    return dict(reversed(headers))


def request_id_of(headers: Headers) -> str:
    """The upstream's id for a request, from `request-id` or AWS's `x-amzn-requestid`; empty if absent or invalid."""
    for name in _REQUEST_IDS:
        if (value := headers.get(name)) and _REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return ""


def relayed_headers(headers: Headers, *, error: bool, request_id: str | None) -> list[tuple[bytes, bytes]]:
    """The upstream's headers that are forwarded to the client: `content-type`, or for an error the retry headers.

    Only values of the form that the field has are forwarded, so none can carry anything else. The upstream's rate
    limits, organization and workspace describe the operator's account and are not forwarded. `request_id` is the
    upstream's, as the attempt recorded it, and becomes `upstream-request-id`.
    """
    if error:
        relayed = [(name, headers[name]) for name, form in _FROM_ERROR if form.fullmatch(headers.get(name, b""))]
    else:
        content_type = headers.get(b"content-type", b"")
        relayed = [(b"content-type", content_type if _IN_UTF_8.fullmatch(content_type) else media_type(headers))]
    if request_id:
        relayed.append((b"upstream-request-id", request_id.encode("ascii")))
    return relayed


def media_type(headers: Headers) -> bytes:
    """The media type of `content-type`, in lower case and without parameters; `b""` if absent."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
