"""What authentication costs: `make bench`.

- an API key in memory, in each header and in both (microseconds);
- an API key of a store: looked up lately, for the first time, refused (microseconds);
- a token that has been verified before, and the first verification of one, beside joserfc's own (microseconds);
- a credential that is refused, and one that is throttled (microseconds).

With `--quick` everything is measured with small counts.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

from cost import table
from joserfc import jwt
from joserfc.jwk import ECKey, Key, KeySet, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry
from starlette.authentication import AuthenticationError
from starlette.types import Scope

from bud_asgi.auth import ApiKeys, FirstOf, Issuer, Jwt, SqlKeyStore, Throttle, authenticate_now, hash_api_key
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.testing import Received, Reply, StandIn, json_body

TIMES = 200 if "--quick" in sys.argv else 20_000
TOKENS = 20 if "--quick" in sys.argv else 2_000
ROUNDS = 5
API_KEY = "sk-bud-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
HEADERS = [(b"anthropic-version", b"2023-06-01"), (b"content-type", b"application/json"), (b"host", b"gateway")]
KINDS: dict[str, Key] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "k"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "k"}),
}


def scope_of(*credentials: tuple[bytes, bytes]) -> Scope:
    """The scope of a request with these headers."""
    client = ("203.0.113.1", 1)
    return {"type": "http", "method": "POST", "path": "/", "headers": [*HEADERS, *credentials], "client": client}


def bearer(token: str) -> tuple[bytes, bytes]:
    """A bearer token's header."""
    return b"authorization", f"Bearer {token}".encode()


def known(chain: FirstOf, *credentials: tuple[bytes, bytes]) -> float:
    """Microseconds for credentials that are known in memory: the best of some rounds."""
    scope = scope_of(*credentials)
    exchange = Exchange.of(scope)
    assert authenticate_now(chain, exchange, scope) is None

    def timed() -> float:
        began = time.process_time()
        for _ in range(TIMES):
            exchange.principal = None  # it would not be authenticated again
            authenticate_now(chain, exchange, scope)
        return (time.process_time() - began) / TIMES * 1e6

    return min(timed() for _ in range(ROUNDS))


def keys_in_memory() -> list[tuple[str, float]]:
    """The cost of a key by the header that it comes in."""
    chain = FirstOf([ApiKeys({str(number): hash_api_key(f"{API_KEY}{number}") for number in range(1000)})])
    key = f"{API_KEY}7"
    return [
        ("an API key as `x-api-key`", known(chain, (b"x-api-key", key.encode()))),
        ("an API key as a bearer token", known(chain, bearer(key))),
        ("an API key in both headers", known(chain, bearer(key), (b"x-api-key", key.encode()))),
    ]


async def keys_in_a_store() -> list[tuple[str, float]]:
    """The cost of keys in an SQLite file: looked up lately, for the first time, and refused lately."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqlKeyStore(f"sqlite:{folder}/keys.db")
        await store.migrate()
        backend = ApiKeys(store=store)
        keys = [(await backend.admin.create(f"key-{number}")).key.reveal() for number in range(TOKENS // 10)]
        chain = FirstOf([backend], throttle=Throttle(failures=1 << 40))
        first = await stage(chain, [(b"x-api-key", key.encode()) for key in keys])
        unknown = (b"x-api-key", b"sk-bud-unknown")
        await stage(chain, [unknown])
        rows = [
            ("an API key that was looked up lately", known(chain, (b"x-api-key", keys[0].encode()))),
            ("an API key that is looked up in SQLite", first),
            ("an API key that was refused lately", await stage(chain, [unknown] * TOKENS)),
        ]
        await backend.aclose()
    return rows


async def stage(chain: FirstOf, credentials: Sequence[tuple[bytes, bytes]]) -> float:
    """Microseconds of CPU time for a request with each credential to be authenticated or refused."""
    scope = scope_of()
    gc.collect()
    began = time.process_time()
    for name, value in credentials:
        pending = chain.find({name: value}, scope)
        assert pending is not None
        assert not isinstance(pending, tuple)
        with suppress(GatewayError, AuthenticationError):
            await pending
    return (time.process_time() - began) / len(credentials) * 1e6


def joserfc_alone(tokens: list[str], key: Key, url: str) -> float:
    """Microseconds of CPU time for each token to be verified by joserfc, with the checks that we make."""
    signatures = JWSRegistry(algorithms=list(KINDS))
    claims = JWTClaimsRegistry(
        leeway=60,
        iss={"essential": True, "value": url},
        aud={"essential": True, "values": ["bud"]},
        exp={"essential": True},
    )
    public = KeySet.import_key_set({"keys": [key.as_dict(private=False)]})
    gc.collect()
    began = time.process_time()
    for token in tokens:
        claims.validate(jwt.decode(token, public, registry=signatures).claims)
    return (time.process_time() - began) / len(tokens) * 1e6


async def tokens_of(algorithm: str, url: str) -> list[tuple[str, float]]:
    """The cost of tokens with one algorithm: the best of some rounds, which take turns."""
    key, now = KINDS[algorithm], int(time.time())
    usual = {"iss": url, "aud": "bud", "iat": now, "nbf": now, "exp": now + 3600, "scope": "openid profile email"}
    roles = {"realm_access": {"roles": ["default", "offline_access", "llm-users"]}}
    header = {"alg": algorithm, "kid": "k"}
    tokens = [jwt.encode(header, {**usual, **roles, "sub": f"user-{n}"}, key) for n in range(TOKENS)]
    rounds: list[tuple[float, float]] = []
    chain = FirstOf([Jwt(Issuer(url=url, audience="bud"))])
    for _ in range(ROUNDS):
        chain = FirstOf([Jwt(Issuer(url=url, audience="bud"))])
        await stage(chain, [bearer(tokens[0])])  # fetches the keys
        alone = joserfc_alone(tokens, key, url)
        rounds.append((alone, await stage(chain, [bearer(token) for token in tokens[1:]])))
    alone, ours = (min(times) for times in zip(*rounds, strict=True))
    return [
        (f"{algorithm}: joserfc's own verification", alone),
        (f"{algorithm}: the first verification of a token", ours),
        (f"{algorithm}: the ratio of the two", ours / alone),
        (f"{algorithm}: a token that has been verified before", known(chain, bearer(tokens[-1]))),
    ]


async def refused(throttle: Throttle) -> float:
    """Microseconds for a key that is refused."""
    chain = FirstOf([ApiKeys({"a": hash_api_key(API_KEY)})], throttle=throttle)
    keys = [(b"x-api-key", b"sk-bud-%d" % number) for number in range(TOKENS)]
    return min([await stage(chain, keys) for _ in range(ROUNDS)])


async def tokens() -> list[tuple[str, float]]:
    """The cost of tokens and of refusals."""
    async with StandIn(strict=False) as stand_in:
        rows: list[tuple[str, float]] = []
        for algorithm, key in KINDS.items():
            published = {"keys": [key.as_dict(private=False)]}

            def answer(received: Received, published: object = published) -> Reply:
                document = {"issuer": stand_in.base_url, "jwks_uri": f"{stand_in.base_url}/keys"}
                return json_body(published if received.path == b"/keys" else document)

            stand_in.always(answer)
            rows += await tokens_of(algorithm, stand_in.base_url)
    rows.append(("a key that is refused", await refused(Throttle(failures=1 << 40))))
    rows.append(("a key that is throttled", await refused(Throttle(failures=1))))
    return rows


def main() -> None:
    """Measure everything and print it."""
    table("authentication", "µs", [*keys_in_memory(), *asyncio.run(keys_in_a_store()), *asyncio.run(tokens())])


if __name__ == "__main__":
    main()
