"""The access tokens that a Google stand-in has issued: what it tells one service, the other must know."""

from __future__ import annotations

import secrets
import time

import msgspec

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
"""The scope that covers every Google Cloud API."""


class Token(msgspec.Struct, frozen=True):
    """An access token that was issued."""

    value: str
    principal: str
    """Whose it is: an e-mail address, or a `principal://` name of a federated identity."""
    scopes: tuple[str, ...]
    expires: float
    """On the monotonic clock."""

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self.expires


class Tokens:
    """The tokens that were issued so far. Safe from any thread."""

    def __init__(self) -> None:
        self.issued: list[Token] = []
        """All of them, in order; also expired ones."""

    def issue(self, principal: str, scopes: tuple[str, ...] = (CLOUD_PLATFORM,), lifetime: float = 3600) -> Token:
        """A new token that lives so many seconds."""
        token = Token(f"ya29.c.{secrets.token_urlsafe(48)}", principal, scopes, time.monotonic() + lifetime)
        self.issued.append(token)
        return token

    def find(self, value: str) -> Token | None:
        """The token of this value, expired or not; `None` if it was never issued."""
        return next((token for token in reversed(self.issued) if token.value == value), None)

    def expire(self) -> None:
        """End the time of every token issued so far, whatever was said when it was issued."""
        now = time.monotonic()
        self.issued[:] = [msgspec.structs.replace(token, expires=min(now, token.expires)) for token in self.issued]
