"""Several authenticators: which of them gets which credential, and which headers are never sent upstream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthenticationError
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Scope
from support.asgi import Behind, Receiving, Sent, call, http_scope

from bud_asgi.auth import (
    Anonymous,
    ApiKeys,
    AuthMiddleware,
    CredentialBackend,
    FirstOf,
    HostUser,
    Pending,
    Throttle,
    hash_api_key,
)
from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import GatewayError

Lines = list[tuple[bytes, bytes]]
BEARER, X = b"authorization", b"x-api-key"
KEY, OTHER = b"sk-bud-the-key", b"sk-bud-the-other"
KEYS = ApiKeys({"ci": hash_api_key(KEY.decode()), "other": hash_api_key(OTHER.decode())})


class Store(CredentialBackend):
    """Recognises `store-...`, of which `store-good` is valid; `memory-good` is in memory. Keeps what it got."""

    def __init__(self, unavailable: bool = False) -> None:
        self.offered: list[bytes] = []
        self.asked: list[bytes] = []
        self.unavailable = unavailable

    def check(self, credential: bytes) -> Authenticated | Pending | None:
        self.offered.append(credential)
        if credential == b"memory-good":
            return authenticated(Principal(id="memory"))
        return Pending(partial(self._ask, credential)) if credential.startswith(b"store-") else None

    async def _ask(self, credential: bytes) -> Authenticated:
        self.asked.append(credential)
        if self.unavailable:
            raise GatewayError("The store is away")
        if credential != b"store-good":
            raise AuthenticationError("not in the store")
        return authenticated(Principal(id="store"))


def session(scope: Any) -> str | None:
    """The host's login: a cookie."""
    cookie: bytes = dict(scope["headers"]).get(b"cookie", b"")
    return cookie.decode().removeprefix("user=") or None


def bearer(value: bytes) -> tuple[bytes, bytes]:
    return BEARER, b"Bearer " + value


ADMITTED: dict[str, tuple[Lines, str, tuple[bytes, ...]]] = {
    "a key": ([(X, KEY)], "ci", (X,)),
    "a key as a token": ([bearer(KEY)], "ci", (BEARER,)),
    "the same in both": ([bearer(KEY), (X, KEY)], "ci", (BEARER, X)),
    "the same in both, with odd spacing": ([(BEARER, b"bEARER   " + KEY + b" "), (X, b" " + KEY)], "ci", (BEARER, X)),
    "two that are valid": ([(X, OTHER), bearer(KEY)], "ci", (BEARER, X)),
    "one that is not valid first": ([bearer(b"sk-bud-old"), (X, KEY)], "ci", (X, BEARER)),
    "one that is not valid last": ([bearer(KEY), (X, b"sk-bud-old")], "ci", (BEARER, X)),
    "one of an upstream's beside it": ([bearer(KEY), (X, b"sk-ant-theirs")], "ci", (BEARER,)),
    "one of an upstream's before it": ([bearer(b"sk-ant-theirs"), (X, KEY)], "ci", (X,)),
    "another scheme beside it": ([(BEARER, b"Basic abc"), (X, KEY)], "ci", (X,)),
    "one in the store": ([bearer(b"store-good")], "store", (BEARER,)),
    "one in the store after one that is not": ([bearer(b"store-bad"), (X, b"store-good")], "store", (X, BEARER)),
    "one in the store before one in memory": ([bearer(b"store-good"), (X, KEY)], "store", (BEARER, X)),
    "one in memory after one that is not in the store": ([bearer(b"store-bad"), (X, KEY)], "ci", (X, BEARER)),
    "a session": ([(b"cookie", b"user=ann")], "ann", ()),
    "a session beside a credential of no known kind": ([(b"cookie", b"user=ann"), bearer(b"abc")], "ann", ()),
    "a key before a session": ([(b"cookie", b"user=ann"), (X, KEY)], "ci", (X,)),
}


@pytest.mark.parametrize(("lines", "id_", "withheld"), ADMITTED.values(), ids=ADMITTED.keys())
async def test_one_valid_credential_is_enough(lines: Lines, id_: str, withheld: tuple[bytes, ...]) -> None:
    scope, behind = http_scope(lines), Behind()
    sent = await call(AuthMiddleware(behind, backend=[KEYS, Store(), HostUser(session, credential_headers=())]), scope)
    assert sent.status == 200
    assert behind.principal.id == id_
    assert Exchange.of(scope).credential_headers == withheld
    assert scope["user"] == behind.principal


REFUSED: dict[str, tuple[Lines, str]] = {
    "nothing": ([], "x-api-key header is required"),
    "an unknown key": ([(X, b"sk-bud-old")], "invalid x-api-key"),
    "an unknown key beside a session": ([(X, b"sk-bud-old"), (b"cookie", b"user=ann")], "invalid x-api-key"),
    "not in the store": ([bearer(b"store-bad")], "not in the store"),
    "no known kind": ([bearer(b"abc")], "Invalid bearer token"),
    "no known kind twice": ([bearer(b"abc"), (X, b"abc")], "Invalid bearer token"),
    "two keys in one header": ([(X, KEY), (X, OTHER)], "invalid x-api-key"),
    "another scheme": ([(BEARER, b"Basic abc")], "Invalid authorization header"),
}


@pytest.mark.parametrize(("lines", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_without_a_valid_credential_the_answer_is_401(lines: Lines, words: str) -> None:
    scope, receive = http_scope(lines), Receiving()
    sent = await call(
        AuthMiddleware(Behind(), backend=[KEYS, Store(), HostUser(session, credential_headers=())]), scope, receive
    )
    assert (sent.status, sent.error["message"]) == (401, words)
    assert Exchange.of(scope).credential_headers == ()
    assert receive.calls == 0


async def test_a_credential_goes_to_the_backend_of_its_kind_only() -> None:
    first, second = Store(), Store()
    asked: list[bytes] = []

    def user(scope: Any) -> None:
        asked.append(dict(scope["headers"])[X])

    app = AuthMiddleware(Behind(), backend=[KEYS, first, second, HostUser(user)])
    for credential in (KEY, b"sk-bud-unknown", b"store-good", b"store-bad", b"sk-ant-theirs"):
        await call(app, http_scope([(X, credential)]))
    assert set(first.offered) == {b"store-good", b"store-bad", b"sk-ant-theirs"}
    assert first.asked == [b"store-good", b"store-bad"]
    assert set(second.offered) == {b"sk-ant-theirs"}
    assert second.asked == []
    assert asked == [b"sk-ant-theirs"]


async def test_a_second_credential_is_not_looked_up_once_the_first_has_proved_the_caller() -> None:
    store = Store()
    app = AuthMiddleware(Behind(), backend=[KEYS, store])
    assert (await call(app, http_scope([bearer(KEY), (X, b"store-bad")]))).status == 200
    assert store.asked == []


@pytest.mark.parametrize("backends", [[KEYS, Anonymous()], [Anonymous(), KEYS]])
async def test_anonymous_last_admits_requests_without_a_key_of_ours(backends: list[Any]) -> None:
    app = AuthMiddleware(Behind(), backend=backends)
    for lines, status in (([], 200), ([(X, KEY)], 200), ([(X, b"sk-bud-old")], 401)):
        assert (await call(app, http_scope(lines))).status == status


async def test_a_store_that_fails_is_not_a_failure_of_the_caller() -> None:
    throttle = Throttle(failures=1, window=1000)
    app = AuthMiddleware(Behind(), backend=FirstOf([Store(unavailable=True)], throttle=throttle))
    for _ in range(3):
        assert (await call(app, http_scope([(X, b"store-good")]))).status == 500


def show(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.user.identity if request.user.is_authenticated else "nobody")


@pytest.mark.parametrize("backend", [Store(), FirstOf([KEYS, Store(), HostUser(session, credential_headers=())])])
def test_it_is_a_backend_for_starlettes_middleware_too(backend: Any) -> None:
    app = Starlette(routes=[Route("/", show)], middleware=[Middleware(AuthenticationMiddleware, backend=backend)])
    client = TestClient(app)
    assert client.get("/", headers={"x-api-key": "store-good"}).text == "store"
    assert client.get("/", headers={"authorization": "Bearer memory-good"}).text == "memory"
    refused = client.get("/", headers={"x-api-key": "store-bad"})
    assert (refused.status_code, refused.text) == (400, "not in the store")
    assert client.get("/").text == "nobody"


async def test_a_websocket_is_authenticated_by_the_same_backends() -> None:
    for lines, user in (([(X, KEY)], "ci"), ([bearer(b"store-good")], "store"), ([(b"cookie", b"user=ann")], "ann")):
        scope: Scope = {**http_scope(lines), "type": "websocket"}
        behind, sent = Behind(), Sent()
        await AuthMiddleware(behind, backend=[KEYS, Store(), HostUser(session, credential_headers=())])(
            scope, Receiving(), sent
        )
        assert scope["user"] == Principal(id=user)
        assert (len(behind.scopes), sent.messages) == (1, [])


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "an empty list": (lambda: FirstOf([]), r"^backends: an empty list"),
    "a class": (lambda: FirstOf([Store]), r"^backends\[0\]: expected an object"),  # type: ignore[list-item]
    "one in place of a list": (lambda: FirstOf(KEYS), r"^backends: expected a list"),  # type: ignore[arg-type]
    "a throttle of another type": (lambda: FirstOf([KEYS], throttle=10), r"^throttle: expected"),  # type: ignore[arg-type]
    "a wrong backend in a list": (lambda: AuthMiddleware(Behind(), backend=[KEYS, "x"]), r"^backend\[1\]: expected"),  # type: ignore[list-item]
}


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_list_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()
