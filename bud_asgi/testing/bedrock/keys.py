"""Access keys of an AWS account, as a stand-in issues them ("AWS security credentials")."""

from __future__ import annotations

import secrets
import string
import time

import msgspec

ACCOUNT = "123456789012"
"""The account's number, which AWS's own texts show."""

_LETTERS = string.ascii_uppercase + "234567"


class AwsKey(msgspec.Struct, frozen=True):
    """An access key: long-lived, or temporary with a session token."""

    access_key: str
    secret_key: str
    arn: str
    """Whose it is."""
    session_token: str | None = None
    """Temporary credentials have one, and are worth nothing without."""
    expires: float | None = None
    """On the monotonic clock; `None` for never."""

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.monotonic() >= self.expires


class AwsKeys:
    """The keys that were issued so far. Safe from any thread."""

    def __init__(self, account: str = ACCOUNT) -> None:
        self.account = account
        self.issued: list[AwsKey] = []
        """All of them, in order; also expired ones."""

    def issue(self) -> AwsKey:
        """A new key of a user, which lives on."""
        return self._add(AwsKey(_made("AKIA"), secrets.token_urlsafe(30), f"arn:aws:iam::{self.account}:user/stand-in"))

    def issue_temporary(self, lifetime: float = 3600) -> AwsKey:
        """A new key of a role's session that lives so many seconds."""
        arn = f"arn:aws:sts::{self.account}:assumed-role/stand-in/session"
        token = "IQoJb3JpZ2luX2Vj" + secrets.token_urlsafe(200)
        key = AwsKey(_made("ASIA"), secrets.token_urlsafe(30), arn, token, time.monotonic() + lifetime)
        return self._add(key)

    def find(self, access_key: str) -> AwsKey | None:
        """The key of this id, expired or not; `None` if it was never issued."""
        return next((key for key in self.issued if key.access_key == access_key), None)

    def expire(self) -> None:
        """End the time of every temporary key issued so far, whatever was said when it was issued."""
        now = time.monotonic()
        self.issued[:] = [
            key if key.expires is None else msgspec.structs.replace(key, expires=min(now, key.expires))
            for key in self.issued
        ]

    def _add(self, key: AwsKey) -> AwsKey:
        self.issued.append(key)
        return key


def _made(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(16))
