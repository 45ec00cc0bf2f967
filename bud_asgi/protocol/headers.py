"""Which headers travel which way (vendor pages "API overview" and "API versioning").

Both ways start from an empty set: what is not named here stays behind, credentials, cookies, host and hop-by-hop
fields first of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bud_asgi.protocol.errors import InvalidRequest

Headers = Mapping[bytes, bytes]
"""Fields by lower-case name; the lines of a repeated one are joined (RFC 9110, 5.3)."""

_VERSION = re.compile(rb"[!-+\--~]{1,64}")  # visible ASCII but the comma, which two versions would be joined by
_PRINTABLE = re.compile(rb"[ -~\t]*")

_ANTHROPIC = b"anthropic-"
_OF_THE_ACCOUNT = frozenset({b"anthropic-workspace-id", b"anthropic-user-profile-id"})  # they choose whom it bills
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_FROM_REPLY = (b"content-type",)
_FROM_ERROR = (b"retry-after", b"retry-after-ms", b"x-should-retry")


def merge_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Fields by lower-case name; names that differ in case only are one field in several lines.

    Blanks around a value are no part of it (RFC 9110, 5.5); servers leave those behind it.
    """
    lines = tuple(lines)
    merged: dict[bytes, bytes] = dict(lines)
    if len(merged) == len(lines) and b"".join(merged).islower():  # each name once, as most servers hand them on
        values = b"\0".join(merged.values()) + b"\0"
        if b" \0" not in values and b"\t\0" not in values:
            return merged
    merged = {}
    for line, value in lines:
        name, field = line.lower(), value.strip(b" \t")
        if name not in merged:
            merged[name] = field
        else:
            merged[name] += (b"," if name == b"anthropic-beta" else b", ") + field
    return merged


def check_request_headers(headers: Headers) -> None:
    """Judge the headers that a Messages request must have, or must not. Raises `InvalidRequest`.

    One version is needed; which versions there are is the upstream's to say. What is handed on is printable ASCII.
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
    for name in [name for name in headers if name[:10] == _ANTHROPIC]:
        if not _PRINTABLE.fullmatch(headers[name]):
            raise InvalidRequest(f"{name.decode('latin-1')}: header must be printable ASCII")


def forwarded_headers(
    headers: Headers, *, account: bool = False, trace_context: bool = False
) -> list[tuple[bytes, bytes]]:
    """The client's headers that an Anthropic-format upstream gets: the open `anthropic-*` family, as it came.

    `account`: those too that choose whom an account bills, for a client that calls with its own. `trace_context`: the
    W3C's too (W3C "Trace Context").
    """
    return [
        line
        for line in headers.items()
        if (line[0][:10] == _ANTHROPIC and (account or line[0] not in _OF_THE_ACCOUNT))
        or (trace_context and line[0] in _TRACE_CONTEXT and _PRINTABLE.fullmatch(line[1]))
    ]


def credential_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The client's own credential, in the headers that it came in."""
    return [line for line in headers.items() if line[0] in _CREDENTIALS and _PRINTABLE.fullmatch(line[1])]


def fields_of(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The fields of a reply by lower-case name; of a repeated one the first line counts."""
    return dict(reversed(headers))


def request_id_of(headers: Headers) -> bytes:
    """An upstream's own id for a request, `b""` if it gives none; AWS has another name for it."""
    return headers.get(b"request-id") or headers.get(b"x-amzn-requestid", b"")


def relayed_headers(headers: Headers, *, error: bool) -> list[tuple[bytes, bytes]]:
    """The upstream's headers that the client gets: the type of the content, and with an error when to try again.

    The upstream's rate limits, organisation and workspace describe the operator's account and stay behind. Its
    `request-id` becomes `upstream-request-id`.
    """
    relayed = [(name, headers[name]) for name in (_FROM_ERROR if error else _FROM_REPLY) if name in headers]
    if request_id := request_id_of(headers):
        relayed.append((b"upstream-request-id", request_id))
    return relayed


def media_type(headers: Headers) -> bytes:
    """The type of the content without its parameters, in lower case; `b""` if it is not told."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
