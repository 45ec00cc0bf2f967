"""The access tokens of a Google stand-in: `Google` issues them, other stand-ins look them up."""

from __future__ import annotations

import secrets
import time

import msgspec

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
"""The scope that covers every Google Cloud API."""


class Token(msgspec.Struct, frozen=True):
    """An access token."""

    value: str
    principal: str
    """An e-mail address, or the `principal://` name of a federated identity."""
    scopes: tuple[str, ...]
    expires: float
    """On the monotonic clock."""

    @property
    def expired(self) -> bool:
        """Whether `expires` is past."""
        return time.monotonic() >= self.expires


class Tokens:
    """The tokens issued so far. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.issued: list[Token] = []
        """All tokens in order, expired ones included."""

    def issue(self, principal: str, scopes: tuple[str, ...] = (CLOUD_PLATFORM,), lifetime: float = 3600) -> Token:
        """Issue a token that expires after `lifetime` seconds."""
        token = Token(f"ya29.c.{secrets.token_urlsafe(48)}", principal, scopes, time.monotonic() + lifetime)
        self.issued.append(token)
        return token

    def find(self, value: str) -> Token | None:
        """Return the token with this value, expired or not; `None` if it was never issued."""
        return next((token for token in reversed(self.issued) if token.value == value), None)

    def expire(self) -> None:
        """Expire every token issued so far."""
        now = time.monotonic()
        self.issued[:] = [msgspec.structs.replace(token, expires=min(now, token.expires)) for token in self.issued]
