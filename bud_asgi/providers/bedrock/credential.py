"""The credential for AWS: a signature with keys from any source that AWS defines, or a bearer token.

Wire facts: vendor pages "Create a signed AWS API request", "Amazon Bedrock API keys", "AssumeRole".
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from inspect import iscoroutinefunction

from bud_asgi.extras import require
from bud_asgi.http import HttpRequest
from bud_asgi.http.wire import content_length
from bud_asgi.options import OptionError, check_name, check_text, check_type
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.bedrock.chain import HostCredentials, Role, Source, fetch_keys
from bud_asgi.providers.bedrock.sigv4 import Keys, Signer, payload_hash
from bud_asgi.providers.refresher import Expiring, Refresher, RefreshStatus, RefreshTiming
from bud_asgi.secret import AnySecret, Secret, redact, secret_option

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
"""The environment variable with a Bedrock API key, which the AWS SDKs read too."""

HASH_IN_THREAD_OVER = 1 << 20
"""Bytes of body above which the hash is computed in a thread: it takes 0.6 ms a megabyte and releases the GIL."""

_PATTERNS = {
    "region": (re.compile(r"[a-z0-9-]{1,63}"), 'an AWS region, such as "us-east-1"'),
    "service": (re.compile(r"[a-z0-9-]{1,63}"), 'the signing name of an AWS service, such as "bedrock"'),
    "profile": (re.compile(r".+"), "the name of an AWS profile"),
    "role_arn": (
        re.compile(r"arn:[a-z-]+:iam::[0-9]{12}:role/[!-~]{1,576}"),
        'the ARN of a role, such as "arn:aws:iam::123456789012:role/gateway"',
    ),
    "external_id": (re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII), "the external id that the role requires"),
    "session_name": (re.compile(r"[\w+=,.@-]{2,64}", re.ASCII), "2 to 64 letters, digits and =,.@+_-"),
}
_NEEDS = {
    "access_key": "secret_key",
    "secret_key": "access_key",
    "session_token": "access_key",
    "external_id": "role_arn",
    "session_name": "role_arn",
}


class AwsCredential:
    """Authenticates the gateway to one AWS service in one region. One object serves any number of event loops.

    `service` is the name that requests are signed for (`bedrock`, `bedrock-mantle`, `aws-external-anthropic`; any but
    S3, which signs in its own way), `region` the region of the endpoint, `name` what log lines call the credential.
    The keys come from one of these:

    - AWS's own credential chain, the default: environment, profile, SSO, shared files, `credential_process`, web
      identity, container, instance metadata. A Bedrock service uses the bearer token in `AWS_BEARER_TOKEN_BEDROCK`
      instead, if that variable is set when the credential is built.
    - `profile`: the chain for that profile, ignoring keys in the environment.
    - `access_key` and `secret_key`, with `session_token` if they are temporary.
    - `role_arn`, with `external_id` and `session_name`: that role, assumed with keys from any source above.
    - `credentials`: a botocore or boto3 object of the host, such as `boto3.Session().get_credentials()`. It is called
      in a thread, once a minute while there are requests, and refreshes itself.

    `bearer_token`, a Bedrock API key, is sent as it is instead of a signature.

    Keys that expire are refreshed before they do, while requests continue with the current ones; a request waits, for
    ten seconds at most, only if no valid keys are held. Raises `OptionError` for options that are invalid or
    contradict each other, and `MissingExtra` if the source of the keys needs botocore and it is not installed.
    """

    is_operators = True

    def __init__(  # noqa: PLR0913 - one for each of AWS's own settings
        self,
        *,
        region: str,
        service: str = "bedrock",
        name: str | None = None,
        profile: str | None = None,
        access_key: AnySecret | None = None,
        secret_key: AnySecret | None = None,
        session_token: AnySecret | None = None,
        role_arn: str | None = None,
        external_id: str | None = None,
        session_name: str | None = None,
        bearer_token: AnySecret | None = None,
        credentials: HostCredentials | None = None,
        timing: RefreshTiming | None = None,
    ) -> None:
        sources = _given(
            profile=profile,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            role_arn=role_arn,
            external_id=external_id,
            session_name=session_name,
            bearer_token=bearer_token,
        )
        _check_sources(region, service, sources, credentials)
        _check_own(name, timing)
        self.region, self.service = region, service
        is_default = not sources and credentials is None
        self._bearer = _environment_token(service) if is_default else secret_option("bearer_token", bearer_token)
        self._keys = keys = _keys(access_key, secret_key, session_token)
        role = Role(role_arn, session_name or "bud_asgi", external_id) if role_arn else None
        self._source = Source(region=region, profile=profile, keys=keys, role=role, host=credentials)
        self._fixed = Signer(keys, service, region) if keys and not role else None
        if self._bearer is None and self._fixed is None and credentials is None:
            require("Bedrock" if service == "bedrock" else f"The AWS service {service}", "botocore", "bedrock")
        self._timing = timing or RefreshTiming()
        self._refresher = Refresher(self._fetch, self.redact, f'AWS credentials for "{name or service}"', self._timing)

    def __repr__(self) -> str:
        way = "bearer token" if self._bearer else str(self._source)
        return f"AwsCredential(region={self.region!r}, service={self.service!r}, {way})"

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Return the request with a signature over its final bytes, or with the bearer token.

        Raises `UpstreamUnavailable` if no valid keys could be fetched.
        """
        if self._bearer is not None:
            return request.with_headers(((b"authorization", b"Bearer " + self._bearer.reveal().encode()),))
        body = request.body
        is_large = content_length(body) > HASH_IN_THREAD_OVER
        body_hash = await asyncio.to_thread(payload_hash, body) if is_large else payload_hash(body)
        signer = self._fixed or await self._refresher.value()
        return request.with_headers(signer.sign(request, body_hash, _timestamp(int(self._timing.clock()))))

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return whether there are other keys than those that signed `refused`, fetching them if necessary.

        Many callers share one fetch. The current keys stay if it fails.
        """
        if self._bearer is not None or self._fixed is not None:
            return False
        return await self._refresher.replace(lambda signer: signer.has_signed(refused))

    def status(self) -> RefreshStatus | None:
        """The state of the fetched keys; `None` for fixed ones, which do not expire."""
        return None if self._bearer is not None or self._fixed is not None else self._refresher.status()

    def redact(self, text: str) -> str:
        """Replace the keys and tokens in a text, including those from before the last refresh."""
        secrets = self._own_secrets
        for signer in self._refresher.recent:
            secrets += signer.secrets
        return redact(text, [secret.reveal() for secret in secrets])

    @cached_property
    def _own_secrets(self) -> tuple[Secret, ...]:
        keys = () if self._keys is None else self._keys.secrets()
        return keys if self._bearer is None else (*keys, self._bearer)

    async def _fetch(self) -> Expiring[Signer]:
        keys, expires_at = await fetch_keys(self._source, self._timing)
        return Expiring(Signer(keys, self.service, self.region), expires_at)


@lru_cache(maxsize=4)
def _timestamp(second: int) -> bytes:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()


def _environment_token(service: str) -> Secret | None:
    variable = os.environ.get(BEARER_VARIABLE) if service.startswith("bedrock") else None
    return secret_option(BEARER_VARIABLE, variable or None)


def _check_sources(region: str, service: str, sources: Mapping[str, object], credentials: object) -> None:
    _check_patterns({"region": region, "service": service, **sources})
    _check_host_credentials(credentials, set(sources))
    _check_together(set(sources))


def _check_own(name: object, timing: object) -> None:
    if name is not None:
        check_name("name", name)
    if timing is not None:
        check_type("timing", timing, RefreshTiming, "a RefreshTiming")


def _given(**options: AnySecret | None) -> dict[str, AnySecret]:
    return {name: value for name, value in options.items() if value is not None}


def _check_patterns(options: Mapping[str, object]) -> None:
    for name, (pattern, expected) in _PATTERNS.items():
        if name in options:
            value = options[name]
            pasted = name == "role_arn" and not re.match(r"arn:|[a-z]+$", str(value))
            check_text(name, value, expected, pattern, hide=pasted or name == "external_id")


def _check_together(given: set[str]) -> None:
    others = sorted(given - {"bearer_token"})
    if "bearer_token" in given and others:
        raise OptionError("bearer_token", f"cannot be combined with {', '.join(others)}", other=others[0])
    keys = sorted(given & {"access_key", "secret_key", "session_token"})
    if "profile" in given and keys:
        raise OptionError("profile", f"cannot be combined with {', '.join(keys)}", other=keys[0])
    for name, needed in _NEEDS.items():
        if name in given and needed not in given:
            raise OptionError(name, f"requires {needed}", other=needed)


def _check_host_credentials(credentials: object, others: set[str]) -> None:
    if credentials is None:
        return
    if others:
        raise OptionError("credentials", f"cannot be combined with {', '.join(sorted(others))}")
    get: object = getattr(credentials, "get_frozen_credentials", None)
    if not callable(get):
        raise OptionError("credentials", "expected an object with get_frozen_credentials(), as botocore and boto3 have")
    if iscoroutinefunction(get):
        raise OptionError("credentials", "expected an object of botocore or boto3, not of aiobotocore")


def _keys(access_key: AnySecret | None, secret_key: AnySecret | None, session_token: AnySecret | None) -> Keys | None:
    access, secret = secret_option("access_key", access_key), secret_option("secret_key", secret_key)
    if access is None or secret is None:
        return None
    return Keys(access, secret, secret_option("session_token", session_token))
