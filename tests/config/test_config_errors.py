"""Every problem of a file is reported at once, with its line, and without showing a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from config_files import ENVIRON, HASH, KEYS, PROVIDER, ROUTES, written

from bud_asgi.config import ConfigError, read_file

GOOD = PROVIDER + KEYS
REFERENCE = "expected a reference such as env:NAME or file:PATH"
NOT_SHOWN = "got a value that is not shown"
HASHES = "expected sha256: and 64 lower-case hex digits, as written by `bud-asgi keys new NAME`"
TARGETS = "expected a list of targets: names of providers, or pairs of a provider and its model"
SECRET = "a secret must be visible ASCII without spaces or line breaks, and not empty"
KINDS = 'expected "anthropic", "bedrock" or "vertex"'
NOBODY = (
    "keys: missing; expected [[keys]] or [[issuers]] tables, a [key_store], or allow_anonymous = true to admit everyone"
)
KEYS_URL = 'expected a URL such as "sqlite:keys.db" or "postgresql://host/database", or a reference such as env:NAME'
NO_USER = "must not contain a user, query or fragment; a credential has its own option"
OTHER = '[providers.other]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'


def in_file(file: Path, problem: str) -> str:
    separator = ":" if re.match(r"\d+: ", problem) else ": "
    return f"{file}{separator}{problem.replace('FOLDER', str(file.parent))}"


def key(line: str) -> str:
    return GOOD + line + "\n"


def provider(line: str) -> str:
    return KEYS + '[providers.p]\nkind = "anthropic"\n' + line + "\n"


def route(line: str) -> str:
    return f'{GOOD}[[routes]]\nmodel = "m"\n{line}\n'


ERRORS: dict[str, tuple[str, list[str]]] = {
    "not TOML": ("a = \n", ["1: invalid TOML: Invalid value (at line 1, column 5)"]),
    "not UTF-8": ("a = 1\nb = '\udcff'", ["2: invalid TOML: not UTF-8"]),
    "nested without end": ("a = " + "[" * 9000, ["invalid TOML: maximum recursion depth exceeded"]),
    "two providers of one name": (
        PROVIDER + PROVIDER + KEYS,
        ["6: invalid TOML: Cannot declare ('providers', 'anthropic') twice (at line 6, column 21)"],
    ),
    "nothing in it": ("", ["providers: missing; expected at least one [providers.NAME] table", NOBODY]),
    "an unknown key": (
        "max_bdy = 1\n" + GOOD,
        [
            (
                '1: max_bdy: unknown key (did you mean "max_body"?); expected providers, keys, key_store, key_pepper,'
                " allow_anonymous, issuers, throttle, routes, limits, store, fields, max_body, body_budget,"
                " body_budget_per_principal, access_log, opentelemetry or route_header"
            )
        ],
    ),
    "a key that resembles no other": (
        key("zzz = 1"),
        [
            (
                "9: keys[0].zzz: unknown key; expected name, hash, owner, team, models, limits, metadata, expires,"
                " enabled, previous_hash or previous_until"
            )
        ],
    ),
    "wrong types": (
        'max_body = "32MB"\naccess_log = 1\nallow_anonymous = "no"\n' + GOOD,
        [
            '1: max_body: expected a whole number, got "32MB"',
            "2: access_log: expected true or false, got 1",
            '3: allow_anonymous: expected true or false, got "no"',
        ],
    ),
    "a size of zero": ("max_body = 0\n" + GOOD, ["1: max_body: expected a number of bytes, more than 0, got 0"]),
    "a budget for bodies that is smaller than one": (
        "max_body = 1000\nbody_budget = 999\n" + GOOD,
        ["2: body_budget: expected at least max_body (1000 bytes), got 999"],
    ),
    "a share of the budget that is larger than all": (
        "body_budget = 100_000_000\nbody_budget_per_principal = 200_000_000\n" + GOOD,
        ["2: body_budget_per_principal: expected at most body_budget (100000000 bytes), got 200000000"],
    ),
    "a budget with a unit": (
        'body_budget = "64MB"\n' + GOOD,
        ['1: body_budget: expected a whole number, got "64MB"'],
    ),
    "a huge number": (
        f"max_body = 0x{'f' * 5000}\n" + GOOD,
        ["1: max_body: expected a number of bytes, more than 0, got a number of more than 64 bits"],
    ),
    "providers that are not a table": (
        "providers = 2020-01-01\n" + KEYS,
        ["1: providers: expected a table, got a date or time"],
    ),
    "a provider that is not a table": (
        KEYS + "[providers]\nx = [1]\n",
        ["6: providers.x: expected a table, got a list"],
    ),
    "a provider without a kind": (
        KEYS + '[providers."my own"]\napi_key = "env:ANTHROPIC_API_KEY"\n',
        [f'5: providers."my own".kind: missing; {KINDS}'],
    ),
    "a provider without a name": (
        KEYS + '[providers.""]\nkind = "anthropic"\napi_key = "env:ANTHROPIC_API_KEY"\n',
        ['5: providers."".name: expected a string that is not empty, got ""'],
    ),
    "an unknown kind, whose other keys are not checked": (
        KEYS + '[providers.x]\nkind = "openai"\norganization = 3\n',
        [f'6: providers.x.kind: {KINDS}, got "openai"'],
    ),
    "a kind that is not a string": (KEYS + "[providers.x]\nkind = 7\n", [f"6: providers.x.kind: {KINDS}, got 7"]),
    "no API key": (provider(""), [f"5: providers.p.api_key: missing; {REFERENCE}"]),
    "a literal API key": (provider('api_key = "sk-ant-CANARY"'), [f"7: providers.p.api_key: {REFERENCE}, {NOT_SHOWN}"]),
    "an empty API key": (provider('api_key = ""'), ["7: providers.p.api_key: must not be empty"]),
    "a literal with a colon": (
        provider('api_key = "env:sk-CANARY"'),
        [f"7: providers.p.api_key: {REFERENCE}, {NOT_SHOWN}"],
    ),
    "an unset variable": (
        provider('api_key = "env:NOPE"'),
        ["7: providers.p.api_key: the environment variable NOPE is not set"],
    ),
    "a variable that cannot be sent in a header": (
        provider('api_key = "env:SPACED"'),
        [f"7: providers.p.api_key: the environment variable SPACED cannot be used: {SECRET}"],
    ),
    "an unreadable file": (
        provider('api_key = "file:nope/key"'),
        ["7: providers.p.api_key: cannot read FOLDER/nope/key: No such file or directory"],
    ),
    "a file with two lines": (provider('api_key = "file:two"'), [f"7: providers.p.api_key: FOLDER/two: {SECRET}"]),
    "a file of bytes": (provider('api_key = "file:bytes"'), ["7: providers.p.api_key: FOLDER/bytes: not text"]),
    "a URL with a password": (provider('base_url = "https://me:CANARY@host"'), [f"7: providers.p.base_url: {NO_USER}"]),
    "an unknown way to send the key": (
        provider('api_key = "env:ANTHROPIC_API_KEY"\nauth = "basic"'),
        ['8: providers.p.auth: expected "x-api-key", "bearer" or "client", got "basic"'],
    ),
    "timeouts with a wrong type and a wrong key": (
        provider('api_key = "env:ANTHROPIC_API_KEY"\ntimeouts = { connect = "1", frist_byte = 3 }'),
        [
            (
                '8: providers.p.timeouts.frist_byte: unknown key (did you mean "first_byte"?); expected'
                " connect, first_byte, silence or total"
            ),
            (
                '8: providers.p.timeouts.connect: expected a duration such as "50ms", "30s", "1m", "1h" or "1d",'
                ' or a number of seconds, got "1"'
            ),
        ],
    ),
    "no authentication": (PROVIDER, [NOBODY]),
    "a key store and anonymous access": (
        f'allow_anonymous = true\n{PROVIDER}[key_store]\nurl = "sqlite:keys.db"\n',
        ["1: allow_anonymous: cannot be combined with [key_store]"],
    ),
    "a key store without a URL": (
        PROVIDER + '[key_store]\ntimeout = "1s"\n',
        [f"5: key_store.url: missing; {KEYS_URL}"],
    ),
    "a key store with a password in the file": (
        PROVIDER + '[key_store]\nurl = "postgresql://user:sk-CANARY@host/db"\n',
        [
            (
                "6: key_store.url: a URL with a user or password must be a reference such as env:NAME or file:PATH;"
                " the value is not shown"
            )
        ],
    ),
    "a key store of another kind": (
        PROVIDER + '[key_store]\nurl = "mysql://host/db"\n',
        [
            (
                "6: key_store.url: expected a URL such as sqlite:keys.db or postgresql://host/database, got a value"
                " that is not shown"
            )
        ],
    ),
    "a key store without a scheme": (
        PROVIDER + '[key_store]\nurl = "keys.db"\n',
        [f"6: key_store.url: {KEYS_URL}, got a value that is not shown"],
    ),
    "a timeout of a key store": (
        PROVIDER + '[key_store]\nurl = "sqlite:keys.db"\ntimeout = "1y"\n',
        [
            (
                '7: key_store.timeout: expected a duration such as "50ms", "30s", "1m", "1h" or "1d", or a number of'
                ' seconds, got "1y"'
            )
        ],
    ),
    "a time without an offset": (
        key("expires = 2027-01-31T00:00:00"),
        ['9: keys[0].expires: expected a time with an offset, such as 2027-01-31T00:00:00Z, got "2027-01-31 00:00:00"'],
    ),
    "a hash without a time": (
        key(f'previous_hash = "{HASH}"'),
        ["6: keys[0].previous_until: missing; expected a time with an offset, such as 2027-01-31T00:00:00Z"],
    ),
    "a hash with a pepper that is not there": (
        f'{PROVIDER}[[keys]]\nname = "ci"\nhash = "hmac-{HASH}"\n',
        ['7: keys[0].hash: was made with a pepper; expected key_pepper = "env:NAME" at the top of the file'],
    ),
    "a pepper in the file": (
        'key_pepper = "CANARY"\n' + GOOD,
        [f"1: key_pepper: {REFERENCE}, {NOT_SHOWN}"],
    ),
    "metadata that is not text": (
        key("metadata = { ticket = 1 }"),
        ["9: keys[0].metadata: expected names with strings as values; the value is not shown"],
    ),
    "keys and anonymous access": (
        "allow_anonymous = true\n" + GOOD,
        ["1: allow_anonymous: cannot be combined with [[keys]]"],
    ),
    "empty lists": (
        "keys = []\nlimits = []\nroutes = []\n" + PROVIDER,
        ["1: keys: must not be empty", "2: limits: must not be empty", "3: routes: must not be empty"],
    ),
    "a key of a single bracket": (
        PROVIDER + KEYS.replace("[[keys]]", "[keys]"),
        ["6: keys: expected a list of tables, each of them below [[keys]], got a table"],
    ),
    "a key itself for its hash": (
        f'{PROVIDER}[[keys]]\nname = "ci"\nhash = "sk-bud-CANARY"\n',
        [f"7: keys[0].hash: {HASHES}, {NOT_SHOWN}"],
    ),
    "a key without hash and name": (
        f"{PROVIDER}[[keys]]\nmodels = []\n",
        [
            "5: keys[0].name: missing; expected a string that is not empty",
            f"5: keys[0].hash: missing; {HASHES}",
            "6: keys[0].models: must not be empty",
        ],
    ),
    "two keys of one name and hash": (
        GOOD + KEYS,
        [
            "11: keys[1].name: duplicate name, already used by keys[0]",
            "12: keys[1].hash: duplicate hash, already used by keys[0]",
        ],
    ),
    "a route to nowhere": (
        route('to = ["anthropc", { provider = "vertex", model = "x" }]'),
        [
            ('11: routes[0].to[0]: unknown provider "anthropc" (did you mean "anthropic"?); expected "anthropic"'),
            '11: routes[0].to[1].provider: unknown provider "vertex"; expected "anthropic"',
        ],
    ),
    "a route without targets": (route("to = []"), ["11: routes[0].to: must not be empty"]),
    "a route to a bare name": (route('to = "anthropic"'), [f'11: routes[0].to: {TARGETS}, got "anthropic"']),
    "targets of a wrong type": (
        route('to = [3, { provider = "anthropic" }]'),
        ["11: routes[0].to[0]: expected the name of a provider, or a provider with a model, got 3"],
    ),
    "two equal routes": (
        GOOD + ROUTES + ROUTES.split("\n\n")[1],
        ["18: routes[2].model: duplicate model, already used by routes[1]"],
    ),
    "two providers and no routes": (
        GOOD + OTHER,
        ["routes: missing; with several providers, expected [[routes]] tables that assign models"],
    ),
    "a misspelt kind": (
        KEYS + '[providers.x]\nkind = "antropic"\n',
        [f'6: providers.x.kind: {KINDS}, got "antropic" (did you mean "anthropic"?)'],
    ),
    "a top-level key below a table": (
        GOOD + "access_log = true\n",
        ["9: keys[0].access_log: a top-level key: it must stand before the first table"],
    ),
    "an option of the command": (
        "port = 8000\n" + GOOD,
        ["1: port: an option of the command line: bud-asgi serve --port"],
    ),
    "a variable as a shell writes it": (
        provider('api_key = "${ANTHROPIC_API_KEY}"'),
        [
            (
                f"7: providers.p.api_key: {REFERENCE}, {NOT_SHOWN}; a reference to an environment variable is"
                " written env:NAME"
            )
        ],
    ),
    "a variable as LiteLLM writes it": (
        provider('api_key = "os.environ/ANTHROPIC_API_KEY"'),
        [
            (
                f"7: providers.p.api_key: {REFERENCE}, {NOT_SHOWN}; a reference to an environment variable is"
                " written env:NAME"
            )
        ],
    ),
    "a key pasted behind env:": (
        provider('api_key = "env:ABSKCANARY"'),
        [
            (
                "7: providers.p.api_key: the environment variable is not set; its name looks like a secret and"
                " is not shown"
            )
        ],
    ),
    "a key pasted behind file:": (
        provider('api_key = "file:sk-ant-CANARY"'),
        [
            (
                "7: providers.p.api_key: cannot read the file, whose name looks like a secret and is not shown:"
                " No such file or directory"
            )
        ],
    ),
    "a long variable that is not set": (
        provider('api_key = "env:THE_ANTHROPIC_API_KEY_OF_OUR_GATEWAY"'),
        [("7: providers.p.api_key: the environment variable THE_ANTHROPIC_API_KEY_OF_OUR_GATEWAY is not set")],
    ),
    "a key pasted as the name of a provider": (
        KEYS + '[providers.sk-ant-CANARY]\nkind = "openai"\n',
        [f'6: providers.(not shown).kind: {KINDS}, got "openai"'],
    ),
    "a key pasted as a key": (
        provider('sk-ant-CANARY = "x"'),
        [
            f"5: providers.p.api_key: missing; {REFERENCE}",
            (
                "7: providers.p.(not shown): unknown key; expected kind, api_key, base_url, auth, trace_context,"
                " allow_betas, drop_betas, drop_fields or timeouts"
            ),
        ],
    ),
    "a list over several lines": (
        route('to = [\n  "anthropic", # the first\n  "]",\n  5,\n]'),
        [
            '11: routes[0].to[1]: unknown provider "]"; expected "anthropic"',
            "11: routes[0].to[2]: expected the name of a provider, or a provider with a model, got 5",
        ],
    ),
    "a hash in upper case": (
        PROVIDER + KEYS.replace(HASH, HASH.replace("cf", "CF")),
        [f"8: keys[0].hash: {HASHES}, {NOT_SHOWN}"],
    ),
    "a key in place of its hash": (
        f'{PROVIDER}[[keys]]\nname = "ci"\nkey = "sk-bud-CANARY"\n',
        [
            f"5: keys[0].hash: missing; {HASHES}",
            (
                "7: keys[0].key: unknown key; expected name, hash, owner, team, models, limits, metadata, expires,"
                " enabled, previous_hash or previous_until"
            ),
        ],
    ),
    "keys by name": (
        f'{PROVIDER}[keys]\nci = "{HASH}"\n',
        ["5: keys: expected a list of tables, each of them below [[keys]], got a table"],
    ),
    "one model of a key": (
        key('models = "claude-*"'),
        ['9: keys[0].models: expected a list of strings, got "claude-*"'],
    ),
    "routes by name": (
        GOOD + '[routes]\n"claude-*" = "anthropic"\n',
        ["9: routes: expected a list of tables, each of them below [[routes]], got a table"],
    ),
    "a misspelt key of a target": (
        route('to = [{ provider = "anthropic", modle = "x" }]'),
        [
            (
                '11: routes[0].to[0].modle: unknown key (did you mean "model"?); expected provider, model, weight,'
                " concurrency or timeouts"
            )
        ],
    ),
    "a route without a model": (
        GOOD + '[[routes]]\nto = ["anthropic"]\n',
        ['9: routes[0].model: missing; expected a model name or a pattern with *, such as "claude-*"'],
    ),
    "providers as a list": (
        KEYS + '[[providers]]\nkind = "anthropic"\n',
        ["5: providers: expected a table, got a list"],
    ),
    "a URL without a scheme": (
        provider('base_url = "api.example.com"'),
        ['7: providers.p.base_url: expected an http or https URL with a host, got "api.example.com"'],
    ),
    "timeouts as a number": (
        provider('api_key = "env:ANTHROPIC_API_KEY"\ntimeouts = 30'),
        ["8: providers.p.timeouts: expected a table, got 30"],
    ),
    "limits with one pair of brackets": (
        GOOD + "[limits]\nrequests = 60\n",
        ["9: limits: expected a list of tables, each of them below [[limits]], got a table"],
    ),
    "a window in a word": (
        GOOD + '[[limits]]\nrequests = 1\nwindow = "minute"\n',
        [
            (
                '11: limits[0].window: expected a duration such as "50ms", "30s", "1m", "1h" or "1d", or a number of'
                ' seconds, got "minute"'
            )
        ],
    ),
    "a limit for each key": (
        GOOD + '[[limits]]\nrequests = 1\nper = "key"\n',
        ['11: limits[0].per: expected "principal", "team", "model" or "all", got "key"'],
    ),
    "an amount that is not a number": (
        GOOD + "[[limits]]\nrequests = nan\n",
        ["10: limits[0].requests: expected a whole number, got nan"],
    ),
    "an option of the command with an underscore": (
        "drain_timeout = 5\n" + GOOD,
        ["1: drain_timeout: an option of the command line: bud-asgi serve --drain-timeout"],
    ),
    "YAML": (
        "providers:\n  anthropic:\n    kind: anthropic\n",
        ["1: invalid TOML: Expected '=' after a key in a key/value pair (at line 1, column 10)"],
    ),
    "JSON": ('{"providers": {}}', ["1: invalid TOML: Invalid statement (at line 1, column 1)"]),
    "a variable of Caddy": (
        provider('api_key = "{env.ANTHROPIC_API_KEY}"'),
        [
            (
                f"7: providers.p.api_key: {REFERENCE}, {NOT_SHOWN}; a reference to an environment variable is"
                " written env:NAME"
            )
        ],
    ),
    "a string over several lines that looks like tables": (
        GOOD + 'team = """\n[[keys]]\nname = 1\n"""\nmodels = 1\n',
        ["13: keys[0].models: expected a list of strings, got 1"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_each_problem_names_its_line_and_key(text: str, expected: list[str], tmp_path: Path) -> None:
    """`expected` starts with the line number, if there is one."""
    (tmp_path / "two").write_text("sk-CANARY\nx\n")
    (tmp_path / "bytes").write_bytes(b"CANARY\xff")
    file = tmp_path / "gateway.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={**ENVIRON, "SPACED": "CAN ARY"})
    assert str(raised.value).splitlines() == [in_file(file, problem) for problem in expected]
    assert "CANARY" not in str(raised.value) + repr(raised.value)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """A problem in one table hides none in another."""
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
    assert [(problem.line, problem.path) for problem in raised.value.problems] == [
        (2, "max_body"),
        (4, "providers.a.kind"),
        (7, "providers.b.api_key"),
        (8, "providers.b.base_url"),
        (11, "keys[0].hash"),
        (13, "keys[1].name"),
        (15, "limits[0]"),
        (16, "limits[0].request"),
        (19, "routes[0].to[0]"),
        (19, "routes[0].to[1]"),
        (21, "routes[1].model"),
        (22, "routes[1].to"),
    ]
    assert "CANARY" not in str(raised.value)


def test_timeouts_that_are_not_positive_numbers(tmp_path: Path) -> None:
    lines = 'api_key = "env:ANTHROPIC_API_KEY"\ntimeouts = { connect = 0, first_byte = 1.5, silence = nan }'
    with pytest.raises(ConfigError) as raised:
        read_file(written(tmp_path, provider(lines)), environ=ENVIRON)
    found = [(problem.line, problem.path) for problem in raised.value.problems]
    assert found == [(8, "providers.p.timeouts.connect"), (8, "providers.p.timeouts.silence")]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_file(tmp_path / "nope.toml")
    assert str(raised.value) == f"{tmp_path}/nope.toml: cannot read the file: No such file or directory"
    with pytest.raises(ConfigError) as raised:
        read_file(tmp_path)
    assert str(raised.value) == f"{tmp_path}: cannot read the file: Is a directory"
