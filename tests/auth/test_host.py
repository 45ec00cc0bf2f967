"""The host's own login: what its functions return and raise, and which headers proved the caller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, UnauthenticatedUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope
from support.asgi import Behind, Lines, Receiving, Sent, call, http_scope
from support.counts import examples

from bud_asgi.auth import UNAUTHENTICATED, Anonymous, AuthMiddleware, FirstOf, HostToken, HostUser, host
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import OptionError

TOKENS = {"token-of-ann": "ann", "token-of-bob": "bob"}
KEY_REQUIRED, BAD_KEY = "x-api-key header is required", "invalid x-api-key"
BAD_TOKEN, BAD_HEADER = "Invalid bearer token", "Invalid authorization header"


async def authenticated(backend: AuthenticationBackend, headers: Lines = (), **scope: Any) -> tuple[Sent, Behind]:
    behind = Behind()
    return await call(AuthMiddleware(behind, backend=backend), http_scope(headers, **scope)), behind


USERS: dict[str, tuple[object, Principal]] = {
    "a Starlette user": (SimpleUser("ann"), Principal(id="ann", name="ann")),
    "a principal": (Principal(id="ann", team="t"), Principal(id="ann", team="t")),
    "an id": ("ann", Principal(id="ann")),
}


@pytest.mark.parametrize(("user", "principal"), USERS.values(), ids=USERS.keys())
async def test_without_a_function_it_is_the_user_that_the_host_left_in_the_scope(
    user: object, principal: Principal
) -> None:
    _, behind = await authenticated(HostUser(), user=user)
    assert behind.principal == principal


@pytest.mark.parametrize(
    "scope",
    [{}, {"user": None}, {"user": ""}, {"user": UnauthenticatedUser()}],
    ids=["none", "null", "an empty id", "a user who is not authenticated"],
)
async def test_without_a_user_in_the_scope_the_request_is_refused(scope: dict[str, Any]) -> None:
    sent, behind = await authenticated(HostUser(), **scope)
    assert (sent.status, behind.scopes) == (401, [])
    assert sent.error == {"type": "authentication_error", "message": UNAUTHENTICATED}


REFUSALS: dict[str, tuple[HTTPException, int, str, str, str | None]] = {
    "401": (HTTPException(401, "Session expired"), 401, "authentication_error", "Session expired", "false"),
    "402": (HTTPException(402, "No credit"), 402, "billing_error", "No credit", "false"),
    "403": (HTTPException(403), 403, "permission_error", "Forbidden", "false"),
    "409": (HTTPException(409), 409, "conflict_error", "Conflict", None),
    "422": (HTTPException(422, "No"), 422, "invalid_request_error", "No", "false"),
    "429": (HTTPException(429, "Slow down"), 429, "rate_limit_error", "Slow down", None),
    "503": (HTTPException(503, "Closed"), 503, "api_error", "Closed", None),
    "a redirect to a login page": (HTTPException(303, "Log in", {"location": "/login"}), 401, "authentication_error",
                                   "Log in", "false"),
    "a detail in JSON": (HTTPException(403, {"why": "plan"}), 403, "permission_error", '{"why":"plan"}', "false"),  # pyright: ignore[reportArgumentType]
    "a detail that JSON lacks": (HTTPException(403, [SimpleUser("ann")]), 403, "permission_error", '["SimpleUser"]',  # pyright: ignore[reportArgumentType]
                                 "false"),
}  # fmt: skip


@pytest.mark.parametrize(("error", "status", "kind", "message", "retry"), REFUSALS.values(), ids=REFUSALS.keys())
@pytest.mark.parametrize("backend", [HostUser, HostToken])
async def test_an_http_exception_is_a_refusal_with_its_own_status(
    backend: type[HostUser | HostToken], error: HTTPException, status: int, kind: str, message: str, retry: str | None
) -> None:
    def user(_: object) -> str:
        raise error

    sent, behind = await authenticated(backend(user), [(b"x-api-key", b"k")])
    assert (sent.status, behind.scopes) == (status, [])
    assert sent.error == {"type": kind, "message": message}
    assert sent.headers.get(b"x-should-retry") == (retry.encode() if retry else None)
    assert b"location" not in sent.headers


async def test_its_headers_are_those_of_the_refusal_but_for_the_description_of_its_body() -> None:
    def user(_: Scope) -> str:
        raise HTTPException(429, "Slow down", {"Retry-After": "7", "Content-Type": "text/html", "content-length": "9"})

    sent, _ = await authenticated(HostUser(user))
    assert sent.headers[b"Retry-After"] == b"7"
    assert sent.headers[b"content-type"] == b"application/json"
    assert int(sent.headers[b"content-length"]) == len(sent.body)


async def test_a_websocket_is_closed_with_the_words_of_an_http_exception() -> None:
    def user(_: Scope) -> str:
        raise HTTPException(401, "Session expired")

    sent = Sent()
    scope = {**http_scope(), "type": "websocket", "subprotocols": []}
    await AuthMiddleware(Behind(), backend=HostUser(user))(scope, Receiving(), sent)
    assert sent.messages == [{"type": "websocket.close", "code": 1008, "reason": "Session expired"}]


async def user_of(token: str) -> str | None:
    return TOKENS.get(token)


BEARER_ANN, KEY_ANN = (b"authorization", b"Bearer token-of-ann"), (b"x-api-key", b"token-of-ann")
OTHER_KEY = (b"x-api-key", b"sk-ant-of-the-client")

ACCEPTED: dict[str, tuple[Lines, str, tuple[bytes, ...]]] = {
    "a bearer token": ([BEARER_ANN], "ann", (b"authorization",)),
    "a key": ([KEY_ANN], "ann", (b"x-api-key",)),
    "both": ([KEY_ANN, BEARER_ANN], "ann", (b"authorization", b"x-api-key")),
    "a bearer token and another key": ([OTHER_KEY, BEARER_ANN], "ann", (b"authorization",)),
    "a key and another bearer token": ([(b"authorization", b"Bearer x"), KEY_ANN], "ann", (b"x-api-key",)),
    "two users": ([(b"x-api-key", b"token-of-bob"), BEARER_ANN], "ann", (b"authorization", b"x-api-key")),
    "an odd spelling": ([(b"Authorization", b" bEARER   token-of-ann\t")], "ann", (b"authorization",)),
    "a line that was sent twice": ([KEY_ANN, KEY_ANN], "ann", (b"x-api-key",)),
}


@pytest.mark.parametrize(("lines", "name", "proved"), ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_a_token_is_accepted_from_either_header_and_its_header_is_noted(
    lines: Lines, name: str, proved: tuple[bytes, ...]
) -> None:
    _, behind = await authenticated(HostToken(user_of, prefix="token-"), lines)
    assert behind.principal == Principal(id=name)
    assert sorted(Exchange.of(behind.scopes[0]).credential_headers) == sorted(proved)


async def test_without_a_prefix_every_token_is_the_hosts() -> None:
    _, behind = await authenticated(HostToken(user_of), [OTHER_KEY, BEARER_ANN])
    assert behind.principal == Principal(id="ann")
    assert set(Exchange.of(behind.scopes[0]).credential_headers) == {b"authorization", b"x-api-key"}


async def test_only_tokens_with_the_prefix_are_looked_up() -> None:
    def never(_: str) -> str:
        raise AssertionError

    sent, _ = await authenticated(HostToken(never, prefix="token-"), [OTHER_KEY])
    assert (sent.status, sent.error["message"]) == (401, BAD_KEY)


@pytest.mark.parametrize(("status", "refused"), [(401, 429), (402, 402)], ids=["a guess", "a known caller"])
async def test_a_401_of_the_hosts_counts_as_a_guess_and_other_refusals_do_not(status: int, refused: int) -> None:
    def user(_: str) -> str:
        raise HTTPException(status)

    app = AuthMiddleware(Behind(), backend=HostToken(user))
    statuses = [(await call(app, http_scope([(b"x-api-key", b"k%d" % n)]))).status for n in range(200)]
    assert statuses[0] == status
    assert statuses[-1] == refused


async def test_a_valid_token_passes_whatever_else_came_from_its_address() -> None:
    app = AuthMiddleware(Behind(), backend=HostToken(user_of))

    async def status(key: bytes) -> int:
        return (await call(app, http_scope([(b"x-api-key", key)]))).status

    assert await status(b"token-of-ann") == 200
    assert [await status(b"k%d" % n) for n in range(150)][-1] == 429
    assert await status(b"token-of-ann") == 200


async def test_the_tokens_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MAX_REMEMBERED", 3)
    backend = HostToken(lambda token: token)
    for number in range(10):
        await authenticated(backend, [(b"x-api-key", b"k%d" % number)])
    assert len(backend._valid) == 3


async def test_a_result_of_another_kind_is_a_500_and_never_a_caller() -> None:
    with pytest.raises(OptionError, match=r"the result of user\(\)"):
        await authenticated(HostToken(lambda token: 1), [KEY_ANN])  # pyright: ignore[reportArgumentType]


REFUSED: dict[str, tuple[Lines, str]] = {
    "none": ([], KEY_REQUIRED),
    "an unknown key": ([OTHER_KEY], BAD_KEY),
    "an unknown bearer token": ([(b"authorization", b"Bearer x")], BAD_TOKEN),
    "both unknown": ([OTHER_KEY, (b"authorization", b"Bearer x")], BAD_TOKEN),
    "another scheme": ([(b"authorization", b"Basic token-of-ann")], BAD_HEADER),
    "no scheme": ([(b"authorization", b"token-of-ann")], BAD_HEADER),
    "two keys": ([KEY_ANN, (b"x-api-key", b"token-of-bob")], BAD_KEY),
    "one that is too long": ([(b"x-api-key", b"x" * 8193)], BAD_KEY),
    "one that is not ASCII": ([(b"x-api-key", b"\xff")], BAD_KEY),
}


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED.keys())
async def test_any_other_token_is_refused_in_the_words_of_its_header(lines: Lines, message: str) -> None:
    sent, behind = await authenticated(HostToken(user_of), lines)
    assert (sent.status, behind.scopes) == (401, [])
    assert sent.error == {"type": "authentication_error", "message": message}


@examples(75, 2_000)
@given(st.binary(max_size=40), st.binary(max_size=40))
async def test_no_bytes_in_the_headers_are_an_error(authorization: bytes, key: bytes) -> None:
    sent, _ = await authenticated(HostToken(user_of), [(b"authorization", authorization), (b"x-api-key", key)])
    assert sent.status in {200, 401}


async def test_a_websocket_is_authenticated_by_its_token() -> None:
    behind, sent = Behind(), Sent()
    scope = {**http_scope([KEY_ANN]), "type": "websocket", "subprotocols": []}
    await AuthMiddleware(behind, backend=HostToken(user_of))(scope, Receiving(), sent)
    assert (scope["user"], sent.messages) == (Principal(id="ann"), [])


class Ann(AuthenticationBackend):
    """A backend of a host's, with the attribute of `HostUser`."""

    def __init__(self, credential_headers: tuple[str, ...]) -> None:
        self.credential_headers = credential_headers

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        return AuthCredentials(), SimpleUser("ann")


@pytest.mark.parametrize("names", [("authorization",), ("X-API-Key",), ()])
async def test_the_headers_that_the_hosts_login_reads_are_noted(names: tuple[str, ...]) -> None:
    for backend in (HostUser(credential_headers=names), Ann(names)):
        _, behind = await authenticated(backend, user="ann")
        assert Exchange.of(behind.scopes[0]).credential_headers == tuple(name.lower().encode() for name in names)


async def test_both_are_noted_by_default() -> None:
    _, behind = await authenticated(HostUser(), user="ann")
    assert set(Exchange.of(behind.scopes[0]).credential_headers) == {b"authorization", b"x-api-key"}


@pytest.mark.parametrize("names", ["authorization", ("cookie",), ("authorization ",), 1, None])
def test_other_credential_headers_are_refused(names: Any) -> None:
    with pytest.raises(OptionError, match=r"^credential_headers: "):
        HostUser(credential_headers=names)


@pytest.mark.parametrize("user", [dict, "ann", lambda: None])
def test_what_cannot_be_called_with_a_token_is_refused(user: Any) -> None:
    with pytest.raises(OptionError, match=r"^user: expected a function of the token"):
        HostToken(user)


async def test_a_request_with_a_principal_is_not_authenticated_again() -> None:
    def user(_: Scope) -> str:
        raise AssertionError

    behind, scope = Behind(), http_scope()
    Exchange.of(scope).principal = Principal(id="ann")
    assert (await call(AuthMiddleware(behind, backend=HostUser(user)), scope)).status == 200
    assert behind.principal == Principal(id="ann")


class Undeclared(AuthenticationBackend):
    """A backend of the host's, which does not declare what it reads."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        return AuthCredentials(), SimpleUser("ann")


class ByCookie(Undeclared):
    """One that reads no credential header."""

    credential_headers = ()


@pytest.mark.parametrize(("backend", "noted"), [(Undeclared(), 2), (ByCookie(), 0), (Anonymous(), 0)])
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a chain within a chain"])
async def test_what_a_backend_may_have_read_is_noted(backend: AuthenticationBackend, noted: int, nested: bool) -> None:
    chain = [FirstOf([backend])] if nested else backend
    behind = Behind()
    await call(AuthMiddleware(behind, backend=chain), http_scope([KEY_ANN]))
    assert len(Exchange.of(behind.scopes[0]).credential_headers) == noted


def test_a_declaration_in_one_string_is_refused() -> None:
    backend = ByCookie()
    backend.credential_headers = "authorization"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(OptionError, match=r"^backend.credential_headers: expected names out of"):
        AuthMiddleware(Behind(), backend=backend)
