"""Limits and their store in a file: each accepted form, and each problem with its line."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from config_files import ENVIRON, KEYS, PROVIDER, written

from bud_asgi import ApiKey, Exchange, Limit, from_file, hash_api_key
from bud_asgi.config import ConfigError, Settings, permission_warnings, read_file
from bud_asgi.limits.redis import RedisStore
from bud_asgi.options import OptionError
from bud_asgi.testing import StandIn
from bud_asgi.testing.server.serving import serving

GOOD = PROVIDER + KEYS
"""Eight lines."""

STORE = '[[limits]]\nrequests = 1\n[store]\nurl = "redis://store:6379"\n'
DURATION = 'expected a duration such as "50ms", "30s", "1m", "1h" or "1d", or a number of seconds'
AMOUNTS = "no amount; expected one of the keys requests, input_tokens, output_tokens, tokens or concurrent"
HELLO = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
URL = 'expected a URL such as "redis://host:6379", or a reference such as env:NAME or file:PATH'
PER = 'expected "principal", "team", "model", "all" or "tenant"'
OF_CALLER = "a limit that a caller carries counts for that caller alone"


def tenant(_: Exchange) -> str | None:
    return "t"


def tenant_of(exchange: Exchange) -> str | None:
    return exchange.headers.get(b"x-tenant", b"").decode()


DIMENSIONS = {"tenant": tenant}


def settings_of(text: str, folder: Path, **environ: str) -> Settings:
    return read_file(written(folder, GOOD + text), environ={**ENVIRON, **environ}, dimensions=DIMENSIONS)


def problems_of(text: str, folder: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        settings_of(text, folder, **environ)
    assert "CANARY" not in str(raised.value) + repr(raised.value)
    return [str(problem).removeprefix(f"{folder / 'gateway.toml'}:").strip() for problem in raised.value.problems]


ACCEPTED: dict[str, Limit] = {
    "requests = 60": Limit("requests", 60),
    "input_tokens = 10": Limit("input_tokens", 10, 60.0),
    "output_tokens = 10": Limit("output_tokens", 10),
    "tokens = 10": Limit("tokens", 10),
    "concurrent = 2": Limit("concurrent", 2),
    'requests = 1\nwindow = "30s"': Limit("requests", 1, 30.0),
    'requests = 1\nwindow = "2m"': Limit("requests", 1, 120.0),
    'requests = 1\nwindow = "1h"': Limit("requests", 1, 3600.0),
    'requests = 1\nwindow = "1d"': Limit("requests", 1, 86400.0),
    'requests = 1\nwindow = "500ms"': Limit("requests", 1, 0.5),
    "requests = 1\nwindow = 90": Limit("requests", 1, 90.0),
    "requests = 1\nwindow = 0.5": Limit("requests", 1, 0.5),
    'requests = 1\nper = "principal"': Limit("requests", 1),
    'requests = 1\nper = "team"': Limit("requests", 1, per="team"),
    'requests = 1\nper = "model"': Limit("requests", 1, per="model"),
    'requests = 1\nper = "all"': Limit("requests", 1, per="all"),
    'requests = 1\nper = "tenant"': Limit("requests", 1, per=tenant),
    'tokens = 1\nmodels = ["claude-opus-*"]': Limit("tokens", 1, models=("claude-opus-*",)),
    'tokens = 1\nteams = ["a", "b"]': Limit("tokens", 1, teams=("a", "b")),
    'tokens = 1\nprincipals = ["ci-*"]': Limit("tokens", 1, principals=("ci-*",)),
    'tokens = 1\nmode = "observe"': Limit("tokens", 1, mode="observe"),
    'tokens = 1\nmode = "enforce"': Limit("tokens", 1),
    'concurrent = 1\nwait = "2s"': Limit("concurrent", 1, wait=2.0),
    "concurrent = 1\nwait = 0.25": Limit("concurrent", 1, wait=0.25),
    "concurrent = 1\nwait = 0": Limit("concurrent", 1),
    "input_tokens = 1\ncache_reads = true": Limit("input_tokens", 1, cache_reads=True),
    "tokens = 1\ncache_reads = false": Limit("tokens", 1),
}


@pytest.mark.parametrize(("table", "expected"), ACCEPTED.items(), ids=ACCEPTED.keys())
def test_a_table_becomes_the_limit_that_code_would_make(table: str, expected: Limit, tmp_path: Path) -> None:
    assert settings_of(f"[[limits]]\n{table}\n", tmp_path).limits == (expected,)


def test_several_limits_keep_their_order(tmp_path: Path) -> None:
    tables = (
        '[[limits]]\nrequests = 1\n[[limits]]\nrequests = 1\nper = "all"\n[[limits]]\nrequests = 9\nwindow = "1h"\n'
    )
    assert settings_of(tables, tmp_path).limits == (
        Limit("requests", 1),
        Limit("requests", 1, per="all"),
        Limit("requests", 9, 3600.0),
    )


REFUSED: dict[str, tuple[str, list[str]]] = {
    "no amount": ('window = "1m"', [f"9: limits[0]: {AMOUNTS}"]),
    "a misspelt amount": (
        "request = 1",
        [
            f"9: limits[0]: {AMOUNTS}",
            (
                '10: limits[0].request: unknown key (did you mean "requests"?); expected requests, input_tokens,'
                " output_tokens, tokens, concurrent, window, per, models, teams, principals, mode, wait or cache_reads"
            ),
        ],
    ),
    "two amounts": (
        "tokens = 1\nrequests = 1",
        ["11: limits[0].requests: cannot be combined with tokens; expected a limit of its own for each"],
    ),
    "three amounts": (
        "tokens = 1\nconcurrent = 1\nrequests = 1",
        [
            "11: limits[0].concurrent: cannot be combined with tokens; expected a limit of its own for each",
            "12: limits[0].requests: cannot be combined with tokens; expected a limit of its own for each",
        ],
    ),
    "an amount of zero": ("tokens = 0", ["10: limits[0].tokens: expected a whole number, at least 1, got 0"]),
    "an amount below zero": ("requests = -1", ["10: limits[0].requests: expected a whole number, at least 1, got -1"]),
    "an amount in words": ('concurrent = "2"', ['10: limits[0].concurrent: expected a whole number, got "2"']),
    "a fraction": ("requests = 1.5", ["10: limits[0].requests: expected a whole number, got 1.5"]),
    "a window in words": ('requests = 1\nwindow = "1 day"', [f'11: limits[0].window: {DURATION}, got "1 day"']),
    "a window of nothing": ('requests = 1\nwindow = "0s"', [f'11: limits[0].window: {DURATION}, got "0s"']),
    "a window of zero": (
        "requests = 1\nwindow = 0",
        ["11: limits[0].window: expected a number of seconds, more than 0, got 0"],
    ),
    "a window that is true": ("requests = 1\nwindow = true", [f"11: limits[0].window: {DURATION}, got true"]),
    "a window without end": (
        "requests = 1\nwindow = inf",
        ["11: limits[0].window: expected a number of seconds, at most 1e+09, got inf"],
    ),
    "a window for concurrent": (
        'concurrent = 0\nwindow = "1m"',
        [
            "10: limits[0].concurrent: expected a whole number, at least 1, got 0",
            "11: limits[0].window: meaningless for concurrent, the requests that run at the same time",
        ],
    ),
    "an unknown dimension": (
        'requests = 1\nper = "tennant"',
        [f'11: limits[0].per: {PER}, got "tennant" (did you mean "tenant"?)'],
    ),
    "a dimension that is not a string": ("requests = 1\nper = 3", ["11: limits[0].per: expected a string, got 3"]),
    "no models": ("requests = 1\nmodels = []", ["11: limits[0].models: must not be empty"]),
    "one model": ('requests = 1\nmodels = "m"', ['11: limits[0].models: expected a list of strings, got "m"']),
    "an unknown mode": (
        'requests = 1\nmode = "off"',
        ['11: limits[0].mode: expected "enforce" or "observe", got "off"'],
    ),
    "a wait in words": ('requests = 1\nwait = "soon"', [f'11: limits[0].wait: {DURATION}, got "soon"']),
    "a long wait": (
        'requests = 1\nwait = "2m"',
        ["11: limits[0].wait: expected a number of seconds, at most 60, got 120.0"],
    ),
    "a wait where nothing is refused": (
        'requests = 1\nwait = "2s"\nmode = "observe"',
        ['11: limits[0].wait: meaningless with mode = "observe", which refuses nothing'],
    ),
    "cache reads of requests": (
        "requests = 1\ncache_reads = true",
        ["11: limits[0].cache_reads: meaningless for requests, which do not count input"],
    ),
    "everything at once": (
        'window = "x"\nper = "x"\nmode = "x"\nwait = 61\ncache_reads = 1',
        [
            f"9: limits[0]: {AMOUNTS}",
            f'10: limits[0].window: {DURATION}, got "x"',
            f'11: limits[0].per: {PER}, got "x"',
            '12: limits[0].mode: expected "enforce" or "observe", got "x"',
            "13: limits[0].wait: expected a number of seconds, at most 60, got 61",
            "14: limits[0].cache_reads: expected true or false, got 1",
        ],
    ),
    "two limits that count the same": (
        "requests = 1\n[[limits]]\nrequests = 2\nwindow = 60",
        ["11: limits[1]: counts the same as limits[0]; expected one limit for both"],
    ),
}


@pytest.mark.parametrize(("table", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_each_problem_of_a_limit_is_reported_with_its_line(table: str, expected: list[str], tmp_path: Path) -> None:
    assert problems_of(f"[[limits]]\n{table}\n", tmp_path) == expected


def test_without_dimensions_of_the_host_only_the_own_ones_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_file(written(tmp_path, f'{GOOD}[[limits]]\nrequests = 1\nper = "tenant"\n'), environ=ENVIRON)
    assert 'limits[0].per: expected "principal", "team", "model" or "all", got "tenant"' in str(raised.value)


@pytest.mark.parametrize(
    ("dimensions", "problem"),
    [
        ({"team": tenant}, "dimensions.team: the name of a built-in dimension"),
        ({"a b": "x"}, 'dimensions."a b": expected a function of the Exchange that returns a string or None, got "x"'),
        ({"": tenant}, "dimensions: expected a string that is not empty"),
        ([tenant], "dimensions: expected a mapping of names to functions of the Exchange, got a list"),
    ],
)
def test_invalid_dimensions_are_errors_in_the_code(dimensions: object, problem: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as raised:
        from_file(written(tmp_path, GOOD), environ=ENVIRON, dimensions=dimensions)  # pyright: ignore[reportArgumentType]
    assert str(raised.value).startswith(problem)


def test_requests_are_counted_per_dimension_of_the_host_and_per_key(tmp_path: Path) -> None:
    keys = "".join(f'[[keys]]\nname = "{name}"\nhash = "{hash_api_key(name)}"\n' for name in ("a", "b"))
    limits = 'limits = [{ requests = 2 }]\n[[limits]]\nrequests = 3\nper = "tenant"\n'
    with StandIn(api_key="sk-ant-CANARY").in_thread() as upstream:
        file = written(tmp_path, f'{PROVIDER}base_url = "{upstream.base_url}"\n{keys}{limits}')
        app = from_file(file, environ=ENVIRON, dimensions={"tenant": tenant_of})
        with serving(app) as url:

            def status(key: str, tenant: str) -> int:
                headers = {"x-api-key": key, "x-tenant": tenant, "anthropic-version": "2023-06-01"}
                return httpx.post(f"{url}/v1/messages", json=HELLO, headers=headers).status_code

            assert [status("b", "x"), status("b", "x"), status("b", "x")] == [200, 200, 429], "limits of the key"
            assert [status("a", "x"), status("a", "x"), status("a", "y")] == [200, 429, 200], "limits of the tenant"


def test_a_key_carries_limits_of_its_own(tmp_path: Path) -> None:
    limits = 'limits = [{ requests = 10 }, { tokens = 100000, window = "1h", per = "principal" }]\n'
    (key,) = settings_of(limits, tmp_path).keys
    own = (Limit("requests", 10), Limit("tokens", 100000, 3600.0))
    assert key == ApiKey(name="ci", hash=key.hash, limits=own)
    assert key.principal.limits == own


OF_KEY: dict[str, tuple[str, list[str]]] = {
    "no table": ("limits = [5]", ["9: keys[0].limits[0]: expected a table, got 5"]),
    "no list": (
        "limits = { requests = 1 }",
        ["9: keys[0].limits: expected a list of tables, each of them below [[keys.limits]], got a table"],
    ),
    "an empty list": ("limits = []", ["9: keys[0].limits: must not be empty"]),
    "for others": (
        'limits = [{ requests = 1, per = "team" }, { tokens = 1, teams = ["a"], principals = ["b"] }]',
        [
            f"9: keys[0].limits[0].per: {OF_CALLER}",
            "9: keys[0].limits[1].teams: meaningless on a limit that a caller carries",
            "9: keys[0].limits[1].principals: meaningless on a limit that a caller carries",
        ],
    ),
    "per a dimension of the host": (
        'limits = [{ requests = 1, per = "tenant" }]',
        [f"9: keys[0].limits[0].per: {OF_CALLER}"],
    ),
    "an invalid one before two that count the same": (
        "limits = [{}, { requests = 1 }, { requests = 2 }]",
        [
            f"9: keys[0].limits[0]: {AMOUNTS}",
            "9: keys[0].limits[2]: counts the same as keys[0].limits[1]; expected one limit for both",
        ],
    ),
}


@pytest.mark.parametrize(("line", "expected"), OF_KEY.values(), ids=OF_KEY.keys())
def test_each_problem_of_a_limit_of_a_key_is_reported(line: str, expected: list[str], tmp_path: Path) -> None:
    assert problems_of(f"{line}\n", tmp_path) == expected


STORES: dict[str, tuple[str, dict[str, object]]] = {
    "a URL": ('url = "redis://store:6379/1"', {}),
    "a URL of the environment": ('url = "env:STORE_URL"', {}),
    "a URL of a file": ('url = "file:store.url"', {}),
    "a timeout": ('url = "redis://store"\ntimeout = "20ms"', {"timeout": 0.02}),
    "a timeout in seconds": ('url = "redis://store"\ntimeout = 1', {"timeout": 1}),
    "closed": ('url = "redis://store"\non_failure = "closed"', {"on_failure": "closed"}),
    "open": ('url = "redis://store"\non_failure = "open"', {"on_failure": "open"}),
    "local": ('url = "redis://store"\non_failure = "local"\nreplicas = 3', {"on_failure": "local", "replicas": 3}),
    "a prefix": ('url = "redis://store"\nprefix = "gateway"', {"prefix": "gateway"}),
}


@pytest.mark.parametrize(("table", "options"), STORES.values(), ids=STORES.keys())
def test_a_table_becomes_a_store(
    table: str, options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []

    class Recorded(RedisStore):
        def __init__(self, **options: object) -> None:
            given.append(options)
            super().__init__(**options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("bud_asgi.config.limits.RedisStore", Recorded)
    (tmp_path / "store.url").write_text("rediss://me:CANARY@store\n")
    settings = settings_of(f"[[limits]]\nrequests = 1\n[store]\n{table}\n", tmp_path, STORE_URL="redis://:CANARY@s/0")
    assert isinstance(settings.store, Recorded)
    assert {name: value for name, value in given[0].items() if name != "url"} == options
    assert settings.app().limits.store is settings.store
    assert "CANARY" not in repr(settings) + repr(settings.store) + repr(given)


def test_limits_of_keys_alone_are_reason_for_a_store(tmp_path: Path) -> None:
    assert settings_of('limits = [{ requests = 1 }]\n[store]\nurl = "redis://store"\n', tmp_path).store is not None


BAD_STORES: dict[str, tuple[str, list[str]]] = {
    "no URL": ('prefix = "x"', [f"12: store.url: missing; {URL}"]),
    "an empty URL": ('url = ""', ["13: store.url: must not be empty"]),
    "a number": ("url = 6379", [f"13: store.url: {URL}, got a value that is not shown"]),
    "a host": ('url = "store:6379"', [f"13: store.url: {URL}, got a value that is not shown"]),
    "a variable as a shell writes it": (
        'url = "${STORE_URL}"',
        [
            (
                f"13: store.url: {URL}, got a value that is not shown; a reference to an environment variable is"
                " written env:NAME"
            )
        ],
    ),
    "an unset variable": ('url = "env:NOPE"', ["13: store.url: the environment variable NOPE is not set"]),
    "a password in the URL": ('url = "redis://me:CANARY@store"', ["13: store.url: REFERENCE"]),
    "a password with an escaped sign": ('url = "redis://me:CANARY%40store"', ["13: store.url: REFERENCE"]),
    "a password in the query": ('url = "redis://store?Password=CANARY"', ["13: store.url: REFERENCE"]),
    "a timeout in words": ('url = "redis://store"\ntimeout = "50"', [f'14: store.timeout: {DURATION}, got "50"']),
    "an unknown policy": (
        'url = "redis://store"\non_failure = "fail"\nreplicas = 2',
        ['14: store.on_failure: expected "open", "closed" or "local", got "fail"'],
    ),
    "replicas without a use": (
        'url = "redis://store"\nreplicas = 2',
        ['14: store.replicas: meaningless without on_failure = "local"'],
    ),
    "local without replicas": (
        'url = "redis://store"\non_failure = "local"',
        [
            (
                '12: store.replicas: missing; for on_failure = "local", expected the number of processes among which'
                " the limits are divided while the store is away"
            )
        ],
    ),
    "no replicas": (
        'url = "redis://store"\non_failure = "local"\nreplicas = 0',
        ["15: store.replicas: expected a whole number, at least 1, got 0"],
    ),
    "an unknown key": (
        'url = "redis://store"\nprefx = "x"',
        [
            (
                '14: store.prefx: unknown key (did you mean "prefix"?); expected url, timeout, on_failure, replicas'
                " or prefix"
            )
        ],
    ),
}


@pytest.mark.parametrize(("table", "expected"), BAD_STORES.values(), ids=BAD_STORES.keys())
def test_each_problem_of_a_store_is_reported(table: str, expected: list[str], tmp_path: Path) -> None:
    reference = (
        "a URL with a user or password must be a reference such as env:NAME or file:PATH; the value is not shown"
    )
    given = f"[[limits]]\nrequests = 1\n\n[store]\n{table}\n"
    assert problems_of(given, tmp_path) == [problem.replace("REFERENCE", reference) for problem in expected]


def test_a_store_without_the_extra_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(_: str) -> None: ...

    monkeypatch.setattr("bud_asgi.extras.find_spec", find_nothing)
    (problem,) = problems_of(STORE, tmp_path)
    assert problem.startswith(
        "11: store: RedisStore needs redis, which is not installed: pip install '.[redis]' in a checkout of bud_asgi"
    )


def test_a_store_without_limits_is_refused(tmp_path: Path) -> None:
    assert problems_of('[store]\nurl = "redis://store"\n', tmp_path) == [
        "9: store: meaningless without limits; expected [[limits]] tables, or limits of a key"
    ]


def test_a_store_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, f'store = "redis://store"\n{GOOD}[[limits]]\nrequests = 1\n')
    with pytest.raises(ConfigError, match=r':1: store: expected a table, got "redis://store"$'):
        read_file(file, environ=ENVIRON)


def test_a_file_with_the_url_of_a_store_should_not_be_read_by_others(tmp_path: Path) -> None:
    secret = tmp_path / "store.url"
    secret.write_text("redis://me:CANARY@store")
    file = written(tmp_path, f'{GOOD}[[limits]]\nrequests = 1\n[store]\nurl = "file:store.url"\n')
    file.chmod(0o600)
    secret.chmod(0o640)
    (warning,) = permission_warnings(str(file))
    problem = f"{secret} can be read by its group or by others (mode 0640): chmod go="
    assert str(warning) == f"{file}:12: store.url: {problem}"
