"""Configuration by environment variables; problems name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import ENVIRON, HASH, KEYS, OTHER_HASH, PROVIDER, written

from bud_asgi import ApiKey, Limit, MessagesApp
from bud_asgi.config import ConfigError, from_env, read_environment

SECRET = "a secret must be visible ASCII without spaces or line breaks, and not empty"
KINDS = 'expected "anthropic", "bedrock" or "vertex"'
NO_USER = "must not contain a user, query or fragment; a credential has its own option"
LOCATION = 'expected a location: "global", "us", "eu" or a region'
PROJECT = "expected the id of a Google Cloud project"
REGION = 'expected an AWS region, such as "us-east-1"'
NO_KEY = "ANTHROPIC_API_KEY: not set; set it, or set BUD_ASGI_CONFIG to the path of a configuration file"
ENTRY = (
    "expected NAME=sha256:HEX, with 64 lower-case hex digits, as shown by `bud-asgi keys new NAME`; "
    "the entry is not shown"
)
CALLERS = (
    "BUD_ASGI_KEYS: missing; expected NAME=sha256:HEX,..., or BUD_ASGI_KEY_STORE, or BUD_ASGI_ALLOW_ANONYMOUS=1 to"
    " admit all"
)
OPEN = {"BUD_ASGI_ALLOW_ANONYMOUS": "1"}
STORE = '[store]\nurl = "redis://store"\n'

ERRORS: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing is set": ({}, [NO_KEY, CALLERS]),
    "empty is not set": (
        {"ANTHROPIC_API_KEY": "", "BUD_ASGI_KEYS": "", "BUD_ASGI_CONFIG": "", "BUD_ASGI_ALLOW_ANONYMOUS": ""},
        [NO_KEY, CALLERS],
    ),
    "a key that cannot be sent in a header": (
        {"ANTHROPIC_API_KEY": "CANARY\n", **OPEN},
        [f"ANTHROPIC_API_KEY: {SECRET}"],
    ),
    "a URL with a password, and a key in place of a hash": (
        {"ANTHROPIC_BASE_URL": "http://me:CANARY@host", "BUD_ASGI_KEYS": f"ci={HASH},x=CANARY"},
        [f"ANTHROPIC_BASE_URL: {NO_USER}", NO_KEY, f"BUD_ASGI_KEYS[1]: {ENTRY}"],
    ),
    "a key alone": ({**ENVIRON, "BUD_ASGI_KEYS": "sk-bud-CANARY"}, [f"BUD_ASGI_KEYS[0]: {ENTRY}"]),
    "two equal names, two equal hashes": (
        {**ENVIRON, "BUD_ASGI_KEYS": f"a={HASH},a={OTHER_HASH},b={HASH}"},
        [
            "BUD_ASGI_KEYS[1]: duplicate name or hash, already used by BUD_ASGI_KEYS[0]",
            "BUD_ASGI_KEYS[2]: duplicate name or hash, already used by BUD_ASGI_KEYS[0]",
        ],
    ),
    "keys and anonymous access": (
        {**ENVIRON, **OPEN, "BUD_ASGI_KEYS": f"a={HASH}"},
        ["BUD_ASGI_ALLOW_ANONYMOUS: cannot be combined with BUD_ASGI_KEYS"],
    ),
    "an unknown provider": ({**OPEN, "BUD_ASGI_PROVIDER": "azure"}, [f'BUD_ASGI_PROVIDER: {KINDS}, got "azure"']),
    "Bedrock without a region": (
        {"BUD_ASGI_PROVIDER": "bedrock", "AWS_REGION": ""},
        [f"AWS_REGION: missing; {REGION}", CALLERS],
    ),
    "Bedrock with an invalid region": (
        {**OPEN, "BUD_ASGI_PROVIDER": "bedrock", "AWS_DEFAULT_REGION": "US East"},
        [f'AWS_DEFAULT_REGION: {REGION}, got "US East"'],
    ),
    "Vertex AI without a project": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "CLOUD_ML_REGION": "eu"},
        [f"ANTHROPIC_VERTEX_PROJECT_ID: missing; {PROJECT}"],
    ),
    "Vertex AI with an invalid project": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "a b"},
        [f'ANTHROPIC_VERTEX_PROJECT_ID: {PROJECT}, got "a b"'],
    ),
    "Vertex AI with an invalid location": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "p", "CLOUD_ML_REGION": "Mars"},
        [f'CLOUD_ML_REGION: {LOCATION}, got "Mars"'],
    ),
    "neither yes nor no": (
        {**ENVIRON, "BUD_ASGI_KEYS": f"a={HASH}", "BUD_ASGI_ALLOW_ANONYMOUS": "no", "BUD_ASGI_ACCESS_LOG": "yes"},
        ['BUD_ASGI_ACCESS_LOG: expected 1 or 0, got "yes"', 'BUD_ASGI_ALLOW_ANONYMOUS: expected 1 or 0, got "no"'],
    ),
}


@pytest.mark.parametrize(("environ", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_each_problem_names_its_variable(environ: dict[str, str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        from_env(environ)
    assert str(raised.value).splitlines() == [f"environment: {line}" for line in expected]
    assert "CANARY" not in str(raised.value)


def test_an_upstream_key_and_the_callers_keys_are_enough() -> None:
    settings = read_environment({**ENVIRON, "BUD_ASGI_KEYS": f"ci={HASH}, me = {OTHER_HASH},"})
    assert settings.keys == (ApiKey(name="ci", hash=HASH), ApiKey(name="me", hash=OTHER_HASH))
    assert [(provider.name, provider.base_url) for provider in settings.providers] == [
        ("anthropic", "https://api.anthropic.com")
    ]
    assert settings.access_log is None
    assert isinstance(settings.app(), MessagesApp)


def test_another_server_and_anonymous_access() -> None:
    settings = read_environment({"ANTHROPIC_BASE_URL": "http://127.0.0.1:11434", **OPEN})
    assert (settings.providers[0].base_url, settings.keys) == ("http://127.0.0.1:11434", ())


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        (
            {"BUD_ASGI_PROVIDER": "anthropic", **ENVIRON},
            "Anthropic(name='anthropic', base_url='https://api.anthropic.com')",
        ),
        (
            {"BUD_ASGI_PROVIDER": "bedrock", "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1", **ENVIRON},
            "Bedrock(name='bedrock', region='eu-west-1', endpoint='bedrock-runtime.eu-west-1.amazonaws.com')",
        ),
        (
            {"BUD_ASGI_PROVIDER": "bedrock", "AWS_DEFAULT_REGION": "us-east-1"},
            "Bedrock(name='bedrock', region='us-east-1', endpoint='bedrock-runtime.us-east-1.amazonaws.com')",
        ),
        (
            {"BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "p"},
            "Vertex(name='vertex', project='p', region='global')",
        ),
        (
            {"BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "p", "CLOUD_ML_REGION": "eu"},
            "Vertex(name='vertex', project='p', region='eu')",
        ),
    ],
)
def test_the_kind_of_provider_is_named(environ: dict[str, str], shown: str) -> None:
    settings = read_environment({**environ, **OPEN})
    assert list(map(repr, settings.providers)) == [shown]
    assert isinstance(settings.app(), MessagesApp)


def test_the_sizes_of_bodies_are_variables_too() -> None:
    sizes = {
        "BUD_ASGI_MAX_BODY": "1000",
        "BUD_ASGI_BODY_BUDGET": "5000",
        "BUD_ASGI_BODY_BUDGET_PRINCIPAL": "2000",
    }
    settings = read_environment({**ENVIRON, **OPEN, **sizes})
    assert (settings.max_body, settings.body_budget, settings.body_budget_per_principal) == (1000, 5000, 2000)
    settings = read_environment({**ENVIRON, **OPEN})
    assert (settings.max_body, settings.body_budget, settings.body_budget_per_principal) == (32 << 20, None, None)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("BUD_ASGI_BODY_BUDGET", "1000", "expected at least max_body (33554432 bytes), got 1000"),
        ("BUD_ASGI_BODY_BUDGET", "64MB", 'expected a number of bytes, more than 0, got "64MB"'),
        ("BUD_ASGI_BODY_BUDGET_PRINCIPAL", "-1", 'expected a number of bytes, more than 0, got "-1"'),
        ("BUD_ASGI_MAX_BODY", "0", "expected a number of bytes, more than 0, got 0"),
    ],
)
def test_a_size_that_makes_no_sense_is_named_by_its_variable(variable: str, value: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_environment({**ENVIRON, **OPEN, variable: value})
    assert str(raised.value) == f"environment: {variable}: {problem}"


def test_a_file_decides_except_for_an_access_log_that_it_does_not_set(tmp_path: Path) -> None:
    file = written(tmp_path, PROVIDER + KEYS)
    environ = {**ENVIRON, **OPEN, "BUD_ASGI_CONFIG": str(file), "BUD_ASGI_ACCESS_LOG": "1"}
    settings = read_environment(environ)
    assert (settings.source, [key.name for key in settings.keys], settings.access_log) == (str(file), ["ci"], True)
    file.write_text("access_log = false\n" + file.read_text())
    assert read_environment(environ).access_log is False


def limited(folder: Path, more: str = "") -> dict[str, str]:
    limits = "limits = [{ concurrent = 9 }]\n[[limits]]\nrequests = 60\n[[limits]]\ntokens = 4\nmode = 'observe'\n"
    return {**ENVIRON, "BUD_ASGI_CONFIG": str(written(folder, PROVIDER + KEYS + limits + more))}


def test_limits_are_divided_among_processes(tmp_path: Path) -> None:
    settings = read_environment({**limited(tmp_path), "BUD_ASGI_LIMITS_DIVISOR": "4"})
    assert settings.limits == (Limit("requests", 15), Limit("tokens", 1, mode="observe"))
    assert settings.keys[0].limits == (Limit("concurrent", 2),)
    settings = read_environment({**limited(tmp_path), "BUD_ASGI_LIMITS_DIVISOR": "1"})
    assert [limit.amount for limit in settings.limits] == [60, 4]


def test_amounts_that_cannot_be_divided_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_environment({**limited(tmp_path), "BUD_ASGI_LIMITS_DIVISOR": "10"})
    expected = "expected at least 10, fewer workers, or a [store], which all workers share"
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/gateway.toml: limits[1].tokens: 4 cannot be divided among 10 workers; {expected}",
        f"{tmp_path}/gateway.toml: keys[0].limits[0].concurrent: 9 cannot be divided among 10 workers; {expected}",
    ]


def test_limits_in_a_store_are_not_divided(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.toml: store: counts the limits of all workers together"):
        read_environment({**limited(tmp_path, STORE), "BUD_ASGI_LIMITS_DIVISOR": "2"})
    settings = read_environment({**limited(tmp_path, STORE), "BUD_ASGI_LIMITS_DIVISOR": ""})
    assert settings.limits[0] == Limit("requests", 60)


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "four", "9999999"])
def test_a_divisor_is_a_number_of_processes(value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_environment({**ENVIRON, **OPEN, "BUD_ASGI_LIMITS_DIVISOR": value})
    problem = f'BUD_ASGI_LIMITS_DIVISOR: expected a number of processes, at least 1, got "{value}"'
    assert str(raised.value) == f"environment: {problem}"


def test_the_errors_of_that_file_name_it(tmp_path: Path) -> None:
    file = written(tmp_path, PROVIDER)
    with pytest.raises(ConfigError, match=r"gateway\.toml: keys: missing"):
        from_env({**ENVIRON, "BUD_ASGI_CONFIG": str(file)})


def test_opentelemetry_is_an_observer_of_the_app(tmp_path: Path) -> None:
    file = written(tmp_path, PROVIDER + KEYS)
    environ = {**ENVIRON, **OPEN, "BUD_ASGI_CONFIG": str(file), "BUD_ASGI_OPENTELEMETRY": "1"}
    for environment, expected in ((environ, 1), ({**environ, "BUD_ASGI_OPENTELEMETRY": "0"}, 0)):
        assert len(read_environment(environment).app()._observers.request_started) == expected
    file.write_text("opentelemetry = false\n" + file.read_text())
    assert read_environment(environ).app()._observers.request_started == ()
