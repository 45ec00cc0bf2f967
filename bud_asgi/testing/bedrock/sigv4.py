"""Signatures of AWS, checked as AWS does: computed again with botocore's own signer, and compared.

Sources: "AWS Signature Version 4 for API requests", "Troubleshoot Signature Version 4 signing"; wordings as observed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bud_asgi.testing.bedrock.errors import AwsRefused, aws_refused
from bud_asgi.testing.bedrock.keys import AwsKey, AwsKeys
from bud_asgi.testing.server.received import Received

TOLERANCE = timedelta(minutes=5)
"""How far a request's time may be from the service's."""

Clock = Callable[[], datetime]
"""Tells the time of day; an aware one."""

_TIME = "%Y%m%dT%H%M%SZ"
_ALGORITHM = "AWS4-HMAC-SHA256"
_PARAMETER = re.compile(r"\s*(\w+)=([^,\s]*)\s*")


class Signer(msgspec.Struct, frozen=True):
    """What a signature must be made for."""

    keys: AwsKeys
    service: str
    region: str
    clock: Clock

    def verify(self, received: Received) -> AwsKey:
        """The key that signed the request. Raises `AwsRefused`."""
        claim = _claim(received)
        key = self.keys.find(claim.access_key)
        if key is None:
            raise aws_refused("UnrecognizedClientException", "The security token included in the request is invalid.")
        timestamp = _timestamp(received)
        self._judge_scope(claim, timestamp)
        self._judge_time(timestamp)
        _judge_signed_headers(received, claim)
        _judge_token(received, key)
        self._judge_signature(received, claim, key, timestamp)
        return key

    def _judge_scope(self, claim: Claim, timestamp: str) -> None:
        date, region, service, end = claim.scope
        if region != self.region:
            raise _invalid(f"Credential should be scoped to a valid region, not '{region}'. ")
        if service != self.service:
            raise _invalid(f"Credential should be scoped to correct service: '{self.service}'. ")
        if end != "aws4_request":
            raise _invalid(f"Credential should be scoped with a valid terminator: 'aws4_request', not '{end}'. ")
        if date != timestamp[:8]:
            words = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"
            raise _invalid(f"{words}: '{date}' != '{timestamp[:8]}', from '{timestamp}'.")

    def _judge_time(self, timestamp: str) -> None:
        now, signed = self.clock(), datetime.strptime(timestamp, _TIME).replace(tzinfo=UTC)
        earliest, latest = f"{now - TOLERANCE:{_TIME}}", f"{now + TOLERANCE:{_TIME}}"
        if signed < now - TOLERANCE:
            raise _invalid(f"Signature expired: {timestamp} is now earlier than {earliest} ({now:{_TIME}} - 5 min.)")
        if signed > now + TOLERANCE:
            words = f"Signature not yet current: {timestamp} is still later than {latest}"
            raise _invalid(f"{words} ({now:{_TIME}} + 5 min.)")

    def _judge_signature(self, received: Received, claim: Claim, key: AwsKey, timestamp: str) -> None:
        signer = SigV4Auth(Credentials(key.access_key, key.secret_key, key.session_token), self.service, self.region)
        request = _request(received, claim, timestamp)
        canonical = signer.canonical_request(request)
        to_sign = signer.string_to_sign(request, canonical)
        if not hmac.compare_digest(signer.signature(to_sign, request), claim.signature):
            raise _invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details.\n\n"
                f"The Canonical String for this request should have been\n'{canonical}'\n\n"
                f"The String-to-Sign should have been\n'{to_sign}'\n"
            )


class Claim(msgspec.Struct, frozen=True):
    """What an `authorization` header says."""

    access_key: str
    scope: tuple[str, str, str, str]
    """Date, region, service, `aws4_request`."""
    signed: frozenset[str]
    signature: str


def _claim(received: Received) -> Claim:
    values = received.values("authorization")
    if not values:
        raise aws_refused("MissingAuthenticationTokenException", "Missing Authentication Token")
    scheme, _, rest = b", ".join(values).decode("latin-1").partition(" ")
    given = dict(_PARAMETER.findall(rest))
    if scheme != _ALGORITHM:
        raise _incomplete(f"Unsupported AWS 'algorithm': '{scheme}'")
    for name in ("Credential", "Signature", "SignedHeaders"):
        if not given.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    parts = given["Credential"].split("/")
    if len(parts) != 5:
        words = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"
        raise _incomplete(f"{words}, got '{given['Credential']}'")
    access_key, date, region, service, end = parts
    signed = frozenset(given["SignedHeaders"].split(";"))
    return Claim(access_key, (date, region, service, end), signed, given["Signature"])


def _invalid(words: str) -> AwsRefused:
    return aws_refused("InvalidSignatureException", words)


def _incomplete(words: str) -> AwsRefused:
    return aws_refused("IncompleteSignatureException", words)


def _timestamp(received: Received) -> str:
    value = (received.header("x-amz-date") or b"").decode("latin-1")
    try:
        datetime.strptime(value, _TIME)  # noqa: DTZ007 (only looked at)
    except ValueError:
        raise _incomplete(f"Date must be in ISO-8601 'basic format'. Got '{value}'.") from None
    return value


def _judge_signed_headers(received: Received, claim: Claim) -> None:
    """`host` and everything of AWS's own that came must be signed, and what is signed must have come."""
    came = {name.decode("latin-1").lower() for name, _ in received.headers}
    needed = {"host", *(name for name in came if name.startswith("x-amz-"))}
    for name in sorted(needed - claim.signed):
        raise _invalid(f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    for name in sorted(claim.signed - came):
        raise _invalid(f"The signed header '{name}' did not come with the request.")
    hashed = received.header("x-amz-content-sha256")
    if hashed is not None and hashed.decode("latin-1") != hashlib.sha256(received.body).hexdigest():
        raise _invalid("The value passed in as x-amz-content-sha256 does not match the computed payload hash.")


def _judge_token(received: Received, key: AwsKey) -> None:
    value = received.header("x-amz-security-token")
    if value != (key.session_token.encode() if key.session_token else None):
        raise aws_refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    if key.expired:
        raise aws_refused("ExpiredTokenException", "The security token included in the request is expired")


def _request(received: Received, claim: Claim, timestamp: str) -> AWSRequest:
    host = (received.header("host") or b"").decode("latin-1")
    url = f"http://{host}{received.target.decode('latin-1')}"
    request = AWSRequest(method=received.method.decode("latin-1"), url=url, data=received.body)
    for name, value in received.headers:
        written = name.decode("latin-1").lower()
        if written in claim.signed:
            request.headers.add_header(written, value.decode("utf-8", "replace"))
    request.context["timestamp"] = timestamp
    return request
