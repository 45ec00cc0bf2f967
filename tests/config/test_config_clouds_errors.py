"""What is wrong with the table of a cloud is said exactly, all of it at once, and without a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_files import KEYS, written

from bud_asgi.config import ConfigError, read_file

NO_SECRET = "a string that is not shown here; allowed is a reference to the secret, env:NAME or file:PATH"
NO_BETAS = 'allowed is a list of beta flags, such as ["context-1m-2025-08-07"]'
NO_FIELDS = 'allowed is a list of top-level fields of a request, such as ["metadata"]'
NO_LOCATION = 'allowed is a location, "global", "us", "eu" or a region'
NO_FILE = "found a string that is not shown here; allowed is the path of the file with a service account's key"
NO_MODEL = "allowed is an id or ARN of a model on Bedrock"


def bedrock(lines: str, region: str = 'region = "us-east-1"') -> str:
    return f'[providers.b]\nkind = "bedrock"\n{region}\n{lines}\n'


def vertex(lines: str, project: str = 'project = "p"') -> str:
    return f'[providers.v]\nkind = "vertex"\n{project}\n{lines}\n'


ERRORS: dict[str, tuple[str, list[str]]] = {
    "no region": (
        bedrock("", region=""),
        ['b.region: found nothing; allowed is a region of AWS, such as "us-east-1"'],
    ),
    "a region that is none, and all that is wrong beside it": (
        bedrock('endpoint = "ftp://host"\nprofile = ""\n', region='region = "US East"'),
        [
            'b.region: found "US East"; allowed is a region of AWS, such as "us-east-1"',
            'b.profile: found ""; allowed is a string that is not empty',
            "b.endpoint: endpoint must be an http or https URL with a host, not 'ftp://host'",
        ],
    ),
    "an unknown key": (
        bedrock('regoin = "x"'),
        [
            (
                "b.regoin: unknown key (did you mean region?); allowed are kind, region, endpoint, inference_profile,"
                " model_ids, service_tier, guardrail, client_headers, user_profiles, allow_betas, drop_fields,"
                " timeouts, profile, access_key, secret_key, session_token, bearer_token, role_arn, external_id,"
                " session_name"
            )
        ],
    ),
    "an endpoint with a password": (
        bedrock('endpoint = "https://me:CANARY@host"'),
        [
            (
                "b.endpoint: found a string that is not shown here;"
                " allowed is a host, or an http or https URL without user, query and fragment"
            )
        ],
    ),
    "an endpoint with an impossible port": (
        bedrock('endpoint = "host:99999"'),
        ["b.endpoint: endpoint must be a URL with a valid host and port"],
    ),
    "choices that are none": (
        bedrock(
            'inference_profile = "de"\nservice_tier = "best"\nclient_headers = ["x-amzn-bedrock-accept"]\n'
            'user_profiles = "yes"\n'
        ),
        [
            (
                'b.inference_profile: found "de";'
                ' allowed is "auto", "none", "global", "us", "eu", "jp", "apac", "au" or "us-gov"'
            ),
            'b.service_tier: found "best"; allowed is "default", "flex", "priority" or "reserved"',
            (
                "b.client_headers: found a list;"
                ' allowed is a list of headers of InvokeModel, such as ["x-amzn-bedrock-service-tier"]'
            ),
            'b.user_profiles: found "yes"; allowed is true or false',
        ],
    ),
    "models that are none": (
        bedrock('model_ids = { a = "../secrets", "b c" = 3, "" = "anthropic.x", right = "anthropic.claude-opus-5" }'),
        [
            f'b.model_ids.a: found "../secrets"; {NO_MODEL}',
            f'b.model_ids."b c": found 3; {NO_MODEL}',
            f'b.model_ids."": found "anthropic.x"; {NO_MODEL}',
        ],
    ),
    "half a guardrail": (
        bedrock('guardrail = { id = "", vresion = "1" }'),
        [
            'b.guardrail.id: found ""; allowed is the id or the ARN of a guardrail',
            "b.guardrail.vresion: unknown key (did you mean version?); allowed are id, version",
            'b.guardrail.version: found nothing; allowed is the version of the guardrail, a number or "DRAFT"',
        ],
    ),
    "lists that are none": (
        bedrock('allow_betas = ["a b"]\ndrop_fields = "metadata"\n') + vertex('allow_betas = []\ndrop_fields = [""]'),
        [
            f"b.allow_betas: found a list; {NO_BETAS}",
            f'b.drop_fields: found "metadata"; {NO_FIELDS}',
            f"v.allow_betas: found an empty list; {NO_BETAS}",
            f"v.drop_fields: found a list; {NO_FIELDS}",
        ],
    ),
    "timeouts that are none": (
        bedrock("timeouts = { connect = 0 }") + vertex("timeouts = 3"),
        [
            "b.timeouts.connect: found 0; allowed is a number of seconds, more than 0 and at most 86400",
            "v.timeouts: found 3; allowed is a table of connect, first_byte and silence, in seconds",
        ],
    ),
    "literal secrets": (
        bedrock('access_key = "AKIACANARY"\nsecret_key = "CANARY"\nsession_token = "CANARY"\n')
        + '[providers.c]\nkind = "bedrock"\nregion = "us-east-1"\nbearer_token = "CANARY"\n',
        [
            f"b.access_key: found {NO_SECRET}",
            f"b.secret_key: found {NO_SECRET}",
            f"b.session_token: found {NO_SECRET}",
            f"c.bearer_token: found {NO_SECRET}",
        ],
    ),
    "secrets that are not there": (
        bedrock('access_key = "env:NOPE"\nsecret_key = "file:nope"'),
        [
            "b.access_key: the environment variable NOPE is not set",
            "b.secret_key: the file FOLDER/nope can't be read: No such file or directory",
        ],
    ),
    "halves of a credential": (
        bedrock('secret_key = "env:X"\nsession_token = "env:X"\nexternal_id = "xy"\nsession_name = "xy"'),
        [
            "b.secret_key: found one without access_key, which it needs",
            "b.session_token: found one without access_key, which it needs",
            "b.external_id: found one without role_arn, which it needs",
            "b.session_name: found one without role_arn, which it needs",
        ],
    ),
    "two credentials at once": (
        bedrock('profile = "p"\naccess_key = "env:X"\nsecret_key = "env:X"\nbearer_token = "env:X"'),
        [
            "b.bearer_token: found one beside profile; allowed is one of the two",
            "b.profile: found one beside access_key; allowed is one of the two",
        ],
    ),
    "a role that is none": (
        bedrock('role_arn = "gateway"\nexternal_id = "a b"\nsession_name = "x"'),
        [
            (
                'b.role_arn: found "gateway";'
                ' allowed is the ARN of a role, such as "arn:aws:iam::123456789012:role/gateway"'
            ),
            'b.external_id: found "a b"; allowed is the external id that the role asks for',
            'b.session_name: found "x"; allowed is a name of 2 to 64 letters, digits and =,.@+_-',
        ],
    ),
    "no project": (
        vertex("", project=""),
        ["v.project: found nothing; allowed is the id of a project of Google Cloud"],
    ),
    "places that are none, and all that is wrong beside them": (
        vertex(
            'region = "Europe"\ncount_region = ""\nbase_url = "http://host:99999"\nservice_account_file = "nope.json"\n'
            'quota_project = "a b"\n',
            project='project = ""',
        ),
        [
            'v.project: found ""; allowed is the id of a project of Google Cloud',
            f'v.region: found "Europe"; {NO_LOCATION}',
            f'v.count_region: found ""; {NO_LOCATION}',
            'v.quota_project: found "a b"; allowed is the id of a project of Google Cloud',
            "v.service_account_file: the file FOLDER/nope.json: No such file or directory",
            "v.base_url: base_url must be a URL with a valid host and port",
        ],
    ),
    "a URL with a password": (
        vertex('base_url = "https://me:CANARY@host"'),
        [
            (
                "v.base_url: found a string that is not shown here;"
                " allowed is an http or https URL without user, query and fragment"
            )
        ],
    ),
    "a key in place of its file": (
        vertex('service_account_file = \'{"private_key": "CANARY"}\''),
        [f"v.service_account_file: {NO_FILE}"],
    ),
    "a reference in place of a file": (
        vertex('service_account_file = "file:key.json"'),
        [f"v.service_account_file: {NO_FILE}"],
    ),
    "a file that is no key": (
        vertex('service_account_file = "text"'),
        ["v.service_account_file: the file FOLDER/text: not valid JSON"],
    ),
    "a file of another kind": (
        vertex('service_account_file = "user.json"'),
        ["v.service_account_file: the file FOLDER/user.json: not the key of a service account"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_the_words_of_an_error(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("CANARY")
    (tmp_path / "user.json").write_text(json.dumps({"type": "authorized_user", "refresh_token": "CANARY"}))
    file = written(tmp_path, text + KEYS + '[[routes]]\nmodel = "*"\nto = ["ELSEWHERE"]\n')
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={"X": "CANARY"})
    start = f"{file}: providers."
    found = [line for line in str(raised.value).splitlines() if line.startswith(start)]
    assert [line.removeprefix(start) for line in found] == [line.replace("FOLDER", str(tmp_path)) for line in expected]
    assert len(raised.value.problems) == len(expected) + 1  # and the route to nowhere
    assert "CANARY" not in str(raised.value) + repr(raised.value)


def test_a_token_of_the_environment_that_can_t_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "CAN ARY")
    with pytest.raises(ConfigError) as raised:
        read_file(written(tmp_path, bedrock("") + KEYS), environ={})
    assert [problem.path for problem in raised.value.problems] == ["providers.b"]
    assert "AWS_BEARER_TOKEN_BEDROCK" in str(raised.value)
    assert "CAN ARY" not in str(raised.value)
