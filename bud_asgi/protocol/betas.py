"""The beta flags that a request lists: in the `anthropic-beta` header, and in the body as Bedrock's clients do.

Vendor page "Beta headers"; AWS, "InvokeModel" (`anthropic_beta`).
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest

MAX_BETAS = 64
"""The most beta flags that a request may name; Anthropic documents about fifty."""

_MAX_LIST = 8192  # bytes of the list of flags in a body
_LONGEST_REMEMBERED = 2048
_decode_flags = msgspec.json.Decoder(list[str]).decode
_FLAG = re.compile(r"[0-9A-Za-z._-]{1,100}")


def requested_betas(headers: Headers, request: MessagesRequest) -> tuple[str, ...]:
    """The beta flags of the header, then those of the body, without duplicates.

    Raises `InvalidRequest` if one of them is not a valid list of flags.
    """
    header = headers.get(b"anthropic-beta", b"")
    value = None if request.is_plain else request.value("anthropic_beta")
    if value is None or value == b"null":
        if not header:
            return ()
        return _in_header(header) if len(header) <= _LONGEST_REMEMBERED else _checked(_split(header))
    try:
        return _checked([*_split(header), *_decode_flags(value[:_MAX_LIST])])
    except MALFORMED_JSON:
        raise InvalidRequest("anthropic_beta: Input should be a valid list of strings") from None


def _split(header: bytes) -> list[str]:
    return header.decode("latin-1").split(",")


def _checked(flags: list[str]) -> tuple[str, ...]:
    requested = tuple(dict.fromkeys(flag.strip() for flag in flags if flag and not flag.isspace()))
    if len(requested) > MAX_BETAS:
        raise InvalidRequest(f"anthropic-beta: at most {MAX_BETAS} values are supported")
    for flag in requested:
        if not _FLAG.fullmatch(flag):
            raise InvalidRequest(f"anthropic-beta: {flag[:100]!a} is not a valid value")
    return requested


@lru_cache(maxsize=256)
def _in_header(header: bytes) -> tuple[str, ...]:
    return _checked(_split(header))
