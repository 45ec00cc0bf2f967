"""Every constructor names a wrong option and what it expects, and never shows a possible secret."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pydantic
import pytest
from test_public_names import ROOMS

from bud_asgi import (
    Anthropic,
    ApiKey,
    ApiKeys,
    Bedrock,
    HostUser,
    Limit,
    Principal,
    RedisStore,
    Route,
    RouteTable,
    Secret,
    Target,
    Vertex,
    hash_api_key,
)
from bud_asgi.auth import KeyAdmin, MemoryKeyStore, SqlKeyStore
from bud_asgi.options import OptionError, check_integer, check_seconds, duplicates, option_path, shown
from bud_asgi.providers import AwsCredential, GoogleCredential

HASH = hash_api_key("x")
PATTERNS = 'models: expected a list of model names or patterns with *, such as ["claude-haiku-*"]'
AUTH = 'expected "x-api-key", "bearer" or "client"'
BETAS = 'allow_betas: expected a list of beta flags, such as ["context-1m-2025-08-07"]'
FIELDS = 'drop_fields: expected a list of request fields, such as ["metadata", "tools.strict"]'


def anthropic(**options: Any) -> Anthropic:
    given: dict[str, Any] = {"api_key": "k", **options}
    return Anthropic(**given)


def bedrock(**options: Any) -> Bedrock:
    given: dict[str, Any] = {"region": "us-east-1", **options}
    return Bedrock(**given)


def vertex(**options: Any) -> Vertex:
    given: dict[str, Any] = {"project": "p", **options}
    return Vertex(**given)


def api_key(**options: Any) -> ApiKey:
    given: dict[str, Any] = {"name": "ci", "hash": HASH, **options}
    return ApiKey(**given)


WRONG: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (anthropic, {"auth": "Bearer"}, f'auth: {AUTH}, got "Bearer" (did you mean "bearer"?)'),
    (anthropic, {"auth": None}, f"auth: missing; {AUTH}"),
    (anthropic, {"auth": "client"}, 'api_key: cannot be combined with auth = "client"'),
    (anthropic, {"api_key": None}, "api_key: missing; https://api.anthropic.com requires one"),
    (anthropic, {"api_key": 5}, "api_key: expected a string or a Secret, got a value that is not shown"),
    (anthropic, {"name": ""}, 'name: expected a string that is not empty, got ""'),
    (anthropic, {"name": 7}, "name: expected a string that is not empty, got 7"),
    (anthropic, {"timeouts": 30.0}, "timeouts: expected a Timeouts, got 30.0"),
    (anthropic, {"tls": True}, "tls: expected an ssl.SSLContext, got True"),
    (anthropic, {"trace_context": "false"}, 'trace_context: expected true or false, got "false"'),
    (anthropic, {"base_url": "ws://host"}, 'base_url: expected an http or https URL with a host, got "ws://host"'),
    (anthropic, {"base_url": 5}, "base_url: expected a URL with a valid host and port, got a value that is not shown"),
    (bedrock, {"region": 1}, 'region: expected an AWS region, such as "us-east-1", got 1'),
    (bedrock, {"allow_betas": "x"}, f'{BETAS}, got "x"'),
    (bedrock, {"allow_betas": [["x"]]}, f"{BETAS}, got a list in it"),
    (bedrock, {"drop_fields": "thinking"}, f'{FIELDS}, got "thinking"'),
    (bedrock, {"drop_fields": 3}, f"{FIELDS}, got 3"),
    (bedrock, {"user_profiles": "false"}, 'user_profiles: expected true or false, got "false"'),
    (bedrock, {"model_ids": "x"}, 'model_ids: expected a mapping of model names to ids or ARNs on Bedrock, got "x"'),
    (bedrock, {"model_ids": {"a": 5}}, "model_ids.a: expected the id or ARN of a model on Bedrock, got 5"),
    (bedrock, {"guardrail": "gr"}, 'guardrail: expected an id and a version, such as ("gr-abc123", "1"), got "gr"'),
    (
        bedrock,
        {"guardrail": ("gr", 1)},
        'guardrail.version: expected the version of a guardrail: a number or "DRAFT", got 1',
    ),
    (
        bedrock,
        {"client_headers": "x-amzn-bedrock-trace"},
        'client_headers: expected a list of header names, such as ["x-amzn-bedrock-trace"], got "x-amzn-bedrock-trace"',
    ),
    (bedrock, {"endpoint": 5}, "endpoint: expected a host, or an http or https URL, got 5"),
    (vertex, {"project": 5}, "project: expected the id of a Google Cloud project, got 5"),
    (vertex, {"region": ["eu"]}, 'region: expected a location: "global", "us", "eu" or a region, got a list'),
    (vertex, {"drop_fields": "thinking"}, f'{FIELDS}, got "thinking"'),
    (vertex, {"timeouts": 3}, "timeouts: expected a Timeouts, got 3"),
    (
        GoogleCredential,
        {"service_account_file": 5},
        "service_account_file: expected the path of a service account's key file, got a value that is not shown",
    ),
    (bedrock, {"profile": ["p"]}, "profile: expected the name of an AWS profile, got a list"),
    (api_key, {"models": "claude-haiku-*"}, f'{PATTERNS}, got "claude-haiku-*"'),
    (api_key, {"models": "*"}, f'{PATTERNS}, got "*"'),
    (api_key, {"models": [5]}, f"{PATTERNS}, got 5 in it"),
    (api_key, {"models": None}, PATTERNS.replace("expected", "missing; expected")),
    (api_key, {"name": None}, "name: missing; expected a string that is not empty"),
    (api_key, {"team": ""}, 'team: expected a string that is not empty, got ""'),
    (api_key, {"limits": Limit("requests", 1)}, "limits: expected a list of Limit, got an object of type Limit"),
    (api_key, {"limits": [60]}, "limits[0]: expected a Limit, got 60"),
    (
        api_key,
        {"limits": [Limit("requests", 1), Limit("requests", 2)]},
        "limits[1]: counts the same as limits[0]; expected one limit for both",
    ),
    (
        Principal,
        {"id": "p", "limits": [Limit("requests", 1, per="team")]},
        "limits[0].per: a limit that a caller carries counts for that caller alone",
    ),
    (
        Principal,
        {"id": "p", "limits": [Limit("requests", 1, teams=("a",))]},
        "limits[0].teams: meaningless on a limit that a caller carries",
    ),
    (
        ApiKeys,
        {"keys": "hunter2"},
        "keys: expected a mapping of names to hashes, or a list of ApiKey, got a value that is not shown",
    ),
    (ApiKeys, {"keys": [{"name": "x"}]}, "keys[0]: expected an ApiKey, got a dict"),
    (ApiKeys, {"keys": None}, "keys: missing; expected keys, a store, or {} to accept no key at all"),
    (HostUser, {"user": "me"}, 'user: expected a function of the ASGI scope, got "me"'),
    (Principal, {"id": "p", "models": "claude-*"}, f'{PATTERNS}, got "claude-*"'),
    (Principal, {"id": ""}, 'id: expected a string that is not empty, got ""'),
    (
        Limit,
        {"kind": "token", "amount": 5},
        (
            'kind: expected "requests", "input_tokens", "output_tokens", "tokens" or "concurrent", got "token"'
            ' (did you mean "tokens"?)'
        ),
    ),
    (
        Limit,
        {"kind": "requests", "amount": 5, "per": "key"},
        'per: expected "principal", "team", "model" or "all", or a function of the Exchange, got "key"',
    ),
    (
        Limit,
        {"kind": "requests", "amount": 5, "wait": 61},
        "wait: expected a number of seconds, at most 60, got 61",
    ),
    (Limit, {"kind": "requests", "amount": 1.5}, "amount: expected a whole number, at least 1, got 1.5"),
    (Limit, {"kind": "requests", "amount": True}, "amount: expected a whole number, at least 1, got True"),
    (
        Limit,
        {"kind": "requests", "amount": 5, "window": "1m"},
        'window: expected a number of seconds, more than 0, got "1m"',
    ),
    (Target, {"provider": "a", "model": 5}, "model: expected the provider's name of a model, got 5"),
    (Target, {"provider": ""}, 'provider: expected the name of a provider, got ""'),
    (
        Route,
        {"model": "m", "to": "anthropic"},
        'to: expected a list of targets: names of providers, or pairs of a provider and its model, got "anthropic"',
    ),
    (
        Route,
        {"model": "m", "to": ["a", 5]},
        "to[1]: expected the name of a provider, or a provider with a model, got 5",
    ),
    (Route, {"model": 5, "to": ["a"]}, 'model: expected a model name or a pattern with *, such as "claude-*", got 5'),
    (RouteTable, {"routes": ["m"]}, 'routes[0]: expected a Route, got "m"'),
]


@pytest.mark.parametrize(("make", "options", "message"), WRONG, ids=[message.split(",")[0] for *_, message in WRONG])
def test_a_wrong_option_is_refused_by_name(make: Callable[..., object], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        make(**options)
    assert str(raised.value) == message
    assert f"{raised.value.option}: {raised.value.problem}" == message


def test_a_list_of_models_becomes_a_tuple() -> None:
    models: Any = ["fast", "claude-*"]
    assert api_key(models=models).models == ("fast", "claude-*")
    assert Principal(id="p", models=models).may_use("claude-opus-5")
    assert not Principal(id="p", models=()).may_use("claude-opus-5")


class SecretStr:
    """What pydantic's type of this name has."""

    def __init__(self, value: object) -> None:
        self._value = value

    def get_secret_value(self) -> Any:
        return self._value


def test_secrets_of_other_libraries_are_accepted() -> None:
    assert vars(anthropic(api_key=SecretStr("k")).credential)["_api_key"].reveal() == "k"
    credential = AwsCredential(
        region="us-east-1", access_key=SecretStr("AKIDOFTHEHOST00001"), secret_key=Secret("hidden-in-a-string")
    )
    assert credential.redact("AKIDOFTHEHOST00001 hidden-in-a-string") == "[secret] [secret]"
    for wrong in ("", "two words", b"bytes", None):
        with pytest.raises(OptionError, match=r"^api_key: ") as raised:
            anthropic(api_key=SecretStr(wrong))
        assert not wrong or str(wrong) not in str(raised.value)


TAKES_A_SECRET: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (Anthropic, {}, "api_key"),
    (Bedrock, {"region": "us-east-1"}, "bearer_token"),
    (AwsCredential, {"region": "us-east-1", "secret_key": "s"}, "access_key"),
    (AwsCredential, {"region": "us-east-1", "access_key": "a"}, "secret_key"),
    (AwsCredential, {"region": "us-east-1", "access_key": "a", "secret_key": "s"}, "session_token"),
    (ApiKeys, {"keys": {"ci": HASH}}, "pepper"),
    (KeyAdmin, {"store": MemoryKeyStore()}, "pepper"),
    (hash_api_key, {"key": "k"}, "pepper"),
]


@pytest.mark.parametrize(
    ("make", "options", "option"), TAKES_A_SECRET, ids=[f"{m.__name__}-{o}" for m, _, o in TAKES_A_SECRET]
)
def test_every_secret_may_be_one_of_pydantic(make: Callable[..., object], options: dict[str, Any], option: str) -> None:
    value = pydantic.SecretStr("the-secret-of-the-host")
    made = make(**options, **{option: value})
    plain = make(**options, **{option: value.get_secret_value()})
    assert made == plain or type(made) is type(plain)
    assert "the-secret-of-the-host" not in repr(made)


def test_a_url_with_a_password_may_be_a_secret_of_pydantic() -> None:
    assert repr(RedisStore(pydantic.SecretStr("redis://:password@host"))) == repr(RedisStore("redis://:password@host"))
    SqlKeyStore(pydantic.SecretStr("postgresql://user:password@host/db"))


def test_no_public_parameter_takes_only_our_own_secret() -> None:
    for room in ROOMS:
        for name, value in vars(importlib.import_module(room)).items():
            if name in {"Secret", "secret_option"} or not callable(value) or not hasattr(value, "__module__"):
                continue
            if str(value.__module__).startswith("bud_asgi") and (inspect.isclass(value) or inspect.isfunction(value)):
                with suppress(TypeError, ValueError):  # a class of exceptions has no signature
                    for parameter in inspect.signature(value).parameters.values():
                        alone = re.sub(r"\bAnySecret\b", "", str(parameter.annotation))
                        assert not re.search(r"\bSecret\b", alone) or name == "NewKey", (room, name, parameter.name)


SHOWN: list[tuple[object, str]] = [
    ("short", '"short"'),
    ('"quoted"', r'"\"quoted\""'),
    ("é", '"é"'),
    ("x" * 61, "a string of 61 characters (not shown)"),
    ("sk-ant-api03-x", "a string of 14 characters (not shown)"),
    ("ABSKQmVkcm9jaw", "a string of 14 characters (not shown)"),
    ("AKIAIOSFODNN7EXAMPLE", "a string of 20 characters (not shown)"),
    ("Bearer x", "a string of 8 characters (not shown)"),
    ("0123456789abcdef0123456789abcdef", "a string of 32 characters (not shown)"),
    (1 << 80, "a number of more than 64 bits"),
    (1.5, "1.5"),
    (True, "True"),
    ([], "an empty list"),
    ({"api_key": "x"}, "a dict"),
    (("x",), "a tuple"),
    (SecretStr("x"), "an object of type SecretStr"),
]


@pytest.mark.parametrize(("value", "text"), SHOWN, ids=[text for _, text in SHOWN])
def test_a_value_is_described_without_a_secret(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1", None])
def test_what_is_not_a_positive_number_of_seconds(value: object) -> None:
    with pytest.raises(OptionError, match=r"^t: "):
        check_seconds("t", value)
    check_seconds("t", float("inf"))
    check_seconds("t", 1)


@pytest.mark.parametrize("value", [0, 11, 1.0, True, "1", None])
def test_what_is_not_an_integer_of_a_range(value: object) -> None:
    with pytest.raises(OptionError, match=r"^n: (expected|missing; expected) 1 to 10"):
        check_integer("n", value, "1 to 10", maximum=10)
    check_integer("n", 10, "1 to 10", maximum=10)


def test_duplicates_name_the_first_of_each() -> None:
    assert list(duplicates(["a", "b", "a", "a", "b"])) == [(2, 0), (3, 0), (4, 1)]


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("to", ("to",)),
        ("to[1].model", ("to", 1, "model")),
        ("model_ids.claude-opus-5", ("model_ids", "claude-opus-5")),
        ('model_ids."a.b \\"c\\""', ("model_ids", 'a.b "c"')),
        ('model_ids.""', ("model_ids", "")),
    ],
)
def test_the_name_of_an_option_is_a_path(option: str, path: tuple[str | int, ...]) -> None:
    assert option_path(option) == path


SIGNATURES = f"""
import importlib, inspect, pydoc
for room in {[*ROOMS, "bud_asgi.config"]!r}:
    module = importlib.import_module(room)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            print(pydoc.render_doc(value))
"""


def test_no_public_signature_shows_the_environment() -> None:
    """`help()` and documentation tools print the defaults of arguments."""
    environ = {**os.environ, "ANTHROPIC_API_KEY": "CANARY-of-the-environment", "OTHER": "CANARY-too"}
    shown = subprocess.run([sys.executable, "-c", SIGNATURES], capture_output=True, text=True, check=True, env=environ)
    assert "from_env(environ" in re.sub(r".\x08", "", shown.stdout)
    assert "CANARY" not in shown.stdout


@pytest.mark.parametrize("room", [*ROOMS, "bud_asgi.config"])
def test_no_default_of_a_public_function_is_the_environment(room: str) -> None:
    module = importlib.import_module(room)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            defaults = [parameter.default for parameter in inspect.signature(value).parameters.values()]
            assert os.environ not in defaults, name
