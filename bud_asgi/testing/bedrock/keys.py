"""Access keys of an AWS account, issued by the stand-in ("AWS security credentials")."""

from __future__ import annotations

import secrets
import string
import time

import msgspec

ACCOUNT = "123456789012"
"""The account's number, which AWS includes in its error messages."""

_LETTERS = string.ascii_uppercase + "234567"


class AwsKey(msgspec.Struct, frozen=True):
    """An access key: long-lived, or temporary with a session token."""

    access_key: str
    secret_key: str
    arn: str
    """The user or the role session that it belongs to."""
    session_token: str | None = None
    """Temporary credentials have one, and are invalid without it."""
    expires: float | None = None
    """On the monotonic clock; `None`: never."""

    @property
    def expired(self) -> bool:
        """Whether `expires` is past."""
        return self.expires is not None and time.monotonic() >= self.expires


class AwsKeys:
    """The access keys of an account. Its methods may be called from any thread."""

    def __init__(self, account: str = ACCOUNT) -> None:
        self.account = account
        self.issued: list[AwsKey] = []
        """All keys in order, expired ones included."""

    def issue(self) -> AwsKey:
        """Issue a key of a user, which does not expire."""
        return self._add(
            AwsKey(_make_key_id("AKIA"), secrets.token_urlsafe(30), f"arn:aws:iam::{self.account}:user/stand-in")
        )

    def issue_temporary(self, lifetime: float = 3600) -> AwsKey:
        """Issue a key of a role session that expires after `lifetime` seconds."""
        arn = f"arn:aws:sts::{self.account}:assumed-role/stand-in/session"
        token = "IQoJb3JpZ2luX2Vj" + secrets.token_urlsafe(200)
        key = AwsKey(_make_key_id("ASIA"), secrets.token_urlsafe(30), arn, token, time.monotonic() + lifetime)
        return self._add(key)

    def find(self, access_key: str) -> AwsKey | None:
        """Return the key with this id, expired or not; `None` if it was never issued."""
        return next((key for key in self.issued if key.access_key == access_key), None)

    def expire(self) -> None:
        """Expire every temporary key issued so far."""
        now = time.monotonic()
        self.issued[:] = [
            key if key.expires is None else msgspec.structs.replace(key, expires=min(now, key.expires))
            for key in self.issued
        ]

    def _add(self, key: AwsKey) -> AwsKey:
        self.issued.append(key)
        return key


def _make_key_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(16))
