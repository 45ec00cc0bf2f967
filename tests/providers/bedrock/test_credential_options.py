"""The options of the AWS credential, and what it never shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from aiobotocore.credentials import AioCredentials
from botocore.credentials import Credentials

from bud_asgi.http import HttpRequest, Origin
from bud_asgi.options import OptionError
from bud_asgi.providers import Credential
from bud_asgi.providers.bedrock import credential as aws
from bud_asgi.providers.bedrock import sigv4
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.secret import Secret

KEYS: dict[str, Any] = {"access_key": "AKIDEXAMPLEOFOURS", "secret_key": Secret("the-secret-key-of-ours")}
TEMPORARY: dict[str, Any] = {**KEYS, "session_token": "the-session-token-of-ours"}
HOST = Credentials("AKIDHOST", "host-secret")
ROLE = "arn:aws:iam::123456789012:role/path/gateway"
REQUEST = HttpRequest(Origin("h", 80), b"POST", b"/", ((b"content-type", b"application/json"),), b"{}")


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")


def credential(**options: Any) -> AwsCredential:
    given: dict[str, Any] = {"region": "us-east-1", **options}
    return AwsCredential(**given)


async def authorization(one: AwsCredential) -> bytes:
    return dict((await one.apply(REQUEST, {})).headers)[b"authorization"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bearer_token": "t", **KEYS}, "bearer_token: cannot be combined with access_key, secret_key"),
        ({"bearer_token": "t", "profile": "p"}, "bearer_token: cannot be combined with profile"),
        ({"bearer_token": "t", "role_arn": ROLE}, "bearer_token: cannot be combined with role_arn"),
        ({"profile": "p", **TEMPORARY}, "profile: cannot be combined with access_key, secret_key, session_token"),
        ({"access_key": "a"}, "access_key: requires secret_key"),
        ({"secret_key": "s"}, "secret_key: requires access_key"),
        ({"session_token": "s"}, "session_token: requires access_key"),
        ({"external_id": "id"}, "external_id: requires role_arn"),
        ({"session_name": "me", "profile": "p"}, "session_name: requires role_arn"),
        ({"region": ""}, 'region: expected an AWS region, such as "us-east-1", got ""'),
        ({"region": None}, 'region: missing; expected an AWS region, such as "us-east-1"'),
        ({"region": "us-east-1/x"}, 'region: expected an AWS region, such as "us-east-1", got "us-east-1/x"'),
        ({"service": "S3 "}, 'service: expected the signing name of an AWS service, such as "bedrock", got "S3 "'),
        ({"profile": ""}, 'profile: expected the name of an AWS profile, got ""'),
        ({"profile": 5}, "profile: expected the name of an AWS profile, got 5"),
        ({"role_arn": "arn:aws:iam::1:user/me"}, "role_arn: expected the ARN of a role, such as "),
        (
            {"role_arn": ROLE, "session_name": "a b"},
            'session_name: expected 2 to 64 letters, digits and =,.@+_-, got "a b"',
        ),
        ({"role_arn": ROLE, "external_id": "hidden!"}, "external_id: expected the external id that the role requires"),
        ({"bearer_token": ""}, "bearer_token: a secret must be visible ASCII"),
        ({"bearer_token": b"hidden"}, "bearer_token: expected a string or a Secret, got a value that is not shown"),
        ({**KEYS, "session_token": "hidden\n"}, "session_token: a secret must be visible ASCII"),
        ({"credentials": HOST, **KEYS}, "credentials: cannot be combined with access_key, secret_key"),
        ({"credentials": HOST, "profile": "p"}, "credentials: cannot be combined with profile"),
        ({"credentials": HOST, "role_arn": ROLE}, "credentials: cannot be combined with role_arn"),
        ({"credentials": HOST, "bearer_token": "t"}, "credentials: cannot be combined with bearer_token"),
        ({"credentials": object()}, "credentials: expected an object with get_frozen_credentials()"),
        ({"credentials": AioCredentials("a", "s")}, "credentials: expected an object of botocore or boto3, not of aio"),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)) as refused:
        credential(**options)
    assert str(refused.value).startswith(words)
    assert refused.value.option == words.partition(":")[0]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({}, "AWS's chain"),
        ({"profile": "work"}, "profile 'work'"),
        (TEMPORARY, "keys"),
        ({**TEMPORARY, "role_arn": ROLE, "external_id": "id"}, f"{ROLE} by keys"),
        ({"role_arn": ROLE, "profile": "work"}, f"{ROLE} by profile 'work'"),
        ({"bearer_token": "the-bearer-token"}, "bearer token"),
        ({"credentials": HOST}, "credentials of the host"),
    ],
)
def test_nothing_secret_is_shown(options: dict[str, Any], way: str) -> None:
    one = credential(**options)
    assert repr(one) == f"AwsCredential(region='us-east-1', service='bedrock', {way})"
    assert str(one) == repr(one)
    shown = str(vars(one))
    assert not any(value in shown for value in ("AKIDEXAMPLE", "the-secret", "the-session", "the-bearer"))


async def test_given_keys_are_redacted() -> None:
    text = "AKIDEXAMPLEOFOURS the-secret-key-of-ours the-session-token-of-ours the-bearer-token"
    assert credential(**TEMPORARY).redact(text) == "[secret] [secret] [secret] the-bearer-token"
    role = credential(**TEMPORARY, role_arn=ROLE)
    assert role.redact(text) == "[secret] [secret] [secret] the-bearer-token"
    assert credential(bearer_token="the-bearer-token").redact(text).endswith("the-session-token-of-ours [secret]")
    assert credential().redact(text) == text


async def test_fetched_keys_are_redacted_and_so_are_the_previous_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = credential()

    def set_keys(number: int) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKIDCHAINOFOURS{number}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"chain-secret-of-ours-{number}")
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"chain-token-of-ours-{number}")

    set_keys(1)
    for number in (2, 3):
        sent = await chain.apply(REQUEST, {})
        set_keys(number)
        assert await chain.refresh(sent)
    assert "/us-east-1/bedrock/aws4_request" in (await authorization(chain)).decode()
    text = "chain-token-of-ours-3 chain-secret-of-ours-2 AKIDCHAINOFOURS2 chain-token-of-ours-1"
    assert chain.redact(text) == "[secret] [secret] [secret] [secret]"


async def test_fixed_credentials_cannot_be_refreshed() -> None:
    for one in (credential(**KEYS), credential(bearer_token="t")):
        assert not await one.refresh(REQUEST)


async def test_the_environments_token_takes_precedence_over_the_chain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "of-the-environment")
    assert await authorization(credential()) == b"Bearer of-the-environment"
    assert await authorization(credential(service="bedrock-mantle")) == b"Bearer of-the-environment"
    assert await authorization(credential(bearer_token="given")) == b"Bearer given"
    assert (await authorization(credential(**KEYS))).startswith(b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLEOFOURS/")
    for options in ({"profile": "p"}, {"role_arn": ROLE}, {"service": "aws-external-anthropic"}):
        assert "bearer" not in repr(credential(**options))
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "")
    assert "chain" in repr(credential())
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "with a space")
    with pytest.raises(ValueError, match=r"^AWS_BEARER_TOKEN_BEDROCK: "):
        credential()


async def test_a_request_is_unchanged_but_for_the_signature_which_names_its_scope() -> None:
    signed = await credential(**TEMPORARY, service="bedrock-mantle", region="eu-west-1").apply(REQUEST, {})
    assert tuple(signed.headers)[:1] == tuple(REQUEST.headers)
    assert (signed.target, signed.body, signed.origin) == (REQUEST.target, REQUEST.body, REQUEST.origin)
    added = dict(signed.headers)
    assert set(added) == {b"content-type", b"authorization", b"x-amz-date", b"x-amz-security-token"}
    words = b"/eu-west-1/bedrock-mantle/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, "
    assert words in added[b"authorization"]


async def test_large_bodies_are_hashed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing: list[threading.Thread] = []
    real = sigv4.payload_hash

    def noting(body: Any) -> bytes:
        hashing.append(threading.current_thread())
        return real(body)

    monkeypatch.setattr(aws, "payload_hash", noting)
    for size in (1 << 20, (1 << 20) + 1):
        parts = [memoryview(bytes(size - 5)), b"12345"]
        await credential(**KEYS).apply(HttpRequest(REQUEST.origin, b"POST", b"/", (), parts), {})
    assert [thread is threading.main_thread() for thread in hashing] == [True, False]


def test_a_credential_of_the_seam() -> None:
    one: Credential = credential(**KEYS)
    assert one.is_operators


def test_botocore_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import asyncio, sys, bud_asgi\n"
        "from bud_asgi.providers.bedrock.credential import AwsCredential\n"
        "from bud_asgi.http import HttpRequest, Origin\n"
        "request = HttpRequest(Origin('h', 80), b'POST', b'/', ())\n"
        "AwsCredential(region='us-east-1', profile='p')\n"
        "for options in ({'access_key': 'a', 'secret_key': 's'}, {'bearer_token': 't'}):\n"
        "    asyncio.run(AwsCredential(region='us-east-1', **options).apply(request, {}))\n"
        "print([name for name in ('aiobotocore', 'botocore', 'aiohttp', 'dateutil') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.strip() == "[]"
