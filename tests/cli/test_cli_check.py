"""`check`: warnings with their lines, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_process import UPSTREAM_KEY, gateway_file
from click.testing import CliRunner, Result

from bud_asgi.cli.commands import group
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import read_file

ENVIRON = {"ANTHROPIC_API_KEY": UPSTREAM_KEY, "BUD_ASGI_CONFIG": ""}
ALL = '\n[[routes]]\nmodel = "claude-*"\nto = ["anthropic"]\n'
AWS_REGIONS = ("us-gov-west-1", "cn-north-1", "eusc-de-east-1", "ap-southeast-7", "mx-central-1")
GOOGLE_LOCATIONS = ("global", "eu", "us-east5", "europe-west1", "asia-southeast1", "me-central2")


def bedrock(name: str, region: str) -> str:
    return f'[providers.{name}]\nkind = "bedrock"\nregion = "{region}"\nbearer_token = "env:ANTHROPIC_API_KEY"\n'


def vertex(name: str, region: str) -> str:
    return f'[providers.{name}]\nkind = "vertex"\nproject = "p"\nregion = "{region}"\n'


WARNINGS: dict[str, tuple[str, list[str]]] = {
    "nothing": (ALL, []),
    "a key whose models no route serves": (
        f'models = ["gpt-*", "claude-haiku-*"]\n{ALL}',
        ['9: keys[0].models: no route serves "gpt-*"'],
    ),
    "a misspelt model of a key": (
        f'models = ["cluade-*"]\n{ALL}',
        ['9: keys[0].models: no route serves "cluade-*" (did you mean "claude-*"?)'],
    ),
    "patterns that may overlap": (f'models = ["*-haiku-4-5", "claude-opus-*", "*"]\n{ALL}', []),
    "a limit on a model that no route serves": (
        f'{ALL}[[limits]]\nrequests = 1\nmodels = ["fast"]\n',
        ['15: limits[0].models: no route serves "fast"'],
    ),
    "routes that leave out what Claude Code requests": (
        '[[routes]]\nmodel = "fast"\nto = ["anthropic"]\n',
        [
            (
                "9: routes: no route serves claude-opus-5-5, claude-sonnet-5-5, claude-haiku-5-5, claude-fable-5-2,"
                " which Claude Code also requests in the background"
            )
        ],
    ),
    "a route behind one for all": (
        f'[[routes]]\nmodel = "*"\nto = ["anthropic"]\n{ALL}',
        ["13: routes[1]: never used: routes[0] serves all its requests first"],
    ),
    "a key that has expired": (
        f"expires = 2026-01-31T00:00:00Z\n{ALL}",
        ["9: keys[0].expires: has passed: the key is refused"],
    ),
    "a hedge after the last call": (
        ALL.replace('["anthropic"]', '["anthropic", { provider = "anthropic", model = "x" }]') + 'hedge = "1m"\n',
        ["13: routes[0].hedge: never happens: no call is added after 60 seconds"],
    ),
    "a misspelt AWS region": (
        ALL + bedrock("aws", "eu-cetnral-1"),
        ['15: providers.aws.region: "eu-cetnral-1" does not look like an AWS region (did you mean "eu-central-1"?)'],
    ),
    "a misspelt Google region": (
        ALL + vertex("google", "us-centrl1"),
        ['16: providers.google.region: "us-centrl1" does not look like a Google region (did you mean "us-central1"?)'],
    ),
    "regions of all partitions of AWS": (ALL + "".join(bedrock(region, region) for region in AWS_REGIONS), []),
    "locations of Google": (ALL + "".join(vertex(region, region) for region in GOOGLE_LOCATIONS), []),
}


@pytest.mark.parametrize(("text", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_a_warning_names_its_line_and_key(text: str, expected: list[str], tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=text)
    warnings = warnings_of(read_file(file, environ=ENVIRON))
    assert list(map(str, warnings)) == [f"{file}:{warning}" for warning in expected]


def test_a_file_that_others_can_write_is_warned_of(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=ALL)
    file.chmod(0o664)
    (warning,) = warnings_of(read_file(file, environ=ENVIRON))
    assert str(warning) == f"{file}: can be written by its group or by others (mode 0664): chmod go-w"


def check(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(group, ["check", *words], env={**ENVIRON, **environ})


def test_a_region_of_the_environment_is_checked_too() -> None:
    shown = check(BUD_ASGI_PROVIDER="bedrock", AWS_REGION="eu-wset-1", BUD_ASGI_ALLOW_ANONYMOUS="1")
    problem = 'AWS_REGION: "eu-wset-1" does not look like an AWS region (did you mean "eu-west-1"?)'
    assert shown.stderr == f"warning: environment: {problem}\n"


def test_a_file_that_was_not_named_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "gateway.toml" not in check().stderr
    Path("gateway.toml").touch()
    shown = check()
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.endswith("(gateway.toml is in this folder, and is read only if it is named)\n")


def test_json_has_what_is_served_and_the_warnings(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=f'models = ["gpt-*"]\nlimits = [{{ requests = 5 }}]\n{ALL}')
    shown = check("--json", str(file))
    assert (shown.exit_code, shown.stderr) == (0, "")
    url = "https://api.anthropic.com"
    target = {"provider": "anthropic", "model": None, "url": url, "group": None, "weight": None}
    warning = {"source": str(file), "path": "keys[0].models", "message": 'no route serves "gpt-*"', "line": 9}
    assert json.loads(shown.stdout) == {
        "source": str(file),
        "valid": True,
        "problems": [],
        "warnings": [warning],
        "serves": {
            "routes": [{"model": "claude-*", "conditions": "", "targets": [target]}],
            "keys": [{"name": "me", "team": None, "models": ["gpt-*"]}],
            "key_store": None,
            "issuers": [],
            "everyone": False,
            "limits": [{"limit": "5 requests per minute", "applies_to": "key me"}],
            "store": None,
            "fields": {},
        },
        "live": None,
    }


def test_json_has_the_problems_of_an_invalid_file_and_no_secret(tmp_path: Path) -> None:
    shown = check("--json", str(gateway_file(tmp_path, more='team = 3\nhsah = "sk-ant-CANARY"\n')))
    assert (shown.exit_code, shown.stderr) == (2, "")
    report = json.loads(shown.stdout)
    assert (report["valid"], report["serves"]) == (False, None)
    found = [(problem["line"], problem["path"]) for problem in report["problems"]]
    assert found == [(9, "keys[0].team"), (10, "keys[0].hsah")]
    assert "CANARY" not in shown.stdout
