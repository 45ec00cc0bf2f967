"""A file with Bedrock and Vertex AI becomes the same providers that code would make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from config_files import HASH, KEYS, written
from msgspec.structs import replace

from bud_asgi import Bedrock, Vertex, hash_api_key
from bud_asgi.config import Settings, from_file, read_file
from bud_asgi.http import Origin, Timeouts
from bud_asgi.providers import AwsCredential, GoogleCredential, Traits
from bud_asgi.secret import Secret
from bud_asgi.testing import StandIn
from bud_asgi.testing import bedrock as bedrock_stand_in
from bud_asgi.testing import vertex as vertex_stand_in
from bud_asgi.testing.google import Google
from bud_asgi.testing.server.serving import serving

ARN = "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/abc123"
KEY_FILE = {
    "type": "service_account",
    "client_email": "me@p.iam.gserviceaccount.com",
    "private_key": "CANARY",
    "token_uri": "http://127.0.0.1:1/token",
}
ENVIRON = {"AKID": "AKIACANARY", "ASECRET": "CANARY-secret", "ATOKEN": "CANARY-token"}
WHOLE = f"""
[providers.bedrock]
kind = "bedrock"
region = "eu-central-1"
endpoint = "vpce-1.bedrock-runtime.eu-central-1.vpce.amazonaws.com"
inference_profile = "global"
model_ids = {{ ours = "{ARN}", "claude-haiku-4-5" = "jp.anthropic.claude-haiku-4-5-20251001-v1:0" }}
service_tier = "flex"
guardrail = {{ id = "gr1", version = 2 }}
client_headers = ["x-amzn-bedrock-trace", "x-amzn-bedrock-request-metadata"]
user_profiles = true
allow_betas = ["new-2031-01-01"]
drop_fields = ["metadata"]
timeouts = {{ silence = 20 }}
access_key = "env:AKID"
secret_key = "env:ASECRET"
session_token = "env:ATOKEN"
role_arn = "arn:aws:iam::123456789012:role/gateway"
external_id = "ours"
session_name = "us"

[providers.vertex]
kind = "vertex"
project = "my-project"
region = "eu"
count_region = "europe-west1"
base_url = "https://private.example/vertex"
service_account_file = "secrets/key.json"
quota_project = "billing"
allow_betas = ["new-2031-01-01"]
drop_fields = ["metadata"]
timeouts = {{ connect = 1 }}

[[routes]]
model = "claude-*"
to = ["bedrock", "vertex"]
"""


def laid_open(value: object) -> object:
    """A value that can be compared: secrets and origins are replaced by their content."""
    match value:
        case Secret():
            return value.reveal()
        case Origin():
            return value.authority, value.tls is None
        case tuple():
            return [laid_open(one) for one in value]
        case AwsCredential():
            role = value._source.role
            return repr(value), [one.reveal() for one in value._own_secrets], role, value._fixed is None
        case GoogleCredential():
            return {name: one for name, one in vars(value).items() if name not in {"_refresher", "_lock"}}
        case Traits():
            return replace(value, loss_of=None)  # a method of the provider
        case Bedrock() | Vertex():
            # `_find_model` remembers results for `_models`, which is compared.
            return {name: laid_open(one) for name, one in vars(value).items() if name != "_find_model"}
        case _:
            return value


def read(folder: Path, text: str) -> Settings:
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "secrets" / "key.json").write_text(json.dumps(KEY_FILE))
    return read_file(written(folder, text + KEYS), environ=ENVIRON)


def test_it_is_equivalent_to_code(tmp_path: Path) -> None:
    bedrock, vertex = read(tmp_path, WHOLE).providers
    assert laid_open(bedrock) == laid_open(
        Bedrock(
            region="eu-central-1",
            endpoint="vpce-1.bedrock-runtime.eu-central-1.vpce.amazonaws.com",
            inference_profile="global",
            model_ids={"ours": ARN, "claude-haiku-4-5": "jp.anthropic.claude-haiku-4-5-20251001-v1:0"},
            service_tier="flex",
            guardrail=("gr1", "2"),
            client_headers=["x-amzn-bedrock-trace", "x-amzn-bedrock-request-metadata"],
            user_profiles=True,
            allow_betas=["new-2031-01-01"],
            drop_fields=["metadata"],
            timeouts=Timeouts(5.0, 600.0, 20.0),
            access_key="AKIACANARY",
            secret_key="CANARY-secret",
            session_token="CANARY-token",
            role_arn="arn:aws:iam::123456789012:role/gateway",
            external_id="ours",
            session_name="us",
        )
    )
    assert laid_open(vertex) == laid_open(
        Vertex(
            project="my-project",
            region="eu",
            count_region="europe-west1",
            base_url="https://private.example/vertex",
            service_account_file=tmp_path / "secrets/key.json",
            quota_project="billing",
            allow_betas=["new-2031-01-01"],
            drop_fields=["metadata"],
            timeouts=Timeouts(1.0, 600.0, 300.0),
        )
    )


LEAST = """
[providers.amazon]
kind = "bedrock"
region = "us-east-1"

[providers.google]
kind = "vertex"
project = "p"

[[routes]]
model = "*"
to = ["amazon"]
"""


def test_a_file_and_code_require_the_same_options(tmp_path: Path) -> None:
    found = read(tmp_path, LEAST).providers
    there = [Bedrock(region="us-east-1", name="amazon"), Vertex(project="p", name="google")]
    assert list(map(laid_open, found)) == list(map(laid_open, there))
    assert [one.base_url for one in found] == [
        "https://bedrock-runtime.us-east-1.amazonaws.com",
        "https://aiplatform.googleapis.com",
    ]


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ('profile = "work"', "profile 'work'"),
        ('access_key = "env:AKID"\nsecret_key = "env:ASECRET"', "keys"),
        ('bearer_token = "env:ATOKEN"', "bearer token"),
        (
            'profile = "work"\nrole_arn = "arn:aws:iam::123456789012:role/x"',
            "arn:aws:iam::123456789012:role/x by profile 'work'",
        ),
    ],
)
def test_each_way_to_a_credential_of_aws(line: str, way: str, tmp_path: Path) -> None:
    table = f'[providers.b]\nkind = "bedrock"\nregion = "us-east-1"\n{line}\n'
    (provider,) = read(tmp_path, table).providers
    assert repr(provider.credential) == f"AwsCredential(region='us-east-1', service='bedrock', {way})"


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    settings = read(tmp_path, WHOLE)
    shown = [settings, settings.app(), *settings.providers, *(one.credential for one in settings.providers)]
    assert "CANARY" not in "".join(repr(one) + str(one) for one in shown)


def test_requests_through_it_are_answered_by_both(tmp_path: Path) -> None:
    google, aws = Google(), bedrock_stand_in.Bedrock()
    key = aws.keys.issue()
    routes = "".join(
        f'[[routes]]\nmodel = "{name}"\nto = [{{ provider = "{name}", model = "claude-haiku-4-5" }}]\n'
        for name in ("amazon", "google")
    )
    with (
        StandIn.of(aws).in_thread() as amazon,
        StandIn.of(google).in_thread() as tokens,
        StandIn.of(vertex_stand_in.Vertex(tokens=google.tokens)).in_thread() as upstream,
    ):
        (tmp_path / "key.json").write_text(json.dumps(google.account.info(tokens.base_url)))
        text = (
            f'[providers.amazon]\nkind = "bedrock"\nregion = "us-east-1"\nendpoint = "{amazon.base_url}"\n'
            'access_key = "env:A"\nsecret_key = "env:B"\n'
            f'[providers.google]\nkind = "vertex"\nproject = "{google.project}"\nbase_url = "{upstream.base_url}"\n'
            'service_account_file = "key.json"\n'
            f"{routes}{KEYS.replace(HASH, hash_api_key('sk-mine'))}"
        )
        environ = {"A": key.access_key, "B": key.secret_key}
        with serving(from_file(written(tmp_path, text), environ=environ)) as url:
            for name, prefix in (("amazon", "msg_bdrk_"), ("google", "msg_vrtx_")):
                body: dict[str, Any] = {
                    "model": name,
                    "max_tokens": 9,
                    "messages": [{"role": "user", "content": "Hello"}],
                }
                headers = {"x-api-key": "sk-mine", "anthropic-version": "2023-06-01"}
                reply = httpx.post(f"{url}/v1/messages", json=body, headers=headers, timeout=30)
                assert (reply.status_code, reply.json()["id"][:9]) == (200, prefix)
