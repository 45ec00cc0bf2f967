"""The sources of AWS keys: each function sets a machine up for one, and returns the options of the credential."""

from __future__ import annotations

import json
import shlex
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from aws_sources import CONTAINER_TOKEN, ROLE, SSO_TOKEN, START_URL, WEB_TOKEN, Sources, in_container, process_output

from bud_asgi.testing.bedrock import AwsKey


def use_nothing(_aws: Sources, _home: Path, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {}


def use_environment(aws: Sources, _home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    key = aws.keys.issue_temporary()
    patch.setenv("AWS_ACCESS_KEY_ID", key.access_key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", key.secret_key)
    patch.setenv("AWS_SESSION_TOKEN", str(key.session_token))
    return {}


def use_shared_file(aws: Sources, home: Path, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (home / "credentials").write_text(profile("default", aws.keys.issue()))
    return {}


def use_profile(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEENVIRONMENT")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "a-profile-takes-precedence")
    (home / "config").write_text(profile("profile work", aws.keys.issue_temporary()))
    return {"profile": "work"}


def use_profile_of_environment(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_PROFILE", "work")
    (home / "config").write_text(profile("profile work", aws.keys.issue()))
    return {}


def use_keys(aws: Sources, _home: Path, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return explicit(aws.keys.issue_temporary())


def use_container(aws: Sources, _home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    in_container(patch, aws)
    return {}


def use_container_token_file(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (home / "token").write_text(CONTAINER_TOKEN)
    patch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.base_url}/container")
    patch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(home / "token"))
    return {}


def use_instance_metadata(aws: Sources, _home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.delenv("AWS_EC2_METADATA_DISABLED")
    patch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.base_url)
    return {}


def use_web_identity(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (home / "token").write_text(WEB_TOKEN)
    patch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    patch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    patch.setenv("AWS_ROLE_ARN", ROLE)
    return {}


def use_process(aws: Sources, home: Path, _patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (home / "output.json").write_text(process_output(aws.keys.issue_temporary(), 3600))
    (home / "config").write_text(f"[default]\ncredential_process = /bin/cat {shlex.quote(str(home / 'output.json'))}\n")
    return {}


def use_sso(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(home))
    patch.setenv("AWS_ENDPOINT_URL_SSO", aws.base_url)
    (home / f"{sha1(START_URL.encode()).hexdigest()}.json").write_text(
        json.dumps({"accessToken": SSO_TOKEN, "expiresAt": "2099-01-01T00:00:00Z", "startUrl": START_URL})
    )
    (home / "config").write_text(
        f"[profile sso]\nsso_start_url = {START_URL}\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = reader\n"
    )
    return {"profile": "sso"}


def use_role_of_profile(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    role = f"[profile work]\nrole_arn = {ROLE}\nsource_profile = base\nregion = us-east-1\n"
    (home / "config").write_text(role + profile("profile base", aws.keys.issue()))
    return {"profile": "work"}


def use_role_by_keys(aws: Sources, _home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    named = {"role_arn": ROLE, "external_id": "ours:42", "session_name": "gateway-1"}
    return {**explicit(aws.keys.issue_temporary()), **named}


def use_role_by_container(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    return {**use_container(aws, home, patch), "role_arn": ROLE}


def use_role_by_profile(aws: Sources, home: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    return {**use_profile(aws, home, patch), "role_arn": ROLE}


def profile(name: str, key: AwsKey) -> str:
    token = f"aws_session_token = {key.session_token}\n" if key.session_token else ""
    return f"[{name}]\naws_access_key_id = {key.access_key}\naws_secret_access_key = {key.secret_key}\n{token}"


def explicit(key: AwsKey) -> dict[str, Any]:
    return {"access_key": key.access_key, "secret_key": key.secret_key, "session_token": key.session_token}
