"""What proves the gateway to AWS: a signature with keys from wherever AWS keeps them, or a bearer token.

Wire facts: vendor pages "Create a signed AWS API request", "Amazon Bedrock API keys", "AssumeRole".
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache

from bud_asgi.http import HttpRequest
from bud_asgi.http.wire import content_length
from bud_asgi.options import OptionError, check_text
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.bedrock.chain import Role, Source, fetch_keys
from bud_asgi.providers.bedrock.sigv4 import Keys, Signer, payload_hash
from bud_asgi.providers.refresher import Expiring, Refresher
from bud_asgi.secret import AnySecret, Secret, secret_option

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
"""The environment variable with a Bedrock API key, as AWS's own libraries read it."""

THREAD_OVER = 1 << 20
"""Bytes of body past which the hash is made in a thread: 0.6 ms a megabyte, without the interpreter's lock."""

_FORMS = {
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
    """Proves the gateway to one service of AWS in one region. One object serves any number of event loops.

    `service` is the name that signatures are made for (`bedrock`, `bedrock-mantle`, `aws-external-anthropic`; any but
    S3, which has rules of its own), `region` is that of the endpoint. Keys come from

    - AWS's own chain, if nothing else is said: environment, profile, SSO, shared files, `credential_process`, web
      identity, container, instance metadata. A service of Bedrock is given the bearer token in
      `AWS_BEARER_TOKEN_BEDROCK` instead, if there is one now.
    - `profile`: the same from that profile on, whatever keys the environment has.
    - `access_key` and `secret_key`, with `session_token` where they are temporary.
    - `role_arn`, with `external_id` and `session_name`: that role, assumed with the keys of any way above.

    `bearer_token`, a Bedrock API key, goes upstream as it is instead of a signature.

    Keys that expire are renewed before they do, while requests go on with the old ones; only who comes when none are
    valid waits, ten seconds at most. Raises `OptionError`.
    """

    is_operators = True

    def __init__(  # noqa: PLR0913 - one for each thing that AWS knows
        self,
        *,
        region: str,
        service: str = "bedrock",
        profile: str | None = None,
        access_key: AnySecret | None = None,
        secret_key: AnySecret | None = None,
        session_token: AnySecret | None = None,
        role_arn: str | None = None,
        external_id: str | None = None,
        session_name: str | None = None,
        bearer_token: AnySecret | None = None,
    ) -> None:
        _check_forms({"region": region, "service": service})
        given: dict[str, AnySecret | None] = {
            "profile": profile,
            "access_key": access_key,
            "secret_key": secret_key,
            "session_token": session_token,
            "role_arn": role_arn,
            "external_id": external_id,
            "session_name": session_name,
            "bearer_token": bearer_token,
        }
        _check_forms({name: value for name, value in given.items() if value is not None})
        _check_together({name for name, value in given.items() if value is not None})
        self.region = region
        self.service = service
        self._bearer = secret_option("bearer_token", bearer_token)
        if not any(given.values()) and service.startswith("bedrock"):
            self._bearer = secret_option(BEARER_VARIABLE, os.environ.get(BEARER_VARIABLE) or None)
        self._keys = _keys(access_key, secret_key, session_token)
        role = Role(role_arn, session_name or "bud_asgi", external_id) if role_arn else None
        self._source = Source(region=region, profile=profile, keys=self._keys, role=role)
        self._fixed = Signer(self._keys, service, region) if self._keys and not role else None
        self._renewal = Refresher(self._fetch, self.redact, "AWS credentials")

    def __repr__(self) -> str:
        way = "bearer token" if self._bearer else str(self._source)
        return f"AwsCredential(region={self.region!r}, service={self.service!r}, {way})"

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with a signature over its final bytes, or with the bearer token.

        Raises `UpstreamUnavailable` when there are no keys to be had.
        """
        if self._bearer is not None:
            return request.with_headers(((b"authorization", b"Bearer " + self._bearer.reveal().encode()),))
        body = request.body
        large = content_length(body) > THREAD_OVER
        hashed = await asyncio.to_thread(payload_hash, body) if large else payload_hash(body)
        signer = self._fixed or await self._renewal.value()
        return request.with_headers(signer.sign(request, hashed, _timestamp(int(time.time()))))

    async def refresh(self) -> bool:
        """Ask the source of the keys again, once for all who want that now; whether it gave others.

        The keys in use stay when it fails.
        """
        return self._bearer is None and self._fixed is None and await self._renewal.renew()

    def redact(self, text: str) -> str:
        """A text with our keys and tokens blotted out, those before the last renewal too."""
        for secret in self._known():
            text = secret.redact(text)
        return text

    async def _fetch(self) -> Expiring[Signer]:
        keys, expires = await fetch_keys(self._source)
        return Expiring(Signer(keys, self.service, self.region), expires)

    def _known(self) -> Iterator[Secret]:
        if self._bearer is not None:
            yield self._bearer
        for keys in (self._keys, *(signer.keys for signer in self._renewal.recent)):
            if keys is not None:
                yield from keys.secrets()


@lru_cache(maxsize=4)
def _timestamp(second: int) -> bytes:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()


def _check_forms(options: Mapping[str, object]) -> None:
    for name, (form, expected) in _FORMS.items():
        if name in options:
            check_text(name, options[name], expected, form, hide=name == "external_id")


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


def _keys(access_key: AnySecret | None, secret_key: AnySecret | None, session_token: AnySecret | None) -> Keys | None:
    access, secret = secret_option("access_key", access_key), secret_option("secret_key", secret_key)
    if access is None or secret is None:
        return None
    return Keys(access, secret, secret_option("session_token", session_token))
