"""Verifies a service account's assertion, a JSON Web Token that is exchanged for an access token.

Sources: "Using OAuth 2.0 for Server to Server Applications"; RFC 7515 and RFC 7523. `cryptography` checks the
signature; the rest is parsed here, so that it shares no mistake with the library that made the assertion.
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
from bud_asgi.testing.google.errors import oauth_rejected

AUDIENCE = "https://oauth2.googleapis.com/token"
"""The audience that an assertion must have, whatever URL it is sent to."""
MAX_LIFETIME = 3600
"""The longest lifetime of an assertion, in seconds."""
_SKEW = 300


class Claims(msgspec.Struct, frozen=True):
    """The account and scopes of a verified assertion."""

    account: ServiceAccount
    scopes: tuple[str, ...]


def verify_assertion(assertion: str, accounts: Mapping[str, ServiceAccount]) -> Claims:
    """Verify an assertion of one of these accounts (by address). Raises `GoogleRejected`."""
    signed, _, signature = assertion.rpartition(".")
    header, _, payload = signed.partition(".")
    jose_header, claims = _object(header), _object(payload)
    account = accounts.get(str(claims.get("iss")))
    if account is None:
        raise oauth_rejected("invalid_grant", "Invalid grant: account not found")
    if (
        jose_header.get("alg") != "RS256"
        or jose_header.get("kid") != account.key_id
        or not _is_signed_by(account, signed, signature)
    ):
        raise oauth_rejected("invalid_grant", "Invalid JWT Signature.")
    if claims.get("aud") != AUDIENCE:
        raise oauth_rejected("invalid_grant", f"Invalid JWT: Failed audience check. The right audience is {AUDIENCE}")
    _check_time(claims)
    scopes = tuple(str(claims.get("scope", "")).split())
    if not scopes:
        raise oauth_rejected("invalid_scope", "Empty or missing scope not allowed.")
    return Claims(account, scopes)


def _check_time(claims: Mapping[str, Any]) -> None:
    now, issued, expires = time.time(), _seconds(claims.get("iat")), _seconds(claims.get("exp"))
    if not now < expires <= issued + MAX_LIFETIME or issued > now + _SKEW:
        raise oauth_rejected(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat "
            "and exp values in the JWT claim.",
        )


def _seconds(value: object) -> int:
    """Return a numeric date; anything else is 0, which has expired."""
    return value if isinstance(value, int) else 0


def _is_signed_by(account: ServiceAccount, signed: str, signature: str) -> bool:
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
        raise oauth_rejected("invalid_grant", "Bad Request")
    return cast("dict[str, Any]", decoded)


def _bytes(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise oauth_rejected("invalid_grant", "Bad Request") from None
