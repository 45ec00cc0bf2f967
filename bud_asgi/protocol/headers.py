"""Which headers are forwarded to the upstream and to the client (vendor pages "API overview", "API versioning").

Both directions are allow-lists: headers that are not named here are not forwarded, above all credentials, cookies,
`host` and hop-by-hop fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bud_asgi.protocol.errors import InvalidRequest

Headers = Mapping[bytes, bytes]
"""Header values by lower-case name; the lines of a repeated field are joined (RFC 9110, 5.3)."""

_VERSION = re.compile(rb"[!-+\--~]{1,64}")  # visible ASCII except the comma, which joins repeated lines
_PRINTABLE = re.compile(rb"[ -~\t]*")

_ANTHROPIC = b"anthropic-"
_OF_THE_ACCOUNT = frozenset({b"anthropic-workspace-id", b"anthropic-user-profile-id"})  # they select who is billed
_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_FROM_REPLY = (b"content-type",)
_FROM_ERROR = (b"retry-after", b"retry-after-ms", b"x-should-retry")


def merge_headers(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Merge header lines into one value per lower-case name.

    Spaces and tabs around a value are removed (RFC 9110, 5.5): servers leave trailing ones in place. Lines of
    `anthropic-beta` are joined by a bare comma, as the service's own SDKs write it.
    """
    lines = tuple(lines)
    merged: dict[bytes, bytes] = dict(lines)
    if len(merged) == len(lines) and b"".join(merged).islower():  # no name is repeated: the common case
        values = b"\0%b\0" % b"\0".join(merged.values())
        if not (b" \0" in values or b"\t\0" in values or b"\0 " in values or b"\0\t" in values):
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
    for name in [name for name in headers if name[:10] == _ANTHROPIC]:
        if not _PRINTABLE.fullmatch(headers[name]):
            raise InvalidRequest(f"{name.decode('latin-1')}: header must be printable ASCII")


def forwarded_headers(
    headers: Headers, *, account: bool = False, trace_context: bool = False
) -> list[tuple[bytes, bytes]]:
    """The client's headers that are forwarded to an Anthropic-format upstream: `anthropic-*`, unchanged.

    `account` includes those that select who is billed, for clients that call with their own credential.
    `trace_context` includes `traceparent` and `tracestate` (W3C "Trace Context").
    """
    return [
        line
        for line in headers.items()
        if (line[0][:10] == _ANTHROPIC and (account or line[0] not in _OF_THE_ACCOUNT))
        or (trace_context and line[0] in _TRACE_CONTEXT and _PRINTABLE.fullmatch(line[1]))
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
    if b"," not in value:
        return value
    lines = [line.strip(b" \t") for line in value.split(b",")]
    return lines[0] if len(set(map(_with_lower_scheme, lines))) == 1 else value


def _with_lower_scheme(line: bytes) -> bytes:
    scheme, blank, credential = line.partition(b" ")
    return scheme.lower() + blank + credential.strip(b" ") if blank else line


def reply_fields(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """An upstream's response headers by lower-case name; the first line of a repeated field is used."""
    return dict(reversed(headers))


def request_id_of(headers: Headers) -> bytes:
    """The upstream's id for a request, from `request-id` or AWS's `x-amzn-requestid`; `b""` if absent."""
    return headers.get(b"request-id") or headers.get(b"x-amzn-requestid", b"")


def relayed_headers(headers: Headers, *, error: bool) -> list[tuple[bytes, bytes]]:
    """The upstream's headers that are forwarded to the client: `content-type`, or for an error the retry headers.

    The upstream's rate limits, organization and workspace describe the operator's account and are not forwarded. Its
    `request-id` becomes `upstream-request-id`.
    """
    relayed = [(name, headers[name]) for name in (_FROM_ERROR if error else _FROM_REPLY) if name in headers]
    if request_id := request_id_of(headers):
        relayed.append((b"upstream-request-id", request_id))
    return relayed


def media_type(headers: Headers) -> bytes:
    """The media type of `content-type`, in lower case and without parameters; `b""` if absent."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
