"""Routes of a file: the same objects that code would make, and errors with their lines and key paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import ENVIRON, KEYS, PROVIDER, written

from bud_asgi import Route, Target
from bud_asgi.config import ConfigError, read_file

OTHERS = """
[providers.second]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"
[providers.bedrock]
kind = "bedrock"
region = "eu-central-1"
"""
HEAD = PROVIDER + OTHERS + KEYS
FIRST = HEAD.count("\n") + 1
"""The line of the first table behind the head."""

SECOND = Target("second", weight=3)
FORMS: dict[str, tuple[str, Route]] = {
    "targets in order": ('to = ["anthropic", "bedrock"]', Route("m", ["anthropic", "bedrock"])),
    "a weight": (
        'to = ["anthropic", { provider = "second", weight = 3 }]',
        Route("m", ["anthropic", SECOND]),
    ),
    "a group": (
        'to = [["anthropic", { provider = "second", weight = 3 }], "bedrock"]',
        Route("m", [["anthropic", SECOND], "bedrock"]),
    ),
    "a target with all keys": (
        'to = [["bedrock", { provider = "second", model = "x", weight = 2, concurrency = 8 }]]',
        Route("m", [["bedrock", Target("second", "x", 2, 8)]]),
    ),
    "a balance": (
        'to = [["anthropic", "second"]]\nbalance = "least_busy"',
        Route("m", [["anthropic", "second"]], "least_busy"),
    ),
    "another attempt without thinking": (
        'to = ["second"]\nretry_without_thinking = true',
        Route("m", ["second"], retry_without_thinking=True),
    ),
    "conditions": (
        (
            'to = ["second"]\nprincipals = ["ci"]\nteams = ["a*", "b"]\nheaders = { X-Tier = "gold*" }\n'
            'min_bytes = 10\nmax_bytes = 20\nfeatures = ["context-1m-*", "mcp_servers"]'
        ),
        Route("m", ["second"], None, ["ci"], ["a*", "b"], {"x-tier": "gold*"}, 10, 20, ["context-1m-*", "mcp_servers"]),
    ),
}


@pytest.mark.parametrize(("lines", "route"), FORMS.values(), ids=FORMS.keys())
def test_a_table_is_a_route(lines: str, route: Route, tmp_path: Path) -> None:
    settings = read_file(written(tmp_path, f'{HEAD}[[routes]]\nmodel = "m"\n{lines}\n'), environ=ENVIRON)
    assert settings.routes == (route,)
    assert settings.app()


def test_a_model_may_have_several_routes_with_different_conditions(tmp_path: Path) -> None:
    text = """
[[routes]]
model = "m"
to = ["bedrock"]
max_bytes = 1000
[[routes]]
model = "m"
to = ["second"]
principals = ["*"]
"""
    settings = read_file(written(tmp_path, HEAD + text), environ=ENVIRON)
    assert settings.routes == (Route("m", ["bedrock"], max_bytes=1000), Route("m", ["second"]))


TARGETS = "expected a list of targets: names of providers, or pairs of a provider and its model"
TARGET = "expected the name of a provider, or a provider with a model"
PROVIDERS = 'expected "anthropic", "second" or "bedrock"'
KNOWN = "expected provider, model, weight, concurrency or timeouts"
NO_GROUP = "meaningless without a group of several targets: to = [[...]]"
ERRORS: dict[str, tuple[str, list[str]]] = {
    "an unknown provider in a group": (
        'to = [\n["anthropic", "secnd"],\n{ provider = "bedrok" }]',
        [
            f'2: routes[0].to[0][1]: unknown provider "secnd" (did you mean "second"?); {PROVIDERS}',
            f'2: routes[0].to[1].provider: unknown provider "bedrok" (did you mean "bedrock"?); {PROVIDERS}',
        ],
    ),
    "an unknown key of a target": (
        'to = [["anthropic", { provider = "second", wieght = 2 }]]',
        [f'2: routes[0].to[0][1].wieght: unknown key (did you mean "weight"?); {KNOWN}'],
    ),
    "wrong weights hide no other problem": (
        'to = [{ provider = "anthropic", weight = 0 }, { provider = "second", weight = "3", concurrency = 0 }]',
        [
            "2: routes[0].to[0].weight: expected a whole number, 1 to 1000, got 0",
            '2: routes[0].to[1].weight: expected a whole number, got "3"',
            "2: routes[0].to[1].concurrency: expected a number of requests, at least 1, got 0",
        ],
    ),
    "an empty group": ('to = ["anthropic", []]', [f"2: routes[0].to[1]: {TARGETS}, got an empty list"]),
    "a group in a group": ('to = [[["anthropic"]]]', [f"2: routes[0].to[0][0]: {TARGET}, got a list"]),
    "a target twice": (
        'to = ["anthropic", { provider = "anthropic", model = "m" }]',
        ["2: routes[0].to[1]: the same provider and model as to[0]"],
    ),
    "a weight alone": (
        'to = [{ provider = "anthropic", weight = 2 }]',
        [
            (
                "2: routes[0].to[0].weight: meaningless for a target that shares its load with no other;"
                " expected a group: to = [[...]]"
            )
        ],
    ),
    "a balance of nothing": (
        'to = ["anthropic"]\nbalance = "weighted"',
        [f"3: routes[0].balance: {NO_GROUP}"],
    ),
    "a balance beside a wrong target, which may have been meant as a group": (
        'to = ["secnd"]\nbalance = "weighted"',
        [f'2: routes[0].to[0]: unknown provider "secnd" (did you mean "second"?); {PROVIDERS}'],
    ),
    "an unknown balance": (
        'to = [["anthropic", "second"]]\nbalance = "leastbusy"',
        [
            (
                '3: routes[0].balance: expected "affinity", "least_busy" or "weighted", got "leastbusy"'
                ' (did you mean "least_busy"?)'
            )
        ],
    ),
    "another attempt that is no flag": (
        'to = ["anthropic"]\nretry_without_thinking = "yes"',
        ['3: routes[0].retry_without_thinking: expected true or false, got "yes"'],
    ),
    "conditions of a wrong type": (
        'to = ["anthropic"]\nprincipals = "ci"\nteams = []\nheaders = ["x"]\nmin_bytes = "1K"\nmax_bytes = 0',
        [
            '3: routes[0].principals: expected a list of strings, got "ci"',
            "4: routes[0].teams: must not be empty",
            "5: routes[0].headers: expected a table, got a list",
            '6: routes[0].min_bytes: expected a whole number, got "1K"',
            "7: routes[0].max_bytes: expected a number of bytes, at least 1, got 0",
        ],
    ),
    "headers of a wrong kind": (
        'to = ["anthropic"]\n[routes.headers]\nx-tier = 1\nx-api-key = "CANARY"\n"a b" = "c"',
        [
            "4: routes[0].headers.x-tier: expected a value or a pattern with *, got 1",
            ("5: routes[0].headers.x-api-key: carries a credential; expected another header, or principals or teams"),
            '6: routes[0].headers."a b": expected the name of a header',
        ],
    ),
    "sizes that exclude each other": (
        'to = ["anthropic"]\nmin_bytes = 10\nmax_bytes = 9',
        ["4: routes[0].max_bytes: expected at least min_bytes (10), got 9"],
    ),
    "two routes of one model and the same conditions": (
        'to = ["anthropic"]\nteams = ["a", "b"]\n[[routes]]\nmodel = "m"\nto = ["second"]\nteams = ["b", "a"]',
        ["5: routes[1].model: duplicate model, already used by routes[0] with the same conditions"],
    ),
    "two routes of one model without conditions": (
        'to = ["anthropic"]\nteams = ["*"]\n[[routes]]\nmodel = "m"\nto = ["second"]',
        ["5: routes[1].model: duplicate model, already used by routes[0]"],
    ),
}


@pytest.mark.parametrize(("lines", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_each_problem_names_its_line_and_key(lines: str, expected: list[str], tmp_path: Path) -> None:
    """`expected` starts with the line, counted from `model`."""
    file = written(tmp_path, f'{HEAD}[[routes]]\nmodel = "m"\n{lines}\n')
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ=ENVIRON)
    found = [(problem.line, f"{problem.path}: {problem.message}") for problem in raised.value.problems]
    relative = [f"{(line or 0) - FIRST}: {words}" for line, words in found]
    assert relative == expected
    assert "CANARY" not in str(raised.value)
