"""The wrong calls of a first hour, and the whole of what a person reads. Options one by one: tests/test_options.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKeys,
    AuthMiddleware,
    Bedrock,
    ConfigError,
    HostUser,
    Limit,
    MemoryStore,
    MessagesApp,
    Observer,
    Principal,
    RedisStore,
    Route,
    RouteTable,
    Secret,
    from_env,
    from_file,
    hash_api_key,
)
from bud_asgi.auth import Jwt
from bud_asgi.clock import Timing
from bud_asgi.http import Engine, Timeouts
from bud_asgi.providers import Vertex

PROVIDER = Anthropic(api_key="k", base_url="http://127.0.0.1:1")
BACKEND = (
    "auth: expected an object with an async method authenticate(connection), such as ApiKeys({...}), HostUser(...) or "
    "Anonymous(), got "
)
CALLER = "principal: expected a Principal, an id, or a function that returns one, got "
HOST = "host: expected a Starlette or FastAPI app, or a router of either, got "
ELSEWHERE = "; in other frameworks, mount the app as an ASGI app (docs/hosts)"
ENGINE = "an engine must be made in its event loop; pass a function that makes one, as in client=Engine"
STORE = "store: expected an object with the methods of a LimitStore, got "
TARGETS = "to: expected a list of targets: names of providers, or pairs of a provider and its model, got "
MIDDLEWARE = "middleware= replaces auth=, routes=, limits= and store=: pass them to your middleware"
ROUTES = (
    "routes: expected a list of Route, a RouteTable, a function of the model and the principal, or an object with the "
    "methods of a Router, got "
)
REDIS_URL = (
    "url: expected a URL such as redis://host:6379/0, rediss://user:password@host, unix:///path/to/socket, "
    "redis+sentinel://host1:26379,host2:26379/service or redis+cluster://host1,host2; valkey:// means the same"
)
LAYER = (
    "middleware[0]: expected a Middleware, made by Middleware(AuthMiddleware, backend=...) for example, got the class "
    "AuthMiddleware"
)
VISIBLE = "a secret must be visible ASCII without spaces or line breaks, and not empty"
ENVIRONMENT = (
    "environment: ANTHROPIC_API_KEY: not set; set it, or set BUD_ASGI_CONFIG to the path of a configuration file\n"
    "environment: BUD_ASGI_KEYS: missing; expected NAME=sha256:HEX,..., or BUD_ASGI_KEY_STORE, or "
    "BUD_ASGI_ALLOW_ANONYMOUS=1 to admit all"
)


def app(**options: Any) -> MessagesApp:
    settings: dict[str, Any] = {"providers": [PROVIDER], "auth": Anonymous(), **options}
    return MessagesApp(**settings)


def override(**options: Any) -> None:
    with app().override(**options):
        pass


def wrong(value: object) -> Any:
    """A value that a type checker would refuse."""
    return value


bedrock: Any = Bedrock

WRONG: list[tuple[Callable[[], object], str]] = [
    # the app
    (
        lambda: MessagesApp(providers=[PROVIDER]),
        "auth: missing; expected auth=ApiKeys(...), auth=HostUser(...), or auth=Anonymous() to accept every request",
    ),
    (lambda: app(auth={"ci": "sha256:x"}), f"{BACKEND}a dict"),
    (lambda: app(auth=hash_api_key), f"{BACKEND}the function hash_api_key"),
    (lambda: app(auth=ApiKeys), f"{BACKEND}the class ApiKeys"),
    (lambda: app(auth="sk-ant-of-the-caller"), f"{BACKEND}a string of 20 characters (not shown)"),
    (lambda: app(auth=[]), "auth: an empty list; expected at least one authentication backend"),
    (lambda: app(providers=PROVIDER), "providers: expected a list of providers, got an object of type Anthropic"),
    (lambda: app(providers=[]), "providers: at least one is needed"),
    (
        lambda: app(providers=["anthropic"]),
        'providers[0]: expected a provider, such as Anthropic(...), got "anthropic"',
    ),
    (
        lambda: app(providers=[PROVIDER, PROVIDER]),
        "providers: two have the name 'anthropic', providers[0] and providers[1]; give one of them another name=",
    ),
    (
        lambda: app(providers=[PROVIDER, Anthropic(api_key="k", name="b")]),
        "routes: needed with more than one provider, to choose between them",
    ),
    (lambda: app(routes=[("claude-*", "anthropic")]), "routes[0]: expected a Route, got a tuple"),
    (lambda: app(routes={"claude-*": ["anthropic"]}), f"{ROUTES}a dict"),
    (lambda: app(routes=[Route("claude-*", to=wrong("anthropic"))]), f'{TARGETS}"anthropic"'),
    (lambda: app(routes=[Route("claude-*", to=[])]), f"{TARGETS}an empty list"),
    (
        lambda: app(routes=[Route("claude-*", to=["antropic"])]),
        "routes: unknown provider 'antropic' in the route 'claude-*' (did you mean \"anthropic\"?)",
    ),
    (
        lambda: app(routes=[Route("a", to=["anthropic"]), Route("a", to=["anthropic"])]),
        "routes[1].model: duplicate route, already defined by routes[0]",
    ),
    (lambda: RouteTable(wrong({"a": "b"})), "routes: expected a list of Route, got a dict"),
    (lambda: app(limits={"requests": 60}), "limits: expected a list of Limit, got a dict"),
    (lambda: app(limits=Limit("requests", 60)), "limits: expected a list of Limit, got an object of type Limit"),
    (lambda: app(store="redis://localhost"), f'{STORE}"redis://localhost"'),
    (lambda: app(store=MemoryStore), f"{STORE}the class MemoryStore"),
    (
        lambda: RedisStore("localhost:6379"),
        REDIS_URL,
    ),
    (lambda: app(max_body="32MB"), 'max_body: expected a number of bytes, more than 0, got "32MB"'),
    (lambda: app(drain_timeout="30"), 'drain_timeout: expected a number of seconds, at least 0, got "30"'),
    (lambda: app(timing=30), "timing: expected a Timing, got 30"),
    (lambda: Timing(ping_after=-1), "ping_after: expected a number of seconds, at least 0, got -1"),
    (lambda: Timeouts(connect=-1), "connect: expected a number of seconds, more than 0, got -1"),
    (lambda: app(on_settled="ledger"), 'on_settled: expected an async function of the Exchange, got "ledger"'),
    (lambda: app(observers=Observer()), "observers: expected a list of Observer, got an object of type Observer"),
    (lambda: app(observers=[Observer]), "observers[0]: expected an Observer, got the class Observer"),
    (lambda: app(access_log="yes"), 'access_log: expected true or false, got "yes"'),
    (lambda: app(client=Engine()), ENGINE),
    (lambda: app(middleware=[AuthMiddleware]), MIDDLEWARE),
    (
        lambda: app(auth=None, middleware=[AuthMiddleware]),
        LAYER,
    ),
    # what belongs to it
    (lambda: app().install(FastAPI(), "llm"), "path: the path to install at must begin with a slash, not 'llm'"),
    (lambda: app().install(wrong("/llm"), wrong(FastAPI())), f'{HOST}"/llm"{ELSEWHERE}'),
    (lambda: app().install(wrong(FastAPI), "/llm"), f"{HOST}the class FastAPI{ELSEWHERE}"),
    (
        lambda: app().install(APIRouter(), "/llm", final_error_event=True),
        "final_error_event: a router has no middleware; install in the app itself to set it",
    ),
    (
        lambda: app().router(dependencies=wrong(Depends(print))),
        "dependencies: expected a list of Depends(...), got an object of type Depends",
    ),
    (
        lambda: app().router(principal=wrong("ada")),
        'principal: expected a dependency: a function that returns the caller, got "ada"',
    ),
    (lambda: app().transport(wrong(None)), "principal: missing; expected a Principal or its id"),
    (lambda: app().transport(wrong(Principal)), f"{CALLER}the class Principal"),
    (lambda: override(providers=PROVIDER), "providers: expected a list of providers, got an object of type Anthropic"),
    (lambda: override(auth=ApiKeys), f"{BACKEND}the class ApiKeys"),
    # the rest
    (Anthropic, "api_key: missing; https://api.anthropic.com requires one"),
    (lambda: Anthropic(api_key="sk-ant-x\n"), f"api_key: {VISIBLE}"),
    (
        lambda: Anthropic(api_key="k", base_url="api.anthropic.com"),
        'base_url: expected an http or https URL with a host, got "api.anthropic.com"',
    ),
    (lambda: bedrock(region="us-east-1", access_key="x"), "access_key: requires secret_key"),
    (
        lambda: bedrock(region="us-east-1", acess_key="x"),
        "Bedrock has no option 'acess_key' (did you mean \"access_key\"?)",
    ),
    (lambda: Vertex(project=wrong(5)), "project: expected the id of a Google Cloud project, got 5"),
    (lambda: HostUser(wrong(lambda: "me")), "user: expected a function of the ASGI scope, got the function <lambda>"),
    (
        lambda: Jwt(issuers=wrong("https://issuer.example")),
        'issuers: expected an Issuer or a list of them, got "https://issuer.example"',
    ),
    (
        lambda: hash_api_key(wrong(b"x")),
        "key: expected an API key, as made by new_api_key(), got a value that is not shown",
    ),
    (lambda: Secret(wrong(5)), VISIBLE),
    (lambda: Secret.from_env("BUD_ASGI_NOT_SET"), "the environment variable BUD_ASGI_NOT_SET is not set"),
    (lambda: from_file("missing.toml"), "missing.toml: cannot read the file: No such file or directory"),
    (lambda: from_env({}), ENVIRONMENT),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words.split("\n")[0][:60] for _, words in WRONG])
def test_a_wrong_call_is_answered_with_what_to_do(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError, ConfigError)) as refused:
        call()
    assert str(refused.value) == words
