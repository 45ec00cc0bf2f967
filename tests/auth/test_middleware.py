"""The middleware of authentication: which scopes are its own, and what it makes of any backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.requests import HTTPConnection
from starlette.types import Scope
from support.asgi import Behind, Receiving, Sent, call, http_scope

from bud_asgi.auth import (
    UNAUTHENTICATED,
    Anonymous,
    ApiKeys,
    AuthenticationFailed,
    AuthMiddleware,
    HostUser,
    hash_api_key,
)
from bud_asgi.exchange import Exchange, Principal

KEYS = ApiKeys({"ci": hash_api_key("key")})


class Answers(AuthenticationBackend):
    """A backend of somebody else's."""

    def __init__(self, answer: BaseUser | Exception | None) -> None:
        self.answer = answer

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return None if self.answer is None else (AuthCredentials(["a", "b"]), self.answer)


class Member(SimpleUser):
    """A user with an identity other than its name."""

    @property
    def identity(self) -> str:
        return f"id-{self.username}"


async def test_a_foreign_user_becomes_a_principal_and_stays_the_user() -> None:
    user, behind = Member("ann"), Behind()
    assert (await call(AuthMiddleware(behind, backend=Answers(user)), http_scope())).status == 200
    assert behind.principal == Principal(id="id-ann", name="ann")
    assert behind.scopes[0]["user"] is user
    assert behind.scopes[0]["auth"].scopes == ["a", "b"]


async def test_a_simple_user_goes_by_its_name() -> None:
    behind = Behind()
    assert (await call(AuthMiddleware(behind, backend=Answers(SimpleUser("ann"))), http_scope())).status == 200
    assert behind.principal == Principal(id="ann", name="ann")


async def test_a_principal_of_a_foreign_backend_s_is_taken_as_it_is() -> None:
    principal, behind = Principal(id="p", team="t", models=("a",), metadata={"k": "v"}), Behind()
    await call(AuthMiddleware(behind, backend=Answers(principal)), http_scope())
    assert behind.principal is principal


FOREIGN: dict[str, tuple[BaseUser | Exception | None, str]] = {
    "nobody": (None, UNAUTHENTICATED),
    "a user who is not authenticated": (UnauthenticatedUser(), UNAUTHENTICATED),
    "an error with words": (AuthenticationError("Your token is over"), "Your token is over"),
    "an error without words": (AuthenticationError(), "invalid credential"),
    "an error of ours": (AuthenticationFailed("No"), "No"),
}


@pytest.mark.parametrize(("answer", "words"), FOREIGN.values(), ids=FOREIGN.keys())
async def test_any_other_result_of_a_starlette_backend_is_a_refusal(
    answer: BaseUser | Exception | None, words: str
) -> None:
    behind, receive, scope = Behind(), Receiving(), http_scope()
    sent = await call(AuthMiddleware(behind, backend=Answers(answer)), scope, receive)
    assert sent.status == 401
    assert sent.error == {"type": "authentication_error", "message": words}
    assert (behind.scopes, receive.calls) == ([], 0)
    assert "user" not in scope
    assert Exchange.of(scope).outcome == "refused"


async def test_an_exception_in_a_backend_is_not_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        await call(AuthMiddleware(Behind(), backend=Answers(ZeroDivisionError())), http_scope())


async def test_a_head_request_is_refused_without_a_body() -> None:
    sent = await call(AuthMiddleware(Behind(), backend=KEYS), http_scope(method="HEAD"))
    assert (sent.status, sent.body) == (401, b"")
    assert int(sent.headers[b"content-length"]) > 0


async def test_the_record_that_came_is_the_one_that_is_filled() -> None:
    scope = http_scope([(b"x-api-key", b"key")])
    exchange = Exchange.of(scope)
    await call(AuthMiddleware(Behind(), backend=KEYS), scope)
    assert exchange.principal == Principal(id="ci")


def websocket_scope(*headers: tuple[bytes, bytes]) -> Scope:
    return {**http_scope(headers), "type": "websocket", "subprotocols": []}


async def test_a_websocket_without_a_credential_is_closed() -> None:
    for scope, reason in (
        (websocket_scope(), "x-api-key header is required"),
        (websocket_scope((b"x-api-key", b"no")), "invalid x-api-key"),
        (websocket_scope((b"authorization", b"Bearer no")), "Invalid bearer token"),
    ):
        behind, receive, sent = Behind(), Receiving(), Sent()
        await AuthMiddleware(behind, backend=KEYS)(scope, receive, sent)
        assert sent.messages == [{"type": "websocket.close", "code": 1008, "reason": reason}]
        assert (behind.scopes, receive.calls) == ([], 0)


@pytest.mark.parametrize("header", [(b"x-api-key", b"key"), (b"authorization", b"Bearer key")])
async def test_a_websocket_with_a_credential_is_passed_on(header: tuple[bytes, bytes]) -> None:
    behind, sent, scope = Behind(), Sent(), websocket_scope(header)
    await AuthMiddleware(behind, backend=KEYS)(scope, Receiving(), sent)
    assert behind.scopes == [scope]
    assert scope["user"] == Principal(id="ci")
    assert sent.messages == []


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_are_passed_on_untouched(kind: str) -> None:
    behind, scope = Behind(), {"type": kind}
    await AuthMiddleware(behind, backend=Answers(ZeroDivisionError()))(scope, Receiving(), Sent())
    assert behind.scopes == [scope]
    assert scope == {"type": kind}


async def test_anybody_is_anonymous() -> None:
    behind = Behind()
    await call(AuthMiddleware(behind, backend=Anonymous()), http_scope([(b"x-api-key", b"anything")]))
    assert behind.principal == Principal(id="anonymous")


def tenant(scope: Scope) -> str | None:
    return scope.get("tenant")


async def async_tenant(scope: Scope) -> Principal | None:
    name = tenant(scope)
    return Principal(id=name, team="t") if name else None


async def test_the_hosts_function_returns_the_principal() -> None:
    behind = Behind()
    await call(AuthMiddleware(behind, backend=HostUser(tenant)), http_scope(tenant="acme"))
    assert behind.principal == Principal(id="acme")


async def test_the_hosts_function_may_be_async() -> None:
    behind = Behind()
    await call(AuthMiddleware(behind, backend=HostUser(async_tenant)), http_scope(tenant="acme"))
    assert behind.principal == Principal(id="acme", team="t")


@pytest.mark.parametrize("user", [tenant, async_tenant])
@pytest.mark.parametrize("name", [None, ""])
async def test_none_and_an_empty_id_are_refused(
    user: Callable[[Scope], str | Awaitable[Principal | None] | None], name: str | None
) -> None:
    sent = await call(AuthMiddleware(Behind(), backend=HostUser(user)), http_scope(tenant=name))
    assert sent.status == 401
    assert sent.error == {"type": "authentication_error", "message": UNAUTHENTICATED}
