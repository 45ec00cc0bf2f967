"""`init`: a file for the credentials that are found, which is valid and has no secret in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from bud_asgi import hash_api_key
from bud_asgi.auth import is_api_key
from bud_asgi.cli import init
from bud_asgi.cli.commands import group
from bud_asgi.cli.init import new_file
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import Settings, read_file

ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-ant-CANARY"}
AWS = {"AWS_ACCESS_KEY_ID": "AKIACANARY", "AWS_SECRET_ACCESS_KEY": "CANARY"}
SERVICE_ACCOUNT = {"type": "service_account", "project_id": "my-p", "private_key": "CANARY"}
ADC = ".config/gcloud/application_default_credentials.json"

CASES: dict[str, tuple[Mapping[str, str], Mapping[str, str], list[str]]] = {
    "a key of Anthropic": (ANTHROPIC, {}, ["anthropic https://api.anthropic.com"]),
    "a token of Anthropic": ({"ANTHROPIC_AUTH_TOKEN": "CANARY"}, {}, ["anthropic https://api.anthropic.com"]),
    "another server": (
        {**ANTHROPIC, "ANTHROPIC_BASE_URL": "https://relay.example/x"},
        {},
        ["anthropic https://relay.example/x"],
    ),
    "AWS keys, without a region": (AWS, {}, ["bedrock https://bedrock-runtime.us-east-1.amazonaws.com"]),
    "AWS keys and a region": (
        {**AWS, "AWS_DEFAULT_REGION": "eu-west-1"},
        {},
        ["bedrock https://bedrock-runtime.eu-west-1.amazonaws.com"],
    ),
    "a Bedrock key": (
        {"AWS_BEARER_TOKEN_BEDROCK": "ABSKCANARY", "AWS_REGION": "us-west-2"},
        {},
        ["bedrock https://bedrock-runtime.us-west-2.amazonaws.com"],
    ),
    "a file of AWS": (
        {},
        {".aws/config": "[default]\nregion = ap-south-1\n", ".aws/credentials": "[default]\naws_secret = CANARY\n"},
        ["bedrock https://bedrock-runtime.ap-south-1.amazonaws.com"],
    ),
    "a profile of AWS": (
        {"AWS_PROFILE": "work"},
        {".aws/config": "[profile work]\nregion = eu-north-1\n"},
        ["bedrock https://bedrock-runtime.eu-north-1.amazonaws.com"],
    ),
    "a file of AWS that is broken": (
        AWS,
        {".aws/config": "region"},
        ["bedrock https://bedrock-runtime.us-east-1.amazonaws.com"],
    ),
    "a region that is something else": (
        {**AWS, "AWS_REGION": "sk-ant-CANARY"},
        {},
        ["bedrock https://bedrock-runtime.us-east-1.amazonaws.com"],
    ),
    "a service account": ({}, {ADC: json.dumps(SERVICE_ACCOUNT)}, ["vertex https://aiplatform.googleapis.com"]),
    "a login at Google with a project": (
        {"GOOGLE_CLOUD_PROJECT": "my-p", "CLOUD_ML_REGION": "us-east5"},
        {ADC: '{"refresh_token": "CANARY"}'},
        ["vertex https://us-east5-aiplatform.googleapis.com"],
    ),
    "all of them": (
        {**ANTHROPIC, **AWS, "AWS_REGION": "us-east-1"},
        {ADC: json.dumps(SERVICE_ACCOUNT)},
        [
            "anthropic https://api.anthropic.com",
            "bedrock https://bedrock-runtime.us-east-1.amazonaws.com",
            "vertex https://aiplatform.googleapis.com",
        ],
    ),
}


def read(text: str, folder: Path, environ: Mapping[str, str]) -> Settings:
    file = folder / "gateway.toml"
    file.write_text(text)
    return read_file(file, environ=environ)


def put(home: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


@pytest.mark.parametrize(("environ", "files", "expected"), CASES.values(), ids=CASES.keys())
def test_the_file_has_the_providers_that_are_found(
    environ: Mapping[str, str],
    files: Mapping[str, str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", *environ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    put(tmp_path, files)
    new = new_file("gateway.toml", environ, tmp_path)
    settings = read(new.text, tmp_path, environ)
    assert [f"{provider.name} {provider.base_url}" for provider in settings.providers] == expected
    assert warnings_of(settings) == []
    assert [(key.name, key.hash) for key in settings.keys] == [("default", hash_api_key(new.key))]
    assert "CANARY" not in new.text
    assert new.key not in new.text


WITH_WORK: dict[str, tuple[Mapping[str, str], Mapping[str, str], str]] = {
    "no project": ({}, {ADC: '{"refresh_token": "CANARY"}'}, "vertex: set its project, none was found"),
    "a URL with a key in it": (
        {**ANTHROPIC, "ANTHROPIC_BASE_URL": "https://relay.example/sk-ant-CANARY/v1"},
        {},
        "anthropic: set its base_url to ANTHROPIC_BASE_URL",
    ),
    "a URL that is not valid": (
        {**ANTHROPIC, "ANTHROPIC_BASE_URL": "relay.example"},
        {},
        "anthropic: set its base_url to ANTHROPIC_BASE_URL",
    ),
}


@pytest.mark.parametrize(("environ", "files", "work"), WITH_WORK.values(), ids=WITH_WORK.keys())
def test_a_provider_that_lacks_something_is_a_comment(
    environ: Mapping[str, str], files: Mapping[str, str], work: str, tmp_path: Path
) -> None:
    put(tmp_path, files)
    new = new_file("gateway.toml", {"AWS_BEARER_TOKEN_BEDROCK": "x", **environ}, tmp_path)
    assert f"# [providers.{work.partition(':')[0]}]" in new.text
    assert f"To do for {work}." in init.next_steps("gateway.toml", new)
    assert "CANARY" not in new.text


def test_without_the_extra_bedrock_is_a_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "find_spec", {}.get)
    new = new_file("gateway.toml", {**ANTHROPIC, **AWS}, tmp_path)
    assert "# [providers.bedrock]" in new.text
    assert [provider.name for provider in read(new.text, tmp_path, ANTHROPIC).providers] == ["anthropic"]


def test_without_any_credential_the_file_names_the_variable_to_set(tmp_path: Path) -> None:
    new = new_file("gateway.toml", {}, tmp_path)
    assert "Found anthropic" not in " ".join(init.next_steps("gateway.toml", new))
    assert "To do for anthropic: set ANTHROPIC_API_KEY." in init.next_steps("gateway.toml", new)
    assert read(new.text, tmp_path, ANTHROPIC).providers[0].name == "anthropic"


def test_it_writes_the_key_to_stdout_and_replaces_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {**ANTHROPIC, "HOME": str(tmp_path)}
    written = CliRunner().invoke(group, ["init"], env=environ)
    assert written.exit_code == 0
    assert is_api_key(written.stdout.strip())
    assert written.stderr.startswith("gateway.toml is written.\nFound anthropic: ANTHROPIC_API_KEY is set.\n")
    before = Path("gateway.toml").read_text()
    assert Path("gateway.toml").stat().st_mode & 0o022 == 0
    again = CliRunner().invoke(group, ["init"], env=environ)
    assert (again.exit_code, again.stderr) == (1, "error: gateway.toml exists; --force replaces it\n")
    assert (again.stdout, Path("gateway.toml").read_text()) == ("", before)
    forced = CliRunner().invoke(group, ["init", "--force", "gateway.toml"], env=environ)
    assert hash_api_key(forced.stdout.strip()) in Path("gateway.toml").read_text()
    nowhere = CliRunner().invoke(group, ["init", "nope/gateway.toml"], env=environ)
    assert nowhere.stderr == "error: nope/gateway.toml cannot be written: No such file or directory\n"
