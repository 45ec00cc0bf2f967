"""Tokens: which are accepted, and the classic attacks, by name."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import Key, OctKey, RSAKey
from joserfc.jws import JWSRegistry
from support.asgi import Behind, Sent, call, http_scope
from support.counts import examples
from support.issuer import AUDIENCE, LocalIssuer, encoded, local_issuer, private_key

from bud_asgi.auth import AuthMiddleware, Jwt
from bud_asgi.auth.jwt.tokens import MAX_TOKEN, parse_token
from bud_asgi.exchange import Principal

HOUR = 3600


async def authenticate(backend: Jwt, token: str) -> tuple[Sent, Behind]:
    """What a request with this bearer token gets."""
    behind = Behind()
    sent = await call(
        AuthMiddleware(behind, backend=backend), http_scope([(b"authorization", b"Bearer " + token.encode())])
    )
    return sent, behind


async def test_a_token_of_the_issuer_is_accepted(issuer: LocalIssuer) -> None:
    sent, behind = await authenticate(issuer.backend(), issuer.token())
    assert sent.status == 200
    assert behind.principal == Principal(id=f"{issuer.url.removeprefix('http://')}:ann")


async def test_a_token_may_be_sent_as_an_x_api_key_too(issuer: LocalIssuer) -> None:
    scope = http_scope([(b"x-api-key", issuer.token().encode())])
    assert (await call(AuthMiddleware(Behind(), backend=issuer.backend()), scope)).status == 200


Make = Callable[[LocalIssuer], str]

ACCEPTED: dict[str, Make] = {
    "no type": lambda issuer: issuer.token(typ=None),
    "an access token's type": lambda issuer: issuer.token(typ="at+jwt"),
    "a type in another case, with its prefix": lambda issuer: issuer.token(typ="application/AT+JWT"),
    "our audience among several": lambda issuer: issuer.token(issuer.claims(aud=["other", AUDIENCE])),
    "expired within the leeway": lambda issuer: issuer.token(issuer.claims(exp=int(time.time()) - 30)),
    "not valid yet, within the leeway": lambda issuer: issuer.token(issuer.claims(nbf=int(time.time()) + 30)),
    "fractions of seconds": lambda issuer: issuer.token(issuer.claims(exp=time.time() + 1.5)),
    "no nbf and no iat": lambda issuer: issuer.token(issuer.claims(nbf=None, iat=None)),
    "no kid, where there is one key": lambda issuer: issuer.token(kid=None),
    "a header that is not registered": lambda issuer: issuer.token(nonce="x"),
    "many claims": lambda issuer: issuer.token(issuer.claims(groups=[f"group-{number}" for number in range(500)])),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_valid_tokens_are_accepted(issuer: LocalIssuer, make: Make) -> None:
    sent, behind = await authenticate(issuer.backend(), make(issuer))
    assert (sent.status, sent.body) == (200, b"ok")
    assert behind.principal.id.endswith(":ann")


def evil() -> Key:
    """A key of another's. RSA keys are made when they are needed: every worker imports this."""
    return private_key("evil")


def evil_jwk() -> dict[str, Any]:
    return {**evil().as_dict(private=False), "kid": "first", "use": "sig"}


def with_parts(token: str, *, header: object = None, claims: object = None, signature: str | None = None) -> str:
    """A token with another part, and the rest of the original."""
    parts = token.split(".")
    parts[0] = parts[0] if header is None else encoded(header)
    parts[1] = parts[1] if claims is None else encoded(claims)
    parts[2] = parts[2] if signature is None else signature
    return ".".join(parts)


def hmac_with(issuer: LocalIssuer, secret: bytes, algorithm: str = "HS256") -> str:
    """A token with an HMAC: the public key as its secret is the attack of RFC 8725, 2.1."""
    message = f"{encoded({'alg': algorithm, 'kid': 'first', 'typ': 'JWT'})}.{encoded(issuer.claims())}"
    return f"{message}.{encoded(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"


def unsigned(issuer: LocalIssuer, algorithm: str) -> str:
    return f"{encoded({'alg': algorithm, 'kid': 'first', 'typ': 'JWT'})}.{encoded(issuer.claims())}."


def encrypted(issuer: LocalIssuer) -> str:
    header = {"alg": "A128KW", "enc": "A128GCM", "cty": "JWT"}
    return jwe.encrypt_compact(header, issuer.token(), OctKey.generate_key(128))


def pem(issuer: LocalIssuer) -> bytes:
    return RSAKey.import_key(issuer.keys[0].as_dict(private=False)).as_pem()


def jwk(issuer: LocalIssuer) -> bytes:
    return json.dumps(issuer.keys[0].as_dict(private=False)).encode()


def signed_text(issuer: LocalIssuer, claims: str, header: str = '{"alg":"RS256","kid":"first"}') -> str:
    """A token of the issuer's over JSON as it is written here."""
    message = f"{encoded(header.encode())}.{encoded(claims.encode())}"
    return f"{message}.{encoded(JWSRegistry.algorithms['RS256'].sign(message.encode(), issuer.keys[0]))}"


def twice(issuer: LocalIssuer, name: str, value: object) -> str:
    return json.dumps(issuer.claims())[:-1] + f", {json.dumps(name)}: {json.dumps(value)}" + "}"


INVALID, EXPIRED = "Invalid bearer token", "The bearer token has expired"
EARLY, AUDIENCE_WORDS = "The bearer token is not valid yet", "The bearer token is for another audience"
CLAIMS_WORDS = "The bearer token does not have the required claims"
HOSTILE: dict[str, tuple[Make, str]] = {
    "alg none": (lambda issuer: unsigned(issuer, "none"), INVALID),
    "alg none in another case": (lambda issuer: unsigned(issuer, "nOnE"), INVALID),
    "alg none over a real signature": (
        lambda issuer: with_parts(issuer.token(), header={"alg": "none", "kid": "first"}),
        INVALID,
    ),
    "no signature": (lambda issuer: unsigned(issuer, "RS256"), INVALID),
    "HS256 with the public key as PEM": (lambda issuer: hmac_with(issuer, pem(issuer)), INVALID),
    "HS256 with the public key as JWK": (lambda issuer: hmac_with(issuer, jwk(issuer)), INVALID),
    "HS256 with an empty secret": (lambda issuer: hmac_with(issuer, b"\0"), INVALID),
    "an HMAC that is called RS256": (lambda issuer: hmac_with(issuer, pem(issuer), "RS256"), INVALID),
    "no alg": (lambda issuer: with_parts(issuer.token(), header={"kid": "first"}), INVALID),
    "an alg that is a list": (lambda issuer: with_parts(issuer.token(), header={"alg": ["RS256"]}), INVALID),
    "an algorithm that is not allowed": (lambda issuer: issuer.token(alg="RS512"), INVALID),
    "an algorithm for another kind of key": (
        lambda issuer: with_parts(issuer.token(), header={"alg": "ES256", "kid": "first"}),
        INVALID,
    ),
    "kid injection: a path": (lambda issuer: issuer.token(key=evil(), kid="../../dev/null"), INVALID),
    "kid injection: SQL": (lambda issuer: issuer.token(key=evil(), kid="x' UNION SELECT 'secret"), INVALID),
    "kid injection: a URL": (lambda issuer: issuer.token(key=evil(), kid=f"{issuer.url}/evil"), INVALID),
    "a kid that is a number": (lambda issuer: with_parts(issuer.token(), header={"alg": "RS256", "kid": 0}), INVALID),
    "a kid that is null": (lambda issuer: with_parts(issuer.token(), header={"alg": "RS256", "kid": None}), INVALID),
    "the kid of the issuer's key": (lambda issuer: issuer.token(key=evil(), kid="first"), INVALID),
    "a jwk in the header": (lambda issuer: issuer.token(key=evil(), kid="first", jwk=evil_jwk()), INVALID),
    "a jku in the header": (lambda issuer: issuer.token(key=evil(), kid="first", jku=f"{issuer.url}/evil"), INVALID),
    "an x5u in the header": (lambda issuer: issuer.token(key=evil(), kid="first", x5u=f"{issuer.url}/evil"), INVALID),
    "an x5c in the header": (lambda issuer: issuer.token(key=evil(), kid="first", x5c=["MIIB"]), INVALID),
    "crit with an unknown extension": (
        lambda issuer: signed_text(
            issuer, json.dumps(issuer.claims()), '{"alg":"RS256","kid":"first","crit":["x"],"x":1}'
        ),
        INVALID,
    ),
    "crit with b64": (lambda issuer: issuer.token(crit=["b64"], b64=True), INVALID),
    "an empty crit": (lambda issuer: issuer.token(crit=[]), INVALID),
    "b64 without crit": (lambda issuer: with_parts(issuer.token(), header={"alg": "RS256", "b64": False}), INVALID),
    "typ confusion: a logout token": (lambda issuer: issuer.token(typ="logout+jwt"), INVALID),
    "typ confusion: a DPoP proof": (lambda issuer: issuer.token(typ="dpop+jwt"), INVALID),
    "a typ that is a list": (lambda issuer: with_parts(issuer.token(), header={"alg": "RS256", "typ": []}), INVALID),
    "expired": (lambda issuer: issuer.token(issuer.claims(exp=int(time.time()) - HOUR)), EXPIRED),
    "expired, by someone else": (lambda issuer: issuer.token(issuer.claims(exp=1), key=evil(), kid="first"), INVALID),
    "no exp": (lambda issuer: issuer.token(issuer.claims(exp=None)), INVALID),
    "an exp that is text": (lambda issuer: issuer.token(issuer.claims(exp="2099")), INVALID),
    "an exp that is true": (lambda issuer: issuer.token(issuer.claims(exp=True)), INVALID),
    "an exp that is not a number": (lambda issuer: signed_text(issuer, with_expiry(issuer, "NaN")), INVALID),
    "an exp without end": (lambda issuer: signed_text(issuer, with_expiry(issuer, "Infinity")), INVALID),
    "an exp that overflows": (lambda issuer: signed_text(issuer, with_expiry(issuer, "1e999")), INVALID),
    "not valid yet": (lambda issuer: issuer.token(issuer.claims(nbf=int(time.time()) + HOUR)), EARLY),
    "issued in the future": (lambda issuer: issuer.token(issuer.claims(iat=int(time.time()) + HOUR)), EARLY),
    "another audience": (lambda issuer: issuer.token(issuer.claims(aud="other")), AUDIENCE_WORDS),
    "an audience that begins alike": (lambda issuer: issuer.token(issuer.claims(aud=f"{AUDIENCE}2")), AUDIENCE_WORDS),
    "no audience": (lambda issuer: issuer.token(issuer.claims(aud=None)), AUDIENCE_WORDS),
    "no audience in the list": (lambda issuer: issuer.token(issuer.claims(aud=[])), AUDIENCE_WORDS),
    "an audience that is an object": (lambda issuer: issuer.token(issuer.claims(aud={AUDIENCE: 1})), AUDIENCE_WORDS),
    "another issuer": (lambda issuer: issuer.token(issuer.claims(iss="https://evil.example")), INVALID),
    "no issuer": (lambda issuer: issuer.token(issuer.claims(iss=None)), INVALID),
    "an issuer with a slash more": (lambda issuer: issuer.token(issuer.claims(iss=f"{issuer.url}/")), INVALID),
    "two issuers": (lambda issuer: issuer.token(issuer.claims(iss=[issuer.url])), INVALID),
    "no subject": (lambda issuer: issuer.token(issuer.claims(sub=None)), CLAIMS_WORDS),
    "an empty subject": (lambda issuer: issuer.token(issuer.claims(sub="")), CLAIMS_WORDS),
    "a subject of 300 characters": (lambda issuer: issuer.token(issuer.claims(sub="a" * 300)), CLAIMS_WORDS),
    "half of a surrogate pair": (lambda issuer: issuer.token(issuer.claims(sub="\ud800")), CLAIMS_WORDS),
    "oversized": (lambda issuer: issuer.token(issuer.claims(pad="x" * MAX_TOKEN)), INVALID),
    "a claim that occurs twice": (lambda issuer: signed_text(issuer, twice(issuer, "sub", "admin")), INVALID),
    "a claim that occurs twice, once escaped": (
        lambda issuer: signed_text(issuer, twice(issuer, "sub", "admin").replace('"sub": "admin"', '"s\\u0075b": "a"')),
        INVALID,
    ),
    "an issuer that occurs twice": (lambda issuer: signed_text(issuer, twice(issuer, "iss", issuer.url)), INVALID),
    "a name that occurs twice further inside": (
        lambda issuer: signed_text(issuer, json.dumps(issuer.claims())[:-1] + ', "a": {"b": 1, "b": 2}}'),
        INVALID,
    ),
    "an alg that occurs twice": (
        lambda issuer: signed_text(issuer, json.dumps(issuer.claims()), '{"alg":"none","alg":"RS256","kid":"first"}'),
        INVALID,
    ),
    "a token in a token": (lambda issuer: issuer.token(issuer.claims(iss=None, token=issuer.token())), INVALID),
    "claims that are a list": (lambda issuer: signed_text(issuer, json.dumps([issuer.claims()])), INVALID),
    "claims that are not JSON": (lambda issuer: signed_text(issuer, "iss=x"), INVALID),
    "claims in UTF-16": (
        lambda issuer: with_parts(issuer.token(), claims=json.dumps(issuer.claims()).encode("utf-16")),
        INVALID,
    ),
    "JWE: an encrypted token": (encrypted, INVALID),
    "claims that were changed": (
        lambda issuer: with_parts(issuer.token(), claims=issuer.claims(sub="admin")),
        INVALID,
    ),
    "a header that was changed": (
        lambda issuer: with_parts(issuer.token(), header={"alg": "RS256", "kid": "first", "x": 1}),
        INVALID,
    ),
    "a signature that was cut": (lambda issuer: issuer.token()[:-4], INVALID),
    "a part more": (lambda issuer: f"{issuer.token()}.e30", INVALID),
    "padding": (lambda issuer: f"{issuer.token()}=", INVALID),
}


def with_expiry(issuer: LocalIssuer, expiry: str) -> str:
    """The claims with an `exp` as it is written here."""
    return json.dumps(issuer.claims(exp=None))[:-1] + f', "exp": {expiry}}}'


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_tokens_are_refused(issuer: LocalIssuer, make: Make, words: str) -> None:
    backend = issuer.backend()
    sent, behind = await authenticate(backend, make(issuer))
    assert sent.status == 401
    assert sent.error == {"type": "authentication_error", "message": words}
    assert behind.scopes == []
    assert issuer.fetches("/evil") == 0
    sent, _ = await authenticate(backend, make(issuer))  # neither is it remembered
    assert sent.status == 401


async def test_claims_that_are_nested_deeply_do_no_harm(issuer: LocalIssuer) -> None:
    text = json.dumps(issuer.claims())[:-1] + ', "a": ' + "[" * 5000 + "]" * 5000 + "}"
    sent, _ = await authenticate(issuer.backend(), signed_text(issuer, text))
    assert sent.status in {200, 401}  # Python 3.11 reads less deeply than later versions


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("RS384", "RSA"), ("PS256", "RSA"), ("ES256", "P-256"), ("ES384", "P-384"), ("Ed25519", "Ed25519")],
)
async def test_algorithms_can_be_allowed(issuer: LocalIssuer, algorithm: str, kind: str) -> None:
    issuer.keys = [private_key("k", kind)]
    token = issuer.token(alg=algorithm)
    assert (await authenticate(issuer.backend(algorithms=[algorithm]), token))[0].status == 200
    assert (await authenticate(issuer.backend(algorithms=["RS512"]), token))[0].status == 401


USELESS: dict[str, Callable[[], dict[str, Any]]] = {
    "a symmetric key": lambda: dict(private_key("k", "oct").as_dict(private=True)),
    "a private key": lambda: dict(private_key("k").as_dict(private=True)),
    "a key for encryption": lambda: {**private_key("k").as_dict(private=False), "use": "enc"},
    "a key for another algorithm": lambda: {**private_key("k").as_dict(private=False), "alg": "RS512"},
    "a key for other operations": lambda: {**private_key("k").as_dict(private=False), "key_ops": ["encrypt"]},
    "a key of 1024 bits": lambda: {**private_key("k").as_dict(private=False), "n": "x" * 171},
    "a curve that the algorithm does not have": lambda: dict(private_key("k", "P-384").as_dict(private=False)),
    "a key without a type": lambda: {"kid": "k"},
    "a key that is broken": lambda: {"kty": "RSA", "kid": "k", "n": "!" * 400, "e": "AQAB"},
}


@pytest.mark.parametrize("make", USELESS.values(), ids=USELESS.keys())
async def test_keys_that_are_not_for_signatures_are_not_used(
    issuer: LocalIssuer, make: Callable[[], dict[str, Any]]
) -> None:
    jwk = make()
    issuer.more_keys = ["no key", jwk]
    backend = issuer.backend()
    algorithm = "HS256" if jwk.get("kty") == "oct" else "ES384" if jwk.get("kty") == "EC" else "RS256"
    kind = {"HS256": "oct", "ES384": "P-384"}.get(algorithm, "RSA")
    for name in {algorithm, "RS256", "ES256"}:
        if name == algorithm:
            forged = issuer.token(key=private_key("k", kind), alg=name)
        else:
            forged = with_parts(issuer.token(), header={"alg": name, "kid": "k"})
        assert (await authenticate(backend, forged))[0].status == 401
    assert (await authenticate(backend, issuer.token()))[0].status == 200


async def test_without_a_kid_there_must_be_one_key_only(issuer: LocalIssuer) -> None:
    issuer.keys.append(private_key("second"))
    assert (await authenticate(issuer.backend(), issuer.token(kid=None)))[0].status == 401


async def test_each_issuer_verifies_its_own_tokens_only(issuer: LocalIssuer) -> None:
    async with local_issuer() as other:
        other.keys = [private_key("other")]
        backend = Jwt([issuer.issuer(), other.issuer()])
        for one in (issuer, other):
            _, behind = await authenticate(backend, one.token())
            assert behind.principal.id == f"{one.url.removeprefix('http://')}:ann"
        forged = issuer.token(issuer.claims(iss=other.url))  # signed by one, in the name of the other
        assert (await authenticate(backend, forged))[0].status == 401


@pytest.mark.torture
@examples(100, 20_000)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda part: b"e" + part + b"." + part + b".x")))
def test_whatever_a_token_contains_reading_it_raises_nothing(credential: bytes) -> None:
    parse_token(credential)


@examples(50, 5000)
@given(
    claims=st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"), max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    )
)
def test_claims_are_read_as_they_were_written(claims: Any) -> None:
    token = parse_token(f"{encoded({'alg': 'RS256'})}.{encoded({'a': claims})}.x".encode())
    assert token is not None
    assert token.claims == {"a": claims}
