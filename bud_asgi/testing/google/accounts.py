"""The identities that a Google stand-in accepts: service accounts, and a workload on another platform.

`info` makes the content of their credential files: those of "Application Default Credentials", to which
`GOOGLE_APPLICATION_CREDENTIALS` may point.
"""

from __future__ import annotations

import hashlib
from functools import cache

import msgspec

try:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
except ModuleNotFoundError as error:
    message = "the stand-ins for Google need cryptography: pip install '.[testing]' in a checkout of bud_asgi"
    raise ModuleNotFoundError(message, name=error.name) from error


class ServiceAccount(msgspec.Struct, frozen=True):
    """A service account. Its key is generated on first use, once in a process for each address."""

    email: str
    project: str

    @property
    def key(self) -> RSAPrivateKey:
        """The private key."""
        return _key(self.email)

    @property
    def key_id(self) -> str:
        """The id of the key, as in the header of an assertion."""
        return hashlib.sha256(self.email.encode()).hexdigest()[:40]

    def info(self, base_url: str) -> dict[str, str]:
        """Return the content of its key file, with the stand-in at `base_url` as the token endpoint."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": self.key_id,
            "private_key": pem.decode(),
            "client_email": self.email,
            "client_id": str(int(self.key_id, 16))[:21],
            "token_uri": f"{base_url}/token",
            "universe_domain": "googleapis.com",
        }


class Federation(msgspec.Struct, frozen=True):
    """A workload identity pool with one workload ("Workload Identity Federation")."""

    number: str
    """The number of the pool's project."""
    subject: str = "workload"
    subject_token: str = "stand-in.subject.token"  # noqa: S105 (only for tests)
    """The token from the workload's own platform. Any string; it is compared as it is."""
    subject_token_type: str = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 (the same)

    @property
    def audience(self) -> str:
        """The pool's provider, as named in a token exchange."""
        return f"//iam.googleapis.com/{self._pool}/providers/stand-in"

    @property
    def principal(self) -> str:
        """The principal of the tokens."""
        return f"principal://iam.googleapis.com/{self._pool}/subject/{self.subject}"

    @property
    def _pool(self) -> str:
        return f"projects/{self.number}/locations/global/workloadIdentityPools/stand-in"

    def info(self, base_url: str, subject_token_file: str, impersonated: str | None = None) -> dict[str, object]:
        """Return the content of its credential file; clients read the subject token from `subject_token_file`.

        `impersonated` is the address of the service account to impersonate, if any.
        """
        fields: dict[str, object] = {
            "type": "external_account",
            "audience": self.audience,
            "subject_token_type": self.subject_token_type,
            "token_url": f"{base_url}/v1/token",
            "credential_source": {"file": subject_token_file},
            "universe_domain": "googleapis.com",
        }
        if impersonated is not None:
            fields["service_account_impersonation_url"] = impersonation_url(base_url, impersonated)
        return fields


def impersonation_url(base_url: str, email: str) -> str:
    """Return the URL that issues tokens of this service account to callers that may impersonate it."""
    return f"{base_url}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"


@cache
def _key(_email: str) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 (each load of 2,048 bits takes 40 ms)
