"""A service account's assertion, verified: a JSON Web Token that asks for an access token.

"Using OAuth 2.0 for Server to Server Applications"; RFC 7515 and RFC 7523. The signature is checked by `cryptography`
and the rest is read by itself, so that it does not share a mistake with the library that made it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from bud_asgi.testing.google.accounts import ServiceAccount
from bud_asgi.testing.google.errors import no_grant

AUDIENCE = "https://oauth2.googleapis.com/token"
"""Whom an assertion must be for, wherever it is sent."""
LONGEST = 3600
"""The longest life of an assertion, in seconds."""
_SKEW = 300


class Claims(msgspec.Struct, frozen=True):
    """What a verified assertion asks for."""

    account: ServiceAccount
    scopes: tuple[str, ...]


def verified(assertion: str, accounts: Mapping[str, ServiceAccount]) -> Claims:
    """Verify an assertion of one of these accounts (by address). Raises `GoogleRefused`."""
    signed, _, signature = assertion.rpartition(".")
    header, _, payload = signed.partition(".")
    told, claims = _object(header), _object(payload)
    account = accounts.get(str(claims.get("iss")))
    if account is None:
        raise no_grant("invalid_grant", "Invalid grant: account not found")
    if told.get("alg") != "RS256" or told.get("kid") != account.key_id or not _signed(account, signed, signature):
        raise no_grant("invalid_grant", "Invalid JWT Signature.")
    if claims.get("aud") != AUDIENCE:
        raise no_grant("invalid_grant", f"Invalid JWT: Failed audience check. The right audience is {AUDIENCE}")
    _judge_time(claims)
    scopes = tuple(str(claims.get("scope", "")).split())
    if not scopes:
        raise no_grant("invalid_scope", "Empty or missing scope not allowed.")
    return Claims(account, scopes)


def _judge_time(claims: Mapping[str, Any]) -> None:
    now, issued, expires = time.time(), _seconds(claims.get("iat")), _seconds(claims.get("exp"))
    if not now < expires <= issued + LONGEST or issued > now + _SKEW:
        raise no_grant(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat "
            "and exp values in the JWT claim.",
        )


def _seconds(value: object) -> int:
    """A numeric date; one that isn't is long past."""
    return value if isinstance(value, int) else 0


def _signed(account: ServiceAccount, signed: str, signature: str) -> bool:
    try:
        account.key.public_key().verify(_bytes(signature), signed.encode(), PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _object(part: str) -> Mapping[str, Any]:
    try:
        decoded: object = json.loads(_bytes(part))
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise no_grant("invalid_grant", "Bad Request")
    return cast("dict[str, Any]", decoded)


def _bytes(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise no_grant("invalid_grant", "Bad Request") from None
