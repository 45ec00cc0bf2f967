"""An issuer of tokens on this machine: real keys, real signatures, its documents over a real socket."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry, serialize_compact

from bud_asgi.auth import Issuer, JwksTiming, Jwt
from bud_asgi.testing import Received, Reply, StandIn, error, json_body

AUDIENCE = "bud"
DISCOVERY = "/.well-known/openid-configuration"
KEY_SET = "/keys"

_UNCHECKED = JWSRegistry(strict_check_header=False, algorithms=list(JWSRegistry.algorithms))
_UNCHECKED.max_header_length = _UNCHECKED.max_payload_length = 1 << 20


@cache
def private_key(kid: str, kind: str = "RSA") -> Key:
    """A private key, the same for the same arguments."""
    if kind == "RSA":
        return RSAKey.generate_key(2048, {"kid": kid})
    if kind == "oct":
        return OctKey.generate_key(256, {"kid": kid})
    return OKPKey.generate_key(kind, {"kid": kid}) if kind == "Ed25519" else ECKey.generate_key(kind, {"kid": kid})


def encoded(value: object) -> str:
    """A part of a token: JSON, or bytes as they are, in base64url."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class LocalIssuer:
    """The documents of an issuer, and the tokens that it signs. `keys` are those that it publishes at the moment."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.keys: list[Key] = [private_key("first")]
        self.url = stand_in.base_url
        self.discovery: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}{KEY_SET}"}
        self.more_keys: list[Any] = []
        stand_in.always(self._answer)

    def _answer(self, received: Received) -> Reply:
        if received.path.decode() == DISCOVERY:
            return json_body(self.discovery)
        if received.path.decode() == KEY_SET:
            return json_body({"keys": [*(key.as_dict(private=False) for key in self.keys), *self.more_keys]})
        return error(404, "not_found_error", received.path.decode())

    def fetches(self, path: str = KEY_SET) -> int:
        """How often a document has been requested."""
        return sum(request.path.decode() == path for request in self.stand_in.requests)

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of a valid token; `None` leaves one out."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "nbf": now, "exp": now + 600}
        return {name: value for name, value in {**usual, **more}.items() if value is not None}

    def token(self, claims: Mapping[str, Any] | None = None, *, key: Key | None = None, **header: Any) -> str:
        """A signed token. `header` replaces fields of the usual header; `None` leaves one out."""
        key = key or self.keys[0]
        usual = {"alg": "RS256", "kid": key.kid, "typ": "JWT", **header}
        fields = {name: value for name, value in usual.items() if value is not None}
        payload = json.dumps(self.claims() if claims is None else claims)
        return serialize_compact(fields, payload, key, registry=_UNCHECKED)

    def issuer(self, **options: Any) -> Issuer:
        """The configuration for it."""
        return Issuer(url=self.url, audience=AUDIENCE, **options)

    def backend(self, *, timing: JwksTiming | None = None, **options: Any) -> Jwt:
        """A backend that accepts its tokens."""
        return Jwt(self.issuer(**options), timing=timing)


@asynccontextmanager
async def local_issuer() -> AsyncGenerator[LocalIssuer]:
    """Serve an issuer in the running loop."""
    async with StandIn(strict=False) as stand_in:
        yield LocalIssuer(stand_in)
