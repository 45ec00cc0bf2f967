"""Every problem of a cloud's table is reported at once, with its line, and without showing a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_files import KEYS, written

from bud_asgi.config import ConfigError, read_file

REFERENCE = "expected a reference such as env:NAME or file:PATH"
NOT_SHOWN = "got a value that is not shown"
NO_USER = "must not contain a user, query or fragment; a credential has its own option"
BEDROCK_MODEL = "expected the id or ARN of a model on Bedrock"
REGION = 'expected an AWS region, such as "us-east-1"'
LOCATION = 'expected a location: "global", "us", "eu" or a region'
PROJECT = "expected the id of a Google Cloud project"
KEY_FILE = "expected the path of a service account's key file, got a value that is not shown"


def bedrock(lines: str, region: str = 'region = "us-east-1"') -> str:
    return f'[providers.b]\nkind = "bedrock"\n{region}\n{lines}\n'


def vertex(lines: str, project: str = 'project = "p"') -> str:
    return f'[providers.v]\nkind = "vertex"\n{project}\n{lines}\n'


ERRORS: dict[str, tuple[str, list[str]]] = {
    "no region": (bedrock("", region=""), [f"1: providers.b.region: missing; {REGION}"]),
    "a wrong region, and every other problem of the table": (
        bedrock('endpoint = "ftp://host"\nprofile = ""\n', region='region = "US East"'),
        [
            f'3: providers.b.region: {REGION}, got "US East"',
            '4: providers.b.endpoint: expected an http or https URL with a host, got "ftp://host"',
            "5: providers.b.profile: must not be empty",
        ],
    ),
    "an unknown key": (
        bedrock('regoin = "x"'),
        [
            (
                '4: providers.b.regoin: unknown key (did you mean "region"?); expected kind, region, endpoint,'
                " inference_profile, model_ids, service_tier, guardrail, client_headers, user_profiles,"
                " allow_betas, drop_betas, drop_fields, timeouts, profile, access_key, secret_key, session_token,"
                " bearer_token, role_arn, external_id or session_name"
            )
        ],
    ),
    "an endpoint with a password": (
        bedrock('endpoint = "https://me:CANARY@host"'),
        [f"4: providers.b.endpoint: {NO_USER}"],
    ),
    "an endpoint with an impossible port": (
        bedrock('endpoint = "host:99999"'),
        [f"4: providers.b.endpoint: expected a URL with a valid host and port, {NOT_SHOWN}"],
    ),
    "unknown choices": (
        bedrock(
            'inference_profile = "de"\nservice_tier = "best"\nclient_headers = ["x-amzn-bedrock-accept"]\n'
            'user_profiles = "yes"\n'
        ),
        [
            (
                '4: providers.b.inference_profile: expected "auto", "none", "global", "us", "eu", "jp", "apac",'
                ' "au" or "us-gov", got "de"'
            ),
            '5: providers.b.service_tier: expected "default", "flex", "priority" or "reserved", got "best"',
            (
                '6: providers.b.client_headers: expected "x-amzn-bedrock-guardrailidentifier",'
                ' "x-amzn-bedrock-guardrailversion", "x-amzn-bedrock-performanceconfig-latency",'
                ' "x-amzn-bedrock-request-metadata", "x-amzn-bedrock-service-tier" or "x-amzn-bedrock-trace",'
                ' got "x-amzn-bedrock-accept" (did you mean "x-amzn-bedrock-trace"?)'
            ),
            '7: providers.b.user_profiles: expected true or false, got "yes"',
        ],
    ),
    "invalid ids of models": (
        bedrock('model_ids = { a = "../secrets", "b c" = 3, "" = "anthropic.x", right = "anthropic.claude-opus-5" }'),
        [
            f'4: providers.b.model_ids.a: {BEDROCK_MODEL}, got "../secrets"',
            f'4: providers.b.model_ids."b c": {BEDROCK_MODEL}, got 3',
            '4: providers.b.model_ids."": expected a model name as the key, got ""',
        ],
    ),
    "half a guardrail": (
        bedrock('guardrail = { id = "", vresion = "1" }'),
        [
            "4: providers.b.guardrail.id: must not be empty",
            '4: providers.b.guardrail.vresion: unknown key (did you mean "version"?); expected id or version',
            "4: providers.b.guardrail.version: missing",
        ],
    ),
    "invalid lists": (
        bedrock('allow_betas = ["a b"]\ndrop_fields = "metadata"\n') + vertex('allow_betas = []\ndrop_fields = [""]'),
        [
            (
                '4: providers.b.allow_betas: expected a list of beta flags, such as ["context-1m-2025-08-07"],'
                ' got "a b" in it'
            ),
            '5: providers.b.drop_fields: expected a list of strings, got "metadata"',
            "10: providers.v.allow_betas: must not be empty",
            '11: providers.v.drop_fields: "" has an empty part; a path is written like tools.strict',
        ],
    ),
    "invalid timeouts": (
        bedrock("timeouts = { connect = true }") + vertex("timeouts = 3"),
        [
            (
                '4: providers.b.timeouts.connect: expected a duration such as "50ms", "30s", "1m", "1h" or "1d",'
                " or a number of seconds, got true"
            ),
            "8: providers.v.timeouts: expected a table, got 3",
        ],
    ),
    "literal secrets": (
        bedrock('access_key = "AKIACANARY"\nsecret_key = "CANARY"\nsession_token = "CANARY"\n')
        + '[providers.c]\nkind = "bedrock"\nregion = "us-east-1"\nbearer_token = "CANARY"\n',
        [
            f"4: providers.b.access_key: {REFERENCE}, {NOT_SHOWN}",
            f"5: providers.b.secret_key: {REFERENCE}, {NOT_SHOWN}",
            f"6: providers.b.session_token: {REFERENCE}, {NOT_SHOWN}",
            f"11: providers.c.bearer_token: {REFERENCE}, {NOT_SHOWN}",
        ],
    ),
    "secrets that cannot be found": (
        bedrock('access_key = "env:NOPE"\nsecret_key = "file:nope"'),
        [
            "4: providers.b.access_key: the environment variable NOPE is not set",
            "5: providers.b.secret_key: cannot read FOLDER/nope: No such file or directory",
        ],
    ),
    "halves of a credential": (
        bedrock('secret_key = "env:X"\nsession_token = "env:X"\nexternal_id = "xy"\nsession_name = "xy"'),
        [
            "4: providers.b.secret_key: requires access_key",
            "5: providers.b.session_token: requires access_key",
            "6: providers.b.external_id: requires role_arn",
            "7: providers.b.session_name: requires role_arn",
        ],
    ),
    "two credentials at once": (
        bedrock('profile = "p"\naccess_key = "env:X"\nsecret_key = "env:X"\nbearer_token = "env:X"'),
        [
            "4: providers.b.profile: cannot be combined with access_key, secret_key",
            "7: providers.b.bearer_token: cannot be combined with access_key, profile, secret_key",
        ],
    ),
    "an invalid role": (
        bedrock('role_arn = "gateway"\nexternal_id = "a b"\nsession_name = "x"'),
        [
            (
                "4: providers.b.role_arn: expected the ARN of a role, such as"
                ' "arn:aws:iam::123456789012:role/gateway", got "gateway"'
            ),
            f"5: providers.b.external_id: expected the external id that the role requires, {NOT_SHOWN}",
            '6: providers.b.session_name: expected 2 to 64 letters, digits and =,.@+_-, got "x"',
        ],
    ),
    "no project": (vertex("", project=""), [f"1: providers.v.project: missing; {PROJECT}"]),
    "wrong locations, and every other problem of the table": (
        vertex(
            'region = "Europe"\ncount_region = ""\nbase_url = "http://host:99999"\nservice_account_file = "nope.json"\n'
            'quota_project = "a b"\n',
            project='project = ""',
        ),
        [
            "3: providers.v.project: must not be empty",
            f'4: providers.v.region: {LOCATION}, got "Europe"',
            "5: providers.v.count_region: must not be empty",
            f"6: providers.v.base_url: expected a URL with a valid host and port, {NOT_SHOWN}",
            "7: providers.v.service_account_file: cannot read FOLDER/nope.json: No such file or directory",
            f'8: providers.v.quota_project: {PROJECT}, got "a b"',
        ],
    ),
    "a URL with a password": (vertex('base_url = "https://me:CANARY@host"'), [f"4: providers.v.base_url: {NO_USER}"]),
    "a key in place of its file": (
        vertex('service_account_file = \'{"private_key": "CANARY"}\''),
        [f"4: providers.v.service_account_file: {KEY_FILE}"],
    ),
    "a reference in place of a file": (
        vertex('service_account_file = "file:key.json"'),
        [f"4: providers.v.service_account_file: {KEY_FILE}"],
    ),
    "a file that is not JSON": (
        vertex('service_account_file = "text"'),
        ["4: providers.v.service_account_file: FOLDER/text: not valid JSON"],
    ),
    "a file of another kind": (
        vertex('service_account_file = "user.json"'),
        ["4: providers.v.service_account_file: FOLDER/user.json: not a service account's key"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_each_problem_names_its_line_and_key(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("CANARY")
    (tmp_path / "user.json").write_text(json.dumps({"type": "authorized_user", "refresh_token": "CANARY"}))
    file = written(tmp_path, text + KEYS + '[[routes]]\nmodel = "*"\nto = ["ELSEWHERE"]\n')
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={"X": "CANARY"})
    found = [line.removeprefix(f"{file}:") for line in str(raised.value).splitlines()]
    assert found[:-1] == [line.replace("FOLDER", str(tmp_path)) for line in expected]
    assert ': routes[0].to[0]: unknown provider "ELSEWHERE"; ' in found[-1]
    assert "CANARY" not in str(raised.value) + repr(raised.value)


def test_an_unusable_token_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "CAN ARY")
    with pytest.raises(ConfigError) as raised:
        read_file(written(tmp_path, bedrock("") + KEYS), environ={})
    assert [problem.path for problem in raised.value.problems] == ["providers.b.AWS_BEARER_TOKEN_BEDROCK"]
    assert "CAN ARY" not in str(raised.value)
