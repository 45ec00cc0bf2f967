"""Signatures and claims of tokens, verified by joserfc with the keys that the issuer has published.

Only this module imports joserfc, and it is imported when a `Jwt` is made: nothing else needs the extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import CompactSignature, JWSRegistry, validate_compact
from joserfc.jwt import JWTClaimsRegistry
from starlette.authentication import AuthenticationError

from bud_asgi.auth.jwt.issuer import Issuer
from bud_asgi.auth.jwt.tokens import Token
from bud_asgi.providers.refresher import FetchFailed

MIN_RSA_BITS = 2048
"""RFC 7518, 3.3: a smaller key must not be used."""

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_IMPORTS: Mapping[object, Callable[[dict[str, Any]], Key]] = {
    "RSA": RSAKey.import_key,
    "EC": ECKey.import_key,
    "OKP": OKPKey.import_key,
}


class SigningKeys:
    """The public keys of an issuer, from its JWK set (RFC 7517, 5). Equal to another of the same keys.

    Keys that are not for signatures, or symmetric, private, too short or not understood, are left out. Raises
    `FetchFailed` if none is left.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        published = document.get("keys")
        self._published = cast("list[object]", published) if isinstance(published, list) else []
        self._by_id = dict(_read_keys(self._published))
        if not self._by_id:
            raise FetchFailed("the JWK set has no key for signatures")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKeys) and self._published == other._published

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def find(self, header: Mapping[str, Any]) -> Key | None:
        """The key that the header of a token names. Without a name, the only key of the type that it needs."""
        key_type = _KEY_TYPES[header["alg"][:2]]
        if (id_ := header.get("kid")) is not None:
            return self._by_id.get((id_, key_type))
        keys = [key for (_, other), key in self._by_id.items() if other == key_type]
        return keys[0] if len(keys) == 1 else None


def _read_keys(published: list[object]) -> Iterator[tuple[tuple[object, str], Key]]:
    for position, entry in enumerate(published):
        jwk = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        make = _IMPORTS.get(jwk.get("kty"))
        if make is None or "d" in jwk or jwk.get("use", "sig") != "sig":
            continue
        if jwk["kty"] == "RSA" and len(str(jwk.get("n"))) * 6 < MIN_RSA_BITS:  # importing it would print a warning
            continue
        try:
            key = make(jwk)
        except (JoseError, ValueError, TypeError):
            continue
        yield (jwk.get("kid", position), jwk["kty"]), key


class Verifier:
    """Verifies the tokens of one issuer. `clock` returns seconds since the epoch."""

    def __init__(self, issuer: Issuer, clock: Callable[[], float]) -> None:
        self._signatures = JWSRegistry(algorithms=issuer.algorithms, strict_check_header=False)
        known = JWSRegistry.default_header_registry  # `check_header` has refused what else would matter
        self._signatures.header_registry = {name: known[name] for name in ("alg", "kid", "typ")}
        self._claims = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=int(issuer.leeway),
            iss={"essential": True, "value": issuer.url},
            aud={"essential": True, "values": list(issuer.audience)},
            exp={"essential": True},
        )

    def verify(self, token: Token, key: Key) -> None:
        """Check the signature, then `iss`, `aud`, `exp`, `nbf` and `iat`. Raises `AuthenticationError`.

        The message gives a reason only if the signature is valid.
        """
        signed = CompactSignature(dict(token.header), b"")
        header, payload, signature = token.parts
        signed.segments = {"header": header, "payload": payload, "signature": signature}
        try:
            is_right = validate_compact(signed, key, registry=self._signatures)
        except (JoseError, ValueError) as error:
            raise AuthenticationError from error
        if not is_right:
            raise AuthenticationError
        try:
            self._claims.validate(token.claims)
        except ClaimError as error:
            raise AuthenticationError(_reason(error)) from error


def _reason(error: ClaimError) -> str:
    if isinstance(error, ExpiredTokenError):
        return "The bearer token has expired"
    if error.claim in {"nbf", "iat"}:
        return "The bearer token is not valid yet"
    return "The bearer token is for another audience" if error.claim == "aud" else ""
