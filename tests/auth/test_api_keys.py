"""API keys: how they come, how they are refused, what they are built from."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.authentication import AuthenticationError, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.asgi import Behind, Receiving, call, http_scope
from support.counts import examples

from bud_asgi.auth import ApiKey, ApiKeys, AuthMiddleware, as_chain, authenticate_now, hash_api_key, new_api_key
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import Limit
from bud_asgi.options import OptionError

KEY, OTHER, WRONG = "sk-bud-the-key", "sk-bud-the-other", "sk-bud-wrong"
LIMITS = (Limit("requests", 10), Limit("tokens", 1000, 3600.0))
KEYS = ApiKeys(
    [
        ApiKey(name="ci", hash=hash_api_key(KEY), team="t", models=("a", "b*"), limits=LIMITS),
        ApiKey(name="o", hash=hash_api_key(OTHER)),
    ]
)
CI = Principal(id="ci", team="t", models=("a", "b*"), limits=LIMITS)
O = Principal(id="o")  # noqa: E741 - the name of the other key

Lines = list[tuple[bytes, bytes]]
BEARER, X = b"authorization", b"x-api-key"
K, W = KEY.encode(), WRONG.encode()

ADMITTED: dict[str, tuple[Lines, Principal]] = {
    "a bearer token": ([(BEARER, b"Bearer " + K)], CI),
    "an x-api-key": ([(X, K)], CI),
    "a scheme in small letters": ([(BEARER, b"bearer " + K)], CI),
    "a scheme in capitals": ([(BEARER, b"BEARER " + K)], CI),
    "blanks around a token": ([(BEARER, b"Bearer   " + K + b"  ")], CI),
    "names in capitals": ([(b"X-API-Key", K)], CI),
    "the same key in both": ([(BEARER, b"Bearer " + K), (X, K)], CI),
    "two keys: the bearer's comes first": ([(X, K), (BEARER, b"Bearer " + OTHER.encode())], O),
    "a wrong bearer beside a right key": ([(BEARER, b"Bearer " + W), (X, K)], CI),
    "a right bearer beside a wrong key": ([(BEARER, b"Bearer " + K), (X, W)], CI),
    "a right bearer beside an empty key": ([(BEARER, b"Bearer " + K), (X, b"")], CI),
    "another scheme beside a right key": ([(BEARER, b"Basic abc"), (X, K)], CI),
    "an empty bearer beside a right key": ([(BEARER, b"Bearer "), (X, K)], CI),
    "the same key in two lines": ([(X, K), (X, K)], CI),
    "the same key in three lines, with blanks": ([(X, K + b" "), (b"X-Api-Key", b" " + K), (X, b"\t" + K)], CI),
    "the same key twice in one line": ([(X, K + b"," + K)], CI),
    "the same token in two lines": ([(BEARER, b"Bearer " + K), (BEARER, b"bearer  " + K)], CI),
    "the same token twice in one line": ([(BEARER, b"Bearer " + K + b", BEARER " + K)], CI),
    "the same key twice in both headers": ([(X, K), (BEARER, b"Bearer " + K)] * 2, CI),
}


@pytest.mark.parametrize(("headers", "principal"), ADMITTED.values(), ids=ADMITTED.keys())
async def test_a_known_key_is_admitted(headers: Lines, principal: Principal) -> None:
    behind, receive = Behind(), Receiving()
    sent = await call(AuthMiddleware(behind, backend=KEYS), http_scope(headers), receive)
    assert sent.status == 200
    assert behind.principal == principal
    assert behind.scopes[0]["user"] == principal
    assert behind.scopes[0]["auth"].scopes == ["authenticated"]
    assert receive.calls == 0


REQUIRED, BAD_TOKEN, BAD_KEY = "x-api-key header is required", "Invalid bearer token", "invalid x-api-key"
BAD_HEADER = "Invalid authorization header"
REFUSED: dict[str, tuple[Lines, str]] = {
    "nothing": ([], REQUIRED),
    "an empty key": ([(X, b"")], REQUIRED),
    "an empty authorization": ([(BEARER, b"")], REQUIRED),
    "a wrong key": ([(X, W)], BAD_KEY),
    "a wrong token": ([(BEARER, b"Bearer " + W)], BAD_TOKEN),
    "both wrong": ([(BEARER, b"Bearer " + W), (X, W)], BAD_TOKEN),
    "an empty token": ([(BEARER, b"Bearer ")], BAD_HEADER),
    "a scheme alone": ([(BEARER, b"Bearer")], BAD_HEADER),
    "another scheme": ([(BEARER, b"Basic " + base64.b64encode(b"ci:" + K))], BAD_HEADER),
    "no scheme": ([(BEARER, K)], BAD_HEADER),
    "a tab behind the scheme": ([(BEARER, b"Bearer\t" + K)], BAD_HEADER),
    "no blank behind the scheme": ([(BEARER, b"Bearer" + K)], BAD_HEADER),
    "a scheme that begins alike": ([(BEARER, b"Bearers " + K)], BAD_HEADER),
    "a bearer token in the wrong header": ([(X, b"Bearer " + K)], BAD_KEY),
    "the hash of the key": ([(X, hash_api_key(KEY).encode())], BAD_KEY),
    "the digest of the key": ([(X, hashlib.sha256(K).digest())], BAD_KEY),
    "the name of the key": ([(X, b"ci")], BAD_KEY),
    "the key in capitals": ([(X, K.upper())], BAD_KEY),
    "the beginning of the key": ([(X, K[:-1])], BAD_KEY),
    "the key and more": ([(X, K + b"x")], BAD_KEY),
    "the key and a zero": ([(X, K + b"\x00")], BAD_KEY),
    "a key and another in two lines": ([(X, K), (X, W)], BAD_KEY),
    "a token and another in two lines": ([(BEARER, b"Bearer " + K), (BEARER, b"Bearer " + W)], BAD_TOKEN),
    "a key and another in one line": ([(X, K + b"," + W)], BAD_KEY),
    "a key and nothing in two lines": ([(X, K), (X, b"")], BAD_KEY),
    "a key and a bearer token in one header": ([(X, K), (X, b"Bearer " + K)], BAD_KEY),
    "a token with another scheme in a second line": ([(BEARER, b"Bearer " + K), (BEARER, b"Basic " + K)], BAD_TOKEN),
    "a wrong key in two lines": ([(X, W), (X, W)], BAD_KEY),
    "commas": ([(X, b",,")], REQUIRED),
    "bytes beyond ASCII": ([(X, "schlüssel".encode())], BAD_KEY),
    "bytes that are no text": ([(BEARER, b"Bearer \xff\xfe\x00")], BAD_TOKEN),
    "a scheme beyond ASCII": ([(BEARER, b"\xc2\xa0Bearer " + K)], BAD_HEADER),
    "a key of 100 kB": ([(X, b"k" * 100_000)], BAD_KEY),
    "a token of 100 kB": ([(BEARER, b"Bearer " + b"k" * 100_000)], BAD_TOKEN),
    "a hundred thousand blanks": ([(BEARER, b"Bearer" + b" " * 100_000)], BAD_HEADER),
    "a key somewhere else": ([(b"api-key", K), (b"cookie", b"x-api-key=" + K)], REQUIRED),
}


@pytest.mark.parametrize(("headers", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_other_credentials_are_refused_before_the_body_is_read(headers: Lines, words: str) -> None:
    behind, receive, scope = Behind(), Receiving(), http_scope(headers)
    sent = await call(AuthMiddleware(behind, backend=KEYS), scope, receive)
    assert sent.status == 401
    assert sent.error == {"type": "authentication_error", "message": words}
    assert sent.headers.keys() == {b"content-type", b"content-length", b"x-should-retry", b"request-id"}
    assert sent.headers[b"x-should-retry"] == b"false"
    assert re.fullmatch(rb"req_[0-9a-f]{24}", sent.headers[b"request-id"])
    assert (receive.calls, behind.scopes) == (0, [])
    assert "user" not in scope


async def test_a_key_that_is_longer_than_any_is_refused_even_if_it_is_known() -> None:
    for length, status in ((512, 200), (513, 401)):
        backend = ApiKeys({"long": hash_api_key("k" * length)})
        sent = await call(AuthMiddleware(Behind(), backend=backend), http_scope([(X, b"k" * length)]))
        assert sent.status == status


_names = st.sampled_from([BEARER, X, b"Authorization", b"X-Api-Key", b"cookie", b"anthropic-version"]) | st.binary(
    max_size=6
)
_values = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"Bearer ", b"bearer  \xff", W, b"", K[:-1], K + b"0", b"Bearer " + K[:-1], b"Bearer", b" ", b","]
    ),
    st.binary().map(b"Bearer ".__add__),
    st.binary().map(b"BEARER\t".__add__),
    st.binary().map(b"Basic ".__add__),
)


@pytest.mark.torture
@examples(75, 10_000)
@given(headers=st.lists(st.tuples(_names, _values), max_size=6))
def test_fuzzed_headers_are_never_anything_but_refused(headers: Lines) -> None:
    sent = asyncio.run(call(AuthMiddleware(Behind(), backend=KEYS), http_scope(headers)))
    assert sent.status == 401
    assert sent.error["type"] == "authentication_error"
    assert KEY not in sent.body.decode()


def test_a_new_key_has_256_bits_and_is_another_each_time() -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"sk-bud-[A-Za-z0-9_-]{48}", key) for key in keys)


def test_the_hash_of_a_key_is_its_sha_256() -> None:
    assert hash_api_key("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


async def test_a_mapping_of_names_to_hashes_is_enough() -> None:
    behind = Behind()
    sent = await call(AuthMiddleware(behind, backend=ApiKeys({"ci": hash_api_key(KEY)})), http_scope([(X, K)]))
    assert sent.status == 200
    assert behind.principal == Principal(id="ci", models=("*",))


async def test_a_key_is_known_by_its_whole_hash() -> None:
    known = hash_api_key(KEY)
    alike = known[:-1] + ("0" if known[-1] != "0" else "1")
    assert (await call(AuthMiddleware(Behind(), backend=ApiKeys({"ci": alike})), http_scope([(X, K)]))).status == 401


async def test_without_any_key_every_request_is_refused() -> None:
    assert (await call(AuthMiddleware(Behind(), backend=ApiKeys({})), http_scope([(X, K)]))).status == 401


NO_HASH: dict[str, str] = {
    "a key": KEY,
    "a key that was just made": new_api_key(),
    "a hash without its kind": hash_api_key(KEY).removeprefix("sha256:"),
    "a hash in capitals": hash_api_key(KEY).upper(),
    "a hash with a line end": hash_api_key(KEY) + "\n",
    "a hash that is too short": hash_api_key(KEY)[:-1],
    "another kind of hash": "sha512:" + "a" * 64,
    "nothing": "",
}


@pytest.mark.parametrize("hash_", NO_HASH.values(), ids=NO_HASH.keys())
def test_a_malformed_hash_raises_and_is_not_shown(hash_: str) -> None:
    problem = (
        "expected sha256: and 64 lower-case hex digits, as written by `bud-asgi keys new NAME`, "
        "got a value that is not shown"
    )
    with pytest.raises(OptionError) as refused:
        ApiKeys({"ci": hash_})
    assert str(refused.value) == f"keys[0].hash: {problem}"
    with pytest.raises(OptionError) as refused:
        ApiKey(name="ci", hash=hash_)
    assert str(refused.value) == f"hash: {problem}"


def test_a_key_that_changed_places_with_its_name_is_not_shown() -> None:
    with pytest.raises(OptionError, match=r"^keys\[0\]\.hash: ") as refused:
        ApiKeys({KEY: "ci"})
    assert KEY not in str(refused.value)


def test_keys_or_a_store_are_required() -> None:
    with pytest.raises(OptionError, match=r"^keys: missing; expected keys, a store, or {} to accept no key at all$"):
        ApiKeys()


def test_names_and_hashes_are_there_once() -> None:
    with pytest.raises(ValueError, match=r"^keys\[1\]\.hash: duplicate API key hash, already used by keys\[0\]$"):
        ApiKeys({"a": hash_api_key(KEY), "b": hash_api_key(KEY)})
    with pytest.raises(ValueError, match=r"^keys\[1\]\.name: duplicate API key name, already used by keys\[0\]$"):
        ApiKeys([ApiKey(name="a", hash=hash_api_key(KEY)), ApiKey(name="a", hash=hash_api_key(OTHER))])


@requires("authenticated")
async def show(request: Request) -> PlainTextResponse:
    user: Principal = request.user
    return PlainTextResponse(f"{user.identity} {user.display_name} {user.team}")


def test_the_keys_are_a_backend_for_starlettes_middleware() -> None:
    app = Starlette(routes=[Route("/", show)], middleware=[Middleware(AuthenticationMiddleware, backend=KEYS)])
    client = TestClient(app)
    assert client.get("/", headers={"authorization": f"Bearer {KEY}"}).text == "ci ci t"
    assert client.get("/", headers={"x-api-key": OTHER}).text == "o o None"
    refused = client.get("/", headers={"x-api-key": WRONG})
    assert (refused.status_code, refused.text) == (400, "invalid x-api-key")
    assert client.get("/").status_code == 403


class Weekdays(ApiKeys):
    """Keys that are closed today."""

    async def authenticate(self, conn: HTTPConnection) -> None:
        raise AuthenticationError("closed")


async def test_a_subclass_s_own_authenticate_is_called() -> None:
    keys = {"ci": hash_api_key(KEY)}
    scope = http_scope([(X, K)])
    exchange = Exchange.of(scope)
    sent = await call(AuthMiddleware(Behind(), backend=Weekdays(keys)), scope)
    assert (sent.status, sent.error["message"]) == (401, "closed")
    assert exchange.principal is None


def test_a_key_in_memory_is_found_without_a_coroutine() -> None:
    scope = http_scope([(X, K)])
    exchange = Exchange.of(scope)
    assert authenticate_now(as_chain("auth", KEYS), exchange, scope) is None
    assert (exchange.principal, exchange.credential_headers) == (CI, (X,))
    assert (scope["user"], scope["auth"].scopes) == (CI, ["authenticated"])
