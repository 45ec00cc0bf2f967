"""Tokens as they are received: signed JWTs in the compact form (RFC 7519; RFC 7515, 7.1). Nothing is verified here."""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import msgspec
from starlette.authentication import AuthenticationError

from bud_asgi.auth.jwt.issuer import Issuer

MAX_TOKEN = 1 << 14
"""Bytes of the longest token."""

_REMEMBERED = 512  # bytes of the longest header that is: those of one key's tokens are equal
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class Token(msgspec.Struct, frozen=True, gc=False):
    """A token in its three parts, with its header and its claims. None of it can be trusted before it is verified."""

    parts: tuple[bytes, bytes, bytes]
    header: Mapping[str, Any]
    claims: dict[str, Any]

    @property
    def issuer(self) -> str:
        """The `iss` that it claims; empty if that is not a string."""
        issuer = self.claims.get("iss")
        return issuer if isinstance(issuer, str) else ""


def parse_token(credential: bytes) -> Token | None:
    """Read a token; `None` if it is not a signed one.

    Names must be unique, in nested objects too (RFC 7519, 4): another reader could take the other value. Encrypted
    tokens (JWE) have five parts, and are not read.
    """
    parts = credential.split(b".")
    if len(parts) != 3 or len(credential) > MAX_TOKEN:
        return None
    is_short = len(parts[0]) <= _REMEMBERED
    header = _read_header(parts[0]) if is_short else _read_object(parts[0])
    claims = _read_object(parts[1])
    return None if header is None or claims is None else Token((parts[0], parts[1], parts[2]), header, claims)


def check_header(header: Mapping[str, Any], issuer: Issuer) -> None:
    """Check the header of a token before a key is chosen. Raises `AuthenticationError`.

    The algorithm must be one of the issuer's. Extensions that must be understood (`crit`, `b64`: RFC 7515, 4.1.11, and
    RFC 7797) are not supported. Keys in the header, or links to keys, are never used.
    """
    type_ = header.get("typ", "JWT")
    if header.get("alg") not in issuer.algorithms or "crit" in header or "b64" in header:
        raise AuthenticationError
    if not isinstance(header.get("kid", ""), str) or not isinstance(type_, str):
        raise AuthenticationError
    if type_.lower().removeprefix("application/") not in {accepted.lower() for accepted in issuer.types}:
        raise AuthenticationError


def _read_object(part: bytes) -> dict[str, Any] | None:
    try:
        text = a2b_base64(part.translate(_URL_SAFE) + b"=" * (-len(part) % 4), strict_mode=True).decode()
        found = _DECODER.decode(text)
    except (Base64Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


_read_header = lru_cache(maxsize=256)(_read_object)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
