"""What is wrong with a file is said exactly, all of it at once, and without a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import ENVIRON, HASH, KEYS, PROVIDER, ROUTES, written

from bud_asgi.config import ConfigError, read_file

GOOD = PROVIDER + KEYS
NO_SECRET = "a string that is not shown here; allowed is a reference to the secret, env:NAME or file:PATH"
NO_HASH = "allowed is sha256: and 64 lower-case hex digits, as `bud-asgi keys new NAME` writes it"
NO_URL = "an http or https URL without user, query and fragment; a credential belongs in the API key"
NO_WINDOW = 'allowed is a duration such as "30s", "1m" or "1h", or a number of seconds'
NO_TARGETS = 'allowed is a list of targets, each a provider\'s name or { provider = "NAME", model = "UPSTREAM MODEL" }'
NO_MODELS = 'allowed is a list of model names or patterns with *, such as ["claude-haiku-*"]'
NOBODY = "keys: found nothing; allowed is at least one [[keys]] table, or allow_anonymous = true to let everybody in"
OTHER = '[providers.other]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'


def key(line: str) -> str:
    return GOOD + line + "\n"


def provider(line: str) -> str:
    return KEYS + '[providers.p]\nkind = "anthropic"\n' + line + "\n"


def limit(line: str) -> str:
    return f"{GOOD}[[limits]]\n{line}\n"


def route(line: str) -> str:
    return f'{GOOD}[[routes]]\nmodel = "m"\n{line}\n'


ERRORS: dict[str, tuple[str, list[str]]] = {
    "not TOML": ("a = \n", ["is not TOML: Invalid value (at line 1, column 5)"]),
    "not UTF-8": ("a = 1\nb = '\udcff'", ["is not TOML: not UTF-8 (at line 2, column 6)"]),
    "nested without end": ("a = " + "[" * 9000, ["is not TOML: maximum recursion depth exceeded"]),
    "two providers of one name": (
        PROVIDER + PROVIDER + KEYS,
        ["is not TOML: Cannot declare ('providers', 'anthropic') twice (at line 6, column 21)"],
    ),
    "nothing in it": (
        "",
        [
            "providers: found nothing; allowed is at least one table of a provider, [providers.NAME]",
            NOBODY,
        ],
    ),
    "an unknown key": (
        "max_bdy = 1\n" + GOOD,
        [
            (
                "max_bdy: unknown key (did you mean max_body?); allowed are providers, keys, allow_anonymous, routes,"
                " limits, max_body, access_log"
            )
        ],
    ),
    "a key that is like none": (
        key("zzz = 1"),
        ["keys[0].zzz: unknown key; allowed are name, hash, team, models"],
    ),
    "wrong types": (
        'max_body = "32MB"\naccess_log = 1\nallow_anonymous = "no"\n' + GOOD,
        [
            'max_body: found "32MB"; allowed is a number of bytes, more than 0',
            "access_log: found 1; allowed is true or false",
            'allow_anonymous: found "no"; allowed is true or false',
        ],
    ),
    "a size of nothing": (
        "max_body = 0\n" + GOOD,
        ["max_body: found 0; allowed is a number of bytes, more than 0"],
    ),
    "a huge number": (
        f"max_body = 0x{'f' * 5000}\n" + GOOD,
        ["max_body: found a number of more than 64 bits; allowed is a number of bytes, more than 0"],
    ),
    "providers that are none": (
        "providers = 2020-01-01\n" + KEYS,
        ["providers: found a date or time; allowed is at least one table of a provider, [providers.NAME]"],
    ),
    "a provider that is no table": (
        KEYS + "[providers]\nx = [1]\n",
        ["providers.x: found a list; allowed is a table"],
    ),
    "a provider without a kind": (
        KEYS + '[providers."my own"]\napi_key = "env:ANTHROPIC_API_KEY"\n',
        ['providers."my own".kind: found nothing; allowed is "anthropic", "bedrock" or "vertex"'],
    ),
    "a provider without a name": (
        KEYS + '[providers.""]\nkind = "anthropic"\napi_key = "env:ANTHROPIC_API_KEY"\n',
        ['providers."": a provider must have a name'],
    ),
    "an unknown kind, of which no more can be said": (
        KEYS + '[providers.x]\nkind = "openai"\norganization = 3\n',
        ['providers.x.kind: found "openai"; allowed is "anthropic", "bedrock" or "vertex"'],
    ),
    "a kind that is no string": (
        KEYS + "[providers.x]\nkind = 7\n",
        ['providers.x.kind: found 7; allowed is "anthropic", "bedrock" or "vertex"'],
    ),
    "no API key": (
        provider(""),
        ["providers.p.api_key: found nothing; allowed is a reference to the secret, env:NAME or file:PATH"],
    ),
    "a literal API key": (provider('api_key = "sk-ant-CANARY"'), [f"providers.p.api_key: found {NO_SECRET}"]),
    "an empty API key": (provider('api_key = ""'), [f"providers.p.api_key: found {NO_SECRET}"]),
    "a literal with a colon": (provider('api_key = "env:sk-CANARY"'), [f"providers.p.api_key: found {NO_SECRET}"]),
    "an unset variable": (
        provider('api_key = "env:NOPE"'),
        ["providers.p.api_key: the environment variable NOPE is not set"],
    ),
    "a variable that no header can hold": (
        provider('api_key = "env:SPACED"'),
        [
            (
                "providers.p.api_key: what env:SPACED holds can't be used:"
                " a secret must be visible ASCII without spaces or line ends, and not empty"
            )
        ],
    ),
    "an unreadable file": (
        provider('api_key = "file:nope/key"'),
        ["providers.p.api_key: the file FOLDER/nope/key can't be read: No such file or directory"],
    ),
    "a file with two lines": (
        provider('api_key = "file:two"'),
        [
            (
                "providers.p.api_key: what file:two holds can't be used:"
                " a secret must be visible ASCII without spaces or line ends, and not empty"
            )
        ],
    ),
    "a file of bytes": (provider('api_key = "file:bytes"'), ["providers.p.api_key: the file FOLDER/bytes is not text"]),
    "a URL with a password": (
        provider('base_url = "https://me:CANARY@host"'),
        [
            f"providers.p.base_url: found a string that is not shown here; allowed is {NO_URL}",
            "providers.p.api_key: found nothing; allowed is a reference to the secret, env:NAME or file:PATH",
        ],
    ),
    "an unknown way to send the key": (
        provider('api_key = "env:ANTHROPIC_API_KEY"\nauth = "basic"'),
        ['providers.p.auth: found "basic"; allowed is "x-api-key", "bearer" or "client"'],
    ),
    "timeouts that are none": (
        provider('api_key = "env:ANTHROPIC_API_KEY"\ntimeouts = { connect = 0, silence = nan, frist_byte = 3 }'),
        [
            "providers.p.timeouts.connect: found 0; allowed is a number of seconds, more than 0 and at most 86400",
            "providers.p.timeouts.silence: found nan; allowed is a number of seconds, more than 0 and at most 86400",
            (
                "providers.p.timeouts.frist_byte: unknown key (did you mean first_byte?);"
                " allowed are connect, first_byte, silence"
            ),
        ],
    ),
    "no authentication": (
        PROVIDER,
        [NOBODY],
    ),
    "keys and everybody": (
        "allow_anonymous = true\n" + GOOD,
        ["allow_anonymous: found true beside [[keys]]; allowed is one of the two"],
    ),
    "empty lists": (
        "keys = []\nlimits = []\nroutes = []\n" + PROVIDER,
        [
            "keys: found an empty list; allowed is at least one [[keys]] table, or allow_anonymous = true in its place",
            "limits: found an empty list; allowed is at least one [[limits]] table, or none at all",
            "routes: found an empty list; allowed is at least one [[routes]] table, or with one provider none at all",
        ],
    ),
    "a key of a single bracket": (
        PROVIDER + KEYS.replace("[[keys]]", "[keys]"),
        ["keys: found a table; allowed is at least one [[keys]] table, or allow_anonymous = true in its place"],
    ),
    "a key itself for its hash": (
        f'{PROVIDER}[[keys]]\nname = "ci"\nhash = "sk-bud-CANARY"\n',
        [f"keys[0].hash: found a string that is not shown here; {NO_HASH}"],
    ),
    "a key without hash and name": (
        f"{PROVIDER}[[keys]]\nmodels = []\n",
        [
            f"keys[0].models: found an empty list; {NO_MODELS}",
            "keys[0].name: found nothing; allowed is a string that is not empty",
            f"keys[0].hash: found nothing; {NO_HASH}",
        ],
    ),
    "two keys of one name and hash": (
        GOOD + KEYS,
        [
            'keys[1].name: found "ci", which keys[0] has already',
            "keys[1].hash: found a string of 71 characters that is not shown, which keys[0] has already",
        ],
    ),
    "a limit on nothing": (
        limit("requests = 0"),
        ["limits[0].requests: found 0; allowed is a whole number of requests, at least 1"],
    ),
    "a limit per something else": (
        limit('requests = 1\nper = "team"'),
        ['limits[0].per: found "team"; allowed is "principal" or "all"'],
    ),
    "a bad window": (limit('requests = 1\nwindow = "1 day"'), [f'limits[0].window: found "1 day"; {NO_WINDOW}']),
    "a window without end": (limit("requests = 1\nwindow = inf"), [f"limits[0].window: found inf; {NO_WINDOW}"]),
    "two equal limits": (
        limit("requests = 1") + '[[limits]]\nrequests = 1\nwindow = "1m"\n',
        ["limits[1]: says the same as limits[0]"],
    ),
    "a route to nowhere": (
        route('to = ["anthropc", { provider = "vertex", model = "x" }]'),
        [
            (
                'routes[0].to[0]: found "anthropc", which is no provider (did you mean anthropic?);'
                ' allowed are "anthropic"'
            ),
            'routes[0].to[1].provider: found "vertex", which is no provider; allowed are "anthropic"',
        ],
    ),
    "a route to no target": (route("to = []"), [f"routes[0].to: found an empty list; {NO_TARGETS}"]),
    "a route to a bare name": (route('to = "anthropic"'), [f'routes[0].to: found "anthropic"; {NO_TARGETS}']),
    "targets that are none": (
        route('to = [3, { provider = "anthropic" }]'),
        [
            "routes[0].to[0]: found 3; allowed is a provider's name or a table of provider and model",
            "routes[0].to[1].model: found nothing; allowed is a string that is not empty",
        ],
    ),
    "two equal routes": (
        GOOD + ROUTES + ROUTES.split("\n\n")[1],
        ['routes[2].model: found "claude-*", which routes[1] has already'],
    ),
    "two providers and no routes": (
        GOOD + OTHER,
        ["routes: found nothing; allowed is a [[routes]] table for what goes to which of the providers"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_the_words_of_an_error(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "two").write_text("sk-CANARY\nx\n")
    (tmp_path / "bytes").write_bytes(b"CANARY\xff")
    file = tmp_path / "gateway.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={**ENVIRON, "SPACED": "CAN ARY"})
    assert str(raised.value).splitlines() == [f"{file}: {line.replace('FOLDER', str(tmp_path))}" for line in expected]
    assert "CANARY" not in str(raised.value) + repr(raised.value)


def test_all_of_them_at_once(tmp_path: Path) -> None:
    """What is wrong in one table hides nothing of another; all that can stand in one file does."""
    text = f"""
max_body = 0
[providers.a]
kind = "openai"
[providers.b]
kind = "anthropic"
api_key = "sk-ant-CANARY"
base_url = "http://host:99999"
[[keys]]
name = "ci"
hash = "CANARY"
[[keys]]
name = "ci"
hash = "{HASH}"
[[limits]]
request = 1
[[routes]]
model = "m"
to = ["c", 1]
[[routes]]
model = "m"
to = "a"
"""
    with pytest.raises(ConfigError) as raised:
        read_file(written(tmp_path, text), environ={})
    assert [problem.path for problem in raised.value.problems] == [
        "max_body",
        "providers.a.kind",
        "providers.b.api_key",
        "providers.b.base_url",
        "keys[0].hash",
        "keys[1].name",
        "routes[0].to[0]",
        "routes[0].to[1]",
        "routes[1].to",
        "routes[1].model",
        "limits[0].request",
        "limits[0].requests",
    ]
    assert "CANARY" not in str(raised.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_file(tmp_path / "nope.toml")
    assert str(raised.value) == f"{tmp_path}/nope.toml: can't be read: No such file or directory"
    with pytest.raises(ConfigError) as raised:
        read_file(tmp_path)
    assert str(raised.value) == f"{tmp_path}: can't be read: Is a directory"
