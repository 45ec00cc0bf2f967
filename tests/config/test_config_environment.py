"""The environment alone is enough; what is wrong in it is named by its variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import ENVIRON, HASH, KEYS, OTHER_HASH, PROVIDER, written

from bud_asgi import ApiKey, MessagesApp
from bud_asgi.config import ConfigError, from_env, read_environment

NO_KEYS = "NAME=sha256:HEX,..., or BUD_ASGI_ALLOW_ANONYMOUS=1 to let everybody in"
NO_ENTRY = "NAME=sha256:HEX, with 64 lower-case hex digits, as `bud-asgi keys new NAME` shows it"
NO_URL = "an http or https URL without user, query and fragment; a credential belongs in the API key"
OPEN = {"BUD_ASGI_ALLOW_ANONYMOUS": "1"}

ERRORS: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing is set": (
        {},
        [
            "ANTHROPIC_API_KEY: not set, and neither is BUD_ASGI_CONFIG, which would name a file",
            f"BUD_ASGI_KEYS: found nothing; allowed is {NO_KEYS}",
        ],
    ),
    "empty is not set": (
        {"ANTHROPIC_API_KEY": "", "BUD_ASGI_KEYS": "", "BUD_ASGI_CONFIG": "", "BUD_ASGI_ALLOW_ANONYMOUS": ""},
        [
            "ANTHROPIC_API_KEY: not set, and neither is BUD_ASGI_CONFIG, which would name a file",
            f"BUD_ASGI_KEYS: found nothing; allowed is {NO_KEYS}",
        ],
    ),
    "a key that no header can hold": (
        {"ANTHROPIC_API_KEY": "CANARY\n", **OPEN},
        [
            (
                "ANTHROPIC_API_KEY: its value can't be used:"
                " a secret must be visible ASCII without spaces or line ends, and not empty"
            )
        ],
    ),
    "a URL with a password, and a key in place of a hash": (
        {"ANTHROPIC_BASE_URL": "http://me:CANARY@host", "BUD_ASGI_KEYS": f"ci={HASH},x=CANARY"},
        [
            f"ANTHROPIC_BASE_URL: found a string that is not shown here; allowed is {NO_URL}",
            f"BUD_ASGI_KEYS: found entry 2, which is not shown here; allowed is {NO_ENTRY}",
        ],
    ),
    "a key alone": (
        {**ENVIRON, "BUD_ASGI_KEYS": "sk-bud-CANARY"},
        [f"BUD_ASGI_KEYS: found entry 1, which is not shown here; allowed is {NO_ENTRY}"],
    ),
    "two equal names, two equal hashes": (
        {**ENVIRON, "BUD_ASGI_KEYS": f"a={HASH},a={OTHER_HASH},b={HASH}"},
        [
            "BUD_ASGI_KEYS: entry 2 has the name or the hash of an earlier one",
            "BUD_ASGI_KEYS: entry 3 has the name or the hash of an earlier one",
        ],
    ),
    "keys and everybody": (
        {**ENVIRON, **OPEN, "BUD_ASGI_KEYS": f"a={HASH}"},
        ["BUD_ASGI_ALLOW_ANONYMOUS: found 1 beside BUD_ASGI_KEYS; allowed is one of the two"],
    ),
    "a provider that is none": (
        {**OPEN, "BUD_ASGI_PROVIDER": "azure"},
        ['BUD_ASGI_PROVIDER: found "azure"; allowed is "anthropic", "bedrock" or "vertex"'],
    ),
    "Bedrock nowhere": (
        {"BUD_ASGI_PROVIDER": "bedrock", "AWS_REGION": ""},
        [
            'AWS_REGION: found nothing; allowed is a region of AWS, such as "us-east-1"',
            f"BUD_ASGI_KEYS: found nothing; allowed is {NO_KEYS}",
        ],
    ),
    "Bedrock in no region": (
        {**OPEN, "BUD_ASGI_PROVIDER": "bedrock", "AWS_DEFAULT_REGION": "US East"},
        ["AWS_DEFAULT_REGION: region: invalid value 'US East'"],
    ),
    "Vertex AI without a project": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "CLOUD_ML_REGION": "eu"},
        ["ANTHROPIC_VERTEX_PROJECT_ID: found nothing; allowed is the id of a project of Google Cloud"],
    ),
    "Vertex AI in a project that is none": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "a b"},
        ["ANTHROPIC_VERTEX_PROJECT_ID: the provider 'vertex' needs a project, of visible ASCII"],
    ),
    "Vertex AI nowhere": (
        {**OPEN, "BUD_ASGI_PROVIDER": "vertex", "ANTHROPIC_VERTEX_PROJECT_ID": "p", "CLOUD_ML_REGION": "Mars"},
        ["CLOUD_ML_REGION: a location of Vertex AI can't be 'Mars'"],
    ),
    "neither yes nor no": (
        {**ENVIRON, "BUD_ASGI_KEYS": f"a={HASH}", "BUD_ASGI_ALLOW_ANONYMOUS": "no", "BUD_ASGI_ACCESS_LOG": "yes"},
        [
            'BUD_ASGI_ACCESS_LOG: found "yes"; allowed is 1 or 0',
            'BUD_ASGI_ALLOW_ANONYMOUS: found "no"; allowed is 1 or 0',
        ],
    ),
}


@pytest.mark.parametrize(("environ", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_the_words_of_an_error(environ: dict[str, str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        from_env(environ)
    assert str(raised.value).splitlines() == [f"environment: {line}" for line in expected]
    assert "CANARY" not in str(raised.value)


def test_a_key_and_who_may_call_are_enough() -> None:
    settings = read_environment({**ENVIRON, "BUD_ASGI_KEYS": f"ci={HASH}, me = {OTHER_HASH},"})
    assert settings.keys == (ApiKey(name="ci", hash=HASH), ApiKey(name="me", hash=OTHER_HASH))
    assert [(provider.name, provider.base_url) for provider in settings.providers] == [
        ("anthropic", "https://api.anthropic.com")
    ]
    assert settings.access_log is None
    assert isinstance(settings.app(), MessagesApp)


def test_another_server_and_everybody() -> None:
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


def test_a_file_decides_but_for_the_access_log_that_it_does_not_speak_of(tmp_path: Path) -> None:
    file = written(tmp_path, PROVIDER + KEYS)
    environ = {**ENVIRON, **OPEN, "BUD_ASGI_CONFIG": str(file), "BUD_ASGI_ACCESS_LOG": "1"}
    settings = read_environment(environ)
    assert (settings.source, [key.name for key in settings.keys], settings.access_log) == (str(file), ["ci"], True)
    file.write_text("access_log = false\n" + file.read_text())
    assert read_environment(environ).access_log is False


def test_the_errors_of_that_file_name_it(tmp_path: Path) -> None:
    file = written(tmp_path, PROVIDER)
    with pytest.raises(ConfigError, match=r"gateway\.toml: keys: found nothing"):
        from_env({**ENVIRON, "BUD_ASGI_CONFIG": str(file)})
