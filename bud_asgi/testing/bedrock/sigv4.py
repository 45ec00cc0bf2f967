"""Verifies AWS signatures: computes them again with botocore's own signer, and compares.

Sources: "AWS Signature Version 4 for API requests", "Troubleshoot Signature Version 4 signing"; wordings as observed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from bud_asgi.testing.bedrock.errors import AwsRejected
from bud_asgi.testing.bedrock.keys import AwsKey, AwsKeys
from bud_asgi.testing.server.received import Received

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest

TOLERANCE = timedelta(minutes=5)
"""The largest difference between the request's time and the service's."""

Clock = Callable[[], datetime]
"""Returns the time of day as an aware `datetime`."""

_TIME = "%Y%m%dT%H%M%SZ"
_ALGORITHM = "AWS4-HMAC-SHA256"
_PARAMETER = re.compile(r"\s*(\w+)=([^,\s]*)\s*")


class SignatureVerifier(msgspec.Struct, frozen=True):
    """Verifies signatures made with `keys` for this service and region."""

    keys: AwsKeys
    service: str
    region: str
    clock: Clock

    def verify(self, received: Received) -> AwsKey:
        """Return the key that signed the request. Raises `AwsRejected`."""
        authorization = _parse_authorization(received)
        key = self.keys.find(authorization.access_key)
        if key is None:
            raise AwsRejected("UnrecognizedClientException", "The security token included in the request is invalid.")
        timestamp = _timestamp(received)
        self._check_scope(authorization, timestamp)
        self._check_time(timestamp)
        _check_signed_headers(received, authorization)
        _check_token(received, key)
        self._check_signature(received, authorization, key, timestamp)
        return key

    def _check_scope(self, authorization: Authorization, timestamp: str) -> None:
        date, region, service, end = authorization.scope
        if region != self.region:
            raise _invalid_signature(f"Credential should be scoped to a valid region, not '{region}'. ")
        if service != self.service:
            raise _invalid_signature(f"Credential should be scoped to correct service: '{self.service}'. ")
        if end != "aws4_request":
            raise _invalid_signature(
                f"Credential should be scoped with a valid terminator: 'aws4_request', not '{end}'. "
            )
        if date != timestamp[:8]:
            problem = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"
            raise _invalid_signature(f"{problem}: '{date}' != '{timestamp[:8]}', from '{timestamp}'.")

    def _check_time(self, timestamp: str) -> None:
        now, signed = self.clock(), datetime.strptime(timestamp, _TIME).replace(tzinfo=UTC)
        earliest, latest = f"{now - TOLERANCE:{_TIME}}", f"{now + TOLERANCE:{_TIME}}"
        if signed < now - TOLERANCE:
            raise _invalid_signature(
                f"Signature expired: {timestamp} is now earlier than {earliest} ({now:{_TIME}} - 5 min.)"
            )
        if signed > now + TOLERANCE:
            problem = f"Signature not yet current: {timestamp} is still later than {latest}"
            raise _invalid_signature(f"{problem} ({now:{_TIME}} + 5 min.)")

    def _check_signature(self, received: Received, authorization: Authorization, key: AwsKey, timestamp: str) -> None:
        from botocore.auth import SigV4Auth  # noqa: PLC0415 - 30 MB that only signatures need, not API keys
        from botocore.credentials import Credentials  # noqa: PLC0415

        signer = SigV4Auth(Credentials(key.access_key, key.secret_key, key.session_token), self.service, self.region)
        request = _request(received, authorization, timestamp)
        canonical = signer.canonical_request(request)
        to_sign = signer.string_to_sign(request, canonical)
        if not hmac.compare_digest(signer.signature(to_sign, request), authorization.signature):
            raise _invalid_signature(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details.\n\n"
                f"The Canonical String for this request should have been\n'{canonical}'\n\n"
                f"The String-to-Sign should have been\n'{to_sign}'\n"
            )


class Authorization(msgspec.Struct, frozen=True):
    """A parsed `authorization` header."""

    access_key: str
    scope: tuple[str, str, str, str]
    """Date, region, service, `aws4_request`."""
    signed: frozenset[str]
    signature: str


def _parse_authorization(received: Received) -> Authorization:
    values = received.values("authorization")
    if not values:
        raise AwsRejected("MissingAuthenticationTokenException", "Missing Authentication Token")
    scheme, _, rest = b", ".join(values).decode("latin-1").partition(" ")
    given = dict(_PARAMETER.findall(rest))
    if scheme != _ALGORITHM:
        raise _incomplete_signature(f"Unsupported AWS 'algorithm': '{scheme}'")
    for name in ("Credential", "Signature", "SignedHeaders"):
        if not given.get(name):
            raise _incomplete_signature(f"Authorization header requires '{name}' parameter.")
    parts = given["Credential"].split("/")
    if len(parts) != 5:
        problem = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"
        raise _incomplete_signature(f"{problem}, got '{given['Credential']}'")
    access_key, date, region, service, end = parts
    signed = frozenset(given["SignedHeaders"].split(";"))
    return Authorization(access_key, (date, region, service, end), signed, given["Signature"])


def _invalid_signature(message: str) -> AwsRejected:
    return AwsRejected("InvalidSignatureException", message)


def _incomplete_signature(message: str) -> AwsRejected:
    return AwsRejected("IncompleteSignatureException", message)


def _timestamp(received: Received) -> str:
    value = (received.header("x-amz-date") or b"").decode("latin-1")
    try:
        datetime.strptime(value, _TIME)  # noqa: DTZ007 (only validated)
    except ValueError:
        raise _incomplete_signature(f"Date must be in ISO-8601 'basic format'. Got '{value}'.") from None
    return value


def _check_signed_headers(received: Received, authorization: Authorization) -> None:
    """Check that `host` and all `x-amz-` fields are signed, and that all signed fields were sent."""
    sent = {name.decode("latin-1").lower() for name, _ in received.headers}
    needed = {"host", *(name for name in sent if name.startswith("x-amz-"))}
    for name in sorted(needed - authorization.signed):
        raise _invalid_signature(f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    for name in sorted(authorization.signed - sent):
        raise _invalid_signature(f"The signed header '{name}' did not come with the request.")
    hashed = received.header("x-amz-content-sha256")
    if hashed is not None and hashed.decode("latin-1") != hashlib.sha256(received.body).hexdigest():
        raise _invalid_signature(
            "The value passed in as x-amz-content-sha256 does not match the computed payload hash."
        )


def _check_token(received: Received, key: AwsKey) -> None:
    value = received.header("x-amz-security-token")
    if value != (key.session_token.encode() if key.session_token else None):
        raise AwsRejected("UnrecognizedClientException", "The security token included in the request is invalid.")
    if key.expired:
        raise AwsRejected("ExpiredTokenException", "The security token included in the request is expired")


def _request(received: Received, authorization: Authorization, timestamp: str) -> AWSRequest:
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415

    host = (received.header("host") or b"").decode("latin-1")
    url = f"http://{host}{received.target.decode('latin-1')}"
    request = AWSRequest(method=received.method.decode("latin-1"), url=url, data=received.body)
    for name, value in received.headers:
        lower_name = name.decode("latin-1").lower()
        if lower_name in authorization.signed:
            request.headers.add_header(lower_name, value.decode("utf-8", "replace"))
    request.context["timestamp"] = timestamp
    return request
