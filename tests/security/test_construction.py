"""A configuration that is wrong is refused when it is built, by the name of the argument; nothing fails open."""

from __future__ import annotations

import inspect
import json
from collections import UserDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, UnauthenticatedUser
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from support.asgi import VERSION, Behind, Receiving, Sent, http_scope

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKey,
    ApiKeys,
    AuthMiddleware,
    Bedrock,
    HostToken,
    HostUser,
    Limit,
    MemoryStore,
    MessagesApp,
    Principal,
    RateLimitMiddleware,
    Route,
    RouteTable,
    RoutingMiddleware,
    Secret,
    Target,
    Vertex,
    hash_api_key,
)
from bud_asgi.auth import (
    FirstOf,
    Grant,
    Issuer,
    JwksTiming,
    Jwt,
    KeyAdmin,
    KeyTiming,
    MemoryKeyStore,
    SqlKeyStore,
    Throttle,
)
from bud_asgi.clock import Timing
from bud_asgi.config import Settings
from bud_asgi.exchange import Exchange, Offer
from bud_asgi.http import Engine, Origin, PoolLimits, Timeouts
from bud_asgi.limits import Limiter
from bud_asgi.providers import AwsCredential, GoogleCredential

CANARY = "sk-ant-CANARY"
PROVIDER = Anthropic(api_key="k", base_url="http://127.0.0.1:1")
HASH = hash_api_key("x")
REQUESTS = Limit("requests", 1)
ISSUER = Issuer(url="https://issuer.example", audience="a")
ANY_CLASS: Any = ApiKeys
ANY_LIST: Any = [Route("m", ["anthropic"])]


class Odd:
    """An object that is none of what any option accepts."""


NEVER: Sequence[Any] = (5.5, -1, float("nan"), Odd(), Odd, b"bytes", [Odd()], {"a": Odd()}, (n for n in ()), "\ud800")
"""Values that are wrong for every parameter, with the few exceptions below."""

REQUIRED: Mapping[Callable[..., object], Mapping[str, Any]] = {
    MessagesApp: {"providers": [PROVIDER], "auth": Anonymous()},
    Anthropic: {"api_key": "k"},
    Bedrock: {"region": "us-east-1", "bearer_token": "t"},
    Vertex: {"project": "p"},
    AwsCredential: {"region": "us-east-1", "bearer_token": "t"},
    GoogleCredential: {},
    ApiKey: {"name": "n", "hash": HASH},
    ApiKeys: {"keys": {}},
    KeyAdmin: {"store": MemoryKeyStore()},
    KeyTiming: {},
    SqlKeyStore: {"url": "sqlite:keys.db"},
    HostUser: {"user": str.upper},
    HostToken: {"user": str.upper},
    FirstOf: {"backends": [Anonymous()]},
    Throttle: {},
    Grant: {"role": "r"},
    Issuer: {"url": "https://issuer.example", "audience": "a"},
    Jwt: {"issuers": [ISSUER]},
    JwksTiming: {},
    Principal: {"id": "p"},
    Limit: {"kind": "requests", "amount": 1},
    Limiter: {"limits": [REQUESTS]},
    MemoryStore: {},
    Route: {"model": "m", "to": ["p"]},
    RouteTable: {"routes": [Route("m", ["p"])]},
    Target: {"provider": "p"},
    AuthMiddleware: {"app": Behind(), "backend": Anonymous()},
    RoutingMiddleware: {"app": Behind(), "router": RouteTable([])},
    RateLimitMiddleware: {"app": Behind(), "limits": [REQUESTS]},
    Timing: {},
    Timeouts: {},
    PoolLimits: {},
    Origin: {"host": "h", "port": 80},
    Settings: {"source": "environment", "providers": (PROVIDER,)},
}
"""Every public constructor, and valid values for what it requires."""

NUMBERS = {
    "leeway",
    "refresh_after",
    "unknown_key_interval",
    "timeout",
    "window",
    "wait",
    "drain_timeout",
    "keep_alive",
    "max_age",
    "connect",
    "first_byte",
    "silence",
    "total",
    *Timing().__struct_fields__,
    *KeyTiming().__struct_fields__,
}


def _fits(name: str, value: Any) -> bool:
    if name in {"service_account_file", "folder"} and value == "\ud800":  # a name that is not UTF-8
        return True
    return (name in NUMBERS and value == 5.5) or (name == "metadata" and isinstance(value, dict))


@pytest.mark.parametrize("make", REQUIRED, ids=lambda make: make.__name__)
def test_every_parameter_of_every_constructor_refuses_wrong_values_by_name(make: Callable[..., object]) -> None:
    for name in inspect.signature(make).parameters.keys() - {"credential", "tls"}:  # `tls` needs https, see below
        _assert_refuses_wrong_values(make, name)


def _assert_refuses_wrong_values(make: Callable[..., object], name: str) -> None:
    required = {**REQUIRED[make]}
    if name not in {"bearer_token", "region", "service", "timing"}:
        required.pop("bearer_token", None)
    others = {"middleware"} if name in {"auth", "routes", "limits"} else set[str]()
    for value in NEVER:
        if not _fits(name, value):
            with pytest.raises((TypeError, ValueError)) as refused:
                make(**{**required, name: value})
            assert any(word in str(refused.value) for word in {name, *others}), (name, value, refused.value)


APP: dict[str, tuple[dict[str, Any], str]] = {
    "a provider that is not in a list": ({"providers": PROVIDER}, "providers: expected a list"),
    "a class of provider": ({"providers": [Anthropic]}, r"providers\[0\]: .* got the class Anthropic"),
    "a mapping of providers": ({"providers": {"a": PROVIDER}}, "providers: expected a list"),
    "providers that can be read once": ({"providers": iter([PROVIDER])}, "providers: expected a list"),
    "a class of backend": ({"auth": ApiKeys}, "auth: expected an object .* got the class ApiKeys"),
    "a function in place of a backend": ({"auth": hash_api_key}, "auth: expected an object .* got the function"),
    "the name of a kind of authentication": ({"auth": "client"}, "auth: expected an object"),
    "false in place of a backend": ({"auth": False}, "auth: expected an object"),
    "a backend without its method": ({"auth": AuthenticationBackend()}, "auth: expected an object"),
    "a mapping of routes": ({"routes": {"m": "anthropic"}}, "routes: expected a list of Route, .*, got a dict"),
    "a pattern in place of routes": ({"routes": "claude-*"}, 'routes: expected a list of Route, got "claude-\\*"'),
    "one route": ({"routes": Route("m", ["anthropic"])}, "routes: expected a list of Route"),
    "no route": ({"routes": []}, "routes: an empty list serves no model"),
    "a function of the model alone": ({"routes": str.upper}, "routes: expected .* got the function"),
    "a class of router": ({"routes": RouteTable}, "routes: expected .* got the class RouteTable"),
    "a list in place of a router": (
        {"auth": None, "middleware": [Middleware(RoutingMiddleware, router=ANY_LIST)]},
        "router: expected a RouteTable, a function of the model and the principal, .* got a list",
    ),
    "a table with a provider that does not exist": (
        {"routes": RouteTable([Route("m", ["x"])])},
        "routes: unknown provider 'x' in the route 'm'",
    ),
    "one limit": ({"limits": REQUESTS}, "limits: expected a list of Limit"),
    "a number as a limit": ({"limits": [60]}, r"limits\[0\]: expected a Limit, got 60"),
    "no limits but a missing list": ({"limits": None}, "limits: missing"),
    "a class in place of a middleware": (
        {"auth": None, "middleware": [AuthMiddleware]},
        r"middleware\[0\]: expected a",
    ),
    "a class of backend in a middleware": (
        {"auth": None, "middleware": [Middleware(AuthMiddleware, backend=ANY_CLASS)]},
        "backend: expected an object",
    ),
    "an engine in place of its factory": ({"client": Odd()}, "client: expected a function"),
    "a client class of another library": ({"client": Odd}, "client: .*expected Engine"),
    "a factory with an argument": ({"client": hash_api_key}, "client: expected a function"),
    "a callback that is not a function": ({"on_settled": "ledger"}, "on_settled: expected an async function"),
    "a callback without a parameter": ({"on_settled": lambda: None}, "on_settled: expected an async function"),
    "a log level": ({"access_log": "info"}, 'access_log: expected true or false, got "info"'),
    "one": ({"access_log": 1}, "access_log: expected true or false, got 1"),
    "a size in words": ({"max_body": "32MB"}, 'max_body: expected a number of bytes, more than 0, got "32MB"'),
    "no size": ({"max_body": 0}, "max_body: expected a number of bytes"),
    "true as a size": ({"max_body": True}, "max_body: expected a number of bytes"),
    "a huge size": ({"max_body": 1 << 80}, "max_body: expected a number of bytes"),
    "no end of a drain": ({"drain_timeout": float("inf")}, "drain_timeout: expected a number of seconds"),
    "a negative drain": ({"drain_timeout": -1}, "drain_timeout: expected a number of seconds"),
    "durations as a mapping": ({"timing": {"ping_after": 5}}, "timing: expected a Timing"),
}


@pytest.mark.parametrize(("options", "words"), APP.values(), ids=APP.keys())
def test_an_app_with_a_wrong_setting_is_not_built(options: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"providers": [PROVIDER], "auth": Anonymous(), **options}
    with pytest.raises(ValueError, match=words):
        MessagesApp(**settings)


class DuckBackend:
    """A backend by its method alone."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        return AuthCredentials(), Principal(id="p")


class OwnKeys(ApiKeys):
    """A subclass."""


async def _settled(exchange: Exchange, more: str = "") -> None:
    pass


class Ledger:
    """A callable object."""

    async def __call__(self, exchange: Exchange) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"providers": (PROVIDER,)},
        {"providers": deque([PROVIDER])},
        {"auth": OwnKeys(MappingProxyType({"ci": HASH}))},
        {"auth": ApiKeys(UserDict({"ci": HASH}))},
        {"auth": DuckBackend()},
        {"routes": (Route("m", ("anthropic", Target("anthropic", "n"))),), "limits": (REQUESTS,)},
        {"on_settled": _settled, "drain_timeout": 0},
        {"on_settled": partial(_settled, more="x"), "drain_timeout": 5},
        {"on_settled": Ledger(), "client": lambda: Engine(PoolLimits(max_open=5))},
        {"on_settled": Ledger().__call__, "client": partial(Engine, PoolLimits())},
    ],
)
def test_what_is_right_is_accepted_in_every_form(options: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"providers": [PROVIDER], "auth": Anonymous(), **options}
    MessagesApp(**settings)


async def _post(app: MessagesApp) -> Sent:
    sent = Sent()
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}'
    scope = http_scope([VERSION])
    await app(scope, Receiving({"type": "http.request", "body": body, "more_body": False}), sent)
    return sent


class Returns(AuthenticationBackend):
    """A backend that returns a value, or raises it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    async def authenticate(self, conn: HTTPConnection) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class User(BaseUser):
    """A user of the host's with attributes of any type."""

    def __init__(self, identity: Any, is_authenticated: Any = True) -> None:
        self._identity, self._is_authenticated = identity, is_authenticated

    @property
    def identity(self) -> Any:
        return self._identity

    @property
    def is_authenticated(self) -> Any:
        return self._is_authenticated


class Nameless(BaseUser):
    """A user without an identity."""

    @property
    def is_authenticated(self) -> bool:
        return True


def returns_user(user: Any) -> Returns:
    return Returns((AuthCredentials(), user))


BACKENDS: dict[str, tuple[AuthenticationBackend, int, str]] = {
    "nothing": (Returns(None), 401, ""),
    "true": (Returns(True), 500, "expected None, or AuthCredentials and a user, got True"),
    "a user alone": (Returns(Principal(id="p")), 500, "expected None, or AuthCredentials and a user"),
    "text in place of credentials": (Returns(("x", Principal(id="p"))), 500, "expected None, or AuthCredentials"),
    "a user without an identity": (returns_user(Nameless()), 500, "user.identity: Nameless has none"),
    "a user that is none": (returns_user(None), 500, "user.is_authenticated: missing"),
    "an unauthenticated user": (returns_user(UnauthenticatedUser()), 401, ""),
    "a method in place of the property": (returns_user(User("me", lambda: False)), 500, "user.is_authenticated"),
    "no identity": (returns_user(User(None)), 401, ""),
    "an empty identity": (returns_user(User("")), 401, ""),
    "a number as identity": (returns_user(User(5)), 500, "id: expected a string that is not empty, got 5"),
    "half a surrogate pair": (returns_user(User("\ud800")), 500, "id: must not contain half of a surrogate pair"),
    "an exception": (Returns(KeyError(CANARY)), 500, "the request failed"),
    "a function that returns nothing": (HostUser(lambda scope: None), 401, ""),
    "a function that returns an empty id": (HostUser(lambda scope: ""), 401, ""),
    "a function that returns false": (HostUser(lambda scope: False), 401, ""),  # pyright: ignore[reportArgumentType]
    "a function that returns a number": (HostUser(lambda scope: 5), 500, "a Starlette user, an id or None, got 5"),  # pyright: ignore[reportArgumentType]
    "a function that returns true": (HostUser(lambda scope: True), 500, "an id or None, got True"),  # pyright: ignore[reportArgumentType]
    "a function that returns a dict": (HostUser(lambda scope: {"id": "x"}), 500, "an id or None, got a dict"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize(("backend", "status", "words"), BACKENDS.values(), ids=BACKENDS.keys())
@pytest.mark.parametrize("stack", [False, True], ids=["auth", "middleware"])
async def test_a_backend_that_errs_admits_nobody_and_the_log_names_the_fault(
    backend: AuthenticationBackend, status: int, words: str, stack: bool, caplog: pytest.LogCaptureFixture
) -> None:
    layers: dict[str, Any] = (
        {"middleware": [Middleware(AuthMiddleware, backend=backend)]} if stack else {"auth": backend}
    )
    sent = await _post(MessagesApp(providers=[PROVIDER], **layers))
    error = json.loads(sent.body)["error"]
    assert (sent.status, error["type"]) == (status, "authentication_error" if status == 401 else "api_error")
    assert CANARY not in sent.body.decode()
    assert len(caplog.records) == (1 if words else 0)
    assert words in caplog.text


class Store:
    """A limit store that returns or raises a value."""

    def __init__(self, value: object) -> None:
        self.value = value

    async def reserve(self, charges: object) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def settle(self, reservation: object, amounts: object) -> None:
        pass


class Router:
    """A router, and its routes, that return a value or raise it."""

    model = "m"

    def __init__(self, route: object = None, targets: object = None) -> None:
        self.route, self.targets = route, targets

    def resolve(self, model: str, principal: Principal | None) -> Any:
        if isinstance(self.route, Exception):
            raise self.route
        return self.route or self

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        return ()

    def choose(self, exchange: Exchange) -> Any:
        if isinstance(self.targets, Exception):
            raise self.targets
        return self.targets


PLUGGED: dict[str, tuple[Middleware, str]] = {
    "a store that returns nothing": (Middleware(RateLimitMiddleware, limits=[REQUESTS], store=Store(None)), "a Grant"),
    "a store that returns true": (Middleware(RateLimitMiddleware, limits=[REQUESTS], store=Store(True)), "a Grant"),
    "a store that raises": (
        Middleware(RateLimitMiddleware, limits=[REQUESTS], store=Store(ConnectionError())),
        "the request failed",
    ),
    "a router that returns no route": (Middleware(RoutingMiddleware, router=Router("claude")), "instead of a Route"),
    "a router that raises": (Middleware(RoutingMiddleware, router=Router(LookupError())), "the request failed"),
    "names in place of targets": (Middleware(RoutingMiddleware, router=Router(targets=["x"])), "instead of a Target"),
    "a name in place of a list": (Middleware(RoutingMiddleware, router=Router(targets="x")), "instead of a list"),
    "no targets": (Middleware(RoutingMiddleware, router=Router(targets=[])), "no target"),
    "nothing in place of targets": (Middleware(RoutingMiddleware, router=Router()), "instead of a list of Target"),
    "an unknown provider": (
        Middleware(RoutingMiddleware, router=Router(targets=[Target("x")])),
        "unknown provider 'x'",
    ),
    "a choice that raises": (Middleware(RoutingMiddleware, router=Router(targets=KeyError())), "the request failed"),
}


@pytest.mark.parametrize(("layer", "words"), PLUGGED.values(), ids=PLUGGED.keys())
async def test_a_router_or_limit_store_that_errs_lets_nothing_through(
    layer: Middleware, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [Middleware(AuthMiddleware, backend=Anonymous()), layer]
    sent = await _post(MessagesApp(providers=[PROVIDER], middleware=layers))
    assert (sent.status, json.loads(sent.body)["error"]["type"]) == (500, "api_error")
    assert len(caplog.records) == 1
    assert words in caplog.text


def test_a_secret_is_never_shown_where_it_does_not_belong() -> None:
    wrong: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (ApiKeys, {"keys": CANARY}),
        (ApiKeys, {"keys": {CANARY: "x"}}),
        (Bedrock, {"region": CANARY}),
        (AwsCredential, {"region": "us-east-1", "role_arn": "Tr0ub4dor"}),
        (AwsCredential, {"region": "us-east-1", "role_arn": "arn:aws:iam::123456789012:role/x", "external_id": "a b"}),
        (Anthropic, {"api_key": CANARY, "auth": CANARY}),
        (Anthropic, {"base_url": f"ftp://{CANARY}"}),
        (hash_api_key, {"key": b"CANARY"}),
    ]
    for make, options in wrong:
        with pytest.raises(ValueError, match=r": ") as refused:
            make(**options)
        assert not any(text in str(refused.value) for text in ("CANARY", "Tr0ub4dor", "a b"))


def test_a_secret_itself_must_be_sendable() -> None:
    wrong: tuple[Any, ...] = (5, "", None, "a b", Secret)
    for value in wrong:
        with pytest.raises(ValueError, match="secret"):
            Secret(value)
