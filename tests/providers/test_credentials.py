"""What every `Credential` promises, whichever kind it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials

from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers import AwsCredential, Credential, GoogleCredential, UpstreamUnavailable
from bud_asgi.providers.anthropic import ApiKeyCredential, ClientCredential
from bud_asgi.secret import Secret

REQUEST = HttpRequest(Origin("h", 80), b"POST", b"/p", ((b"content-type", b"application/json"),), b"{}")
CLIENT = {b"x-api-key": b"the-clients-own-key", b"anthropic-version": b"2023-06-01"}


class Case:
    """A credential, the secrets that it holds now, and how to make its source return another one (or fail)."""

    def __init__(self, credential: Credential, *secrets: str, rotate: Callable[[], None] | None = None) -> None:
        self.credential = credential
        self.secrets = secrets
        self.rotate = rotate


class HostKeys:
    """A host's botocore-like object."""

    def __init__(self) -> None:
        self.number = 1

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        n = self.number
        return ReadOnlyCredentials(f"AKIDOFTHEHOST00{n}", f"secret-of-the-host-{n}", f"token-of-the-host-{n}")

    def rotate(self) -> None:
        self.number += 1


class GoogleHost:
    """A host's google-auth-like object: each refresh returns another token."""

    def __init__(self) -> None:
        from google.auth.credentials import TokenState

        self.number = 1
        self.token = "ya29.token-of-google-1"
        self.expiry = None
        self.quota_project_id = None
        self.token_state = TokenState.FRESH

    def refresh(self, _request: object) -> None:
        self.token = f"ya29.token-of-google-{self.number}"

    def rotate(self) -> None:
        self.number += 1


def api_key(_home: Path) -> Case:
    return Case(ApiKeyCredential(Secret("sk-ant-of-the-operator"), "x-api-key"), "sk-ant-of-the-operator")


def bearer_key(_home: Path) -> Case:
    return Case(ApiKeyCredential(Secret("sk-ant-sent-as-bearer"), "bearer"), "sk-ant-sent-as-bearer")


def no_key(_home: Path) -> Case:
    return Case(ApiKeyCredential(None, "x-api-key"))


def client(_home: Path) -> Case:
    return Case(ClientCredential())


def aws_bearer(_home: Path) -> Case:
    return Case(AwsCredential(region="us-east-1", bearer_token="bedrock-api-key-of-ours"), "bedrock-api-key-of-ours")


def aws_static(_home: Path) -> Case:
    given: dict[str, Any] = {
        "access_key": "AKIDSTATICOFOURS0000",
        "secret_key": "static-secret-of-ours",
        "session_token": "static-token-of-ours",
    }
    return Case(AwsCredential(region="us-east-1", **given), *given.values())


def aws_chain(home: Path) -> Case:
    number = 0

    def rotate() -> None:
        nonlocal number
        number += 1
        (home / "credentials").write_text(
            f"[default]\naws_access_key_id = AKIDCHAINOFOURS{number}\n"
            f"aws_secret_access_key = chain-secret-of-ours-{number}\n"
        )

    rotate()
    return Case(AwsCredential(region="us-east-1"), "AKIDCHAINOFOURS1", "chain-secret-of-ours-1", rotate=rotate)


def aws_host(_home: Path) -> Case:
    host = HostKeys()
    credential = AwsCredential(region="us-east-1", credentials=host)
    return Case(credential, "AKIDOFTHEHOST001", "secret-of-the-host-1", "token-of-the-host-1", rotate=host.rotate)


def google(_home: Path) -> Case:
    host: Any = GoogleHost()
    return Case(GoogleCredential(credentials=host), "ya29.token-of-google-1", rotate=host.rotate)


EVERY = (api_key, bearer_key, no_key, client, aws_bearer, aws_static, aws_chain, aws_host, google)
RENEWABLE = (aws_chain, aws_host, google)
FIXED = tuple(make for make in EVERY if make not in RENEWABLE)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def names(makers: tuple[Callable[[Path], Case], ...]) -> Any:
    return pytest.mark.parametrize("make", makers, ids=lambda make: make.__name__)


@names(EVERY)
async def test_it_only_adds_headers_at_the_end(make: Callable[[Path], Case], home: Path) -> None:
    signed = await make(home).credential.apply(REQUEST, CLIENT)
    assert tuple(signed.headers)[:1] == REQUEST.headers
    assert (signed.origin, signed.method, signed.target, signed.body) == (
        *(REQUEST.origin, REQUEST.method, REQUEST.target, REQUEST.body),
    )
    added = [name for name, _ in tuple(signed.headers)[1:]]
    assert len(added) == len(set(added))
    assert bool(added) == (make is not no_key)


@names(EVERY)
async def test_only_the_clients_own_credential_contains_what_the_client_sent(
    make: Callable[[Path], Case], home: Path
) -> None:
    credential = make(home).credential
    signed = await credential.apply(REQUEST, CLIENT)
    assert credential.is_operators == (make is not client)
    assert (b"the-clients-own-key" in dict(signed.headers).values()) == (make is client)


@names(EVERY)
async def test_its_secrets_are_redacted_and_never_shown(make: Callable[[Path], Case], home: Path) -> None:
    case = make(home)
    signed = await case.credential.apply(REQUEST, CLIENT)
    echoed = " ".join(("the upstream echoed", *case.secrets))
    assert case.credential.redact(echoed) == " ".join(("the upstream echoed", *["[secret]"] * len(case.secrets)))
    assert case.credential.redact("nothing of it") == "nothing of it"
    shown = f"{case.credential!r} {case.credential} {signed!r}"
    assert not any(secret in shown for secret in case.secrets)


@names(FIXED)
async def test_a_fixed_credential_has_no_other(make: Callable[[Path], Case], home: Path) -> None:
    credential = make(home).credential
    sent = await credential.apply(REQUEST, CLIENT)
    assert not await credential.refresh(sent)


@names(RENEWABLE)
async def test_a_refused_credential_is_replaced_by_what_its_source_returns_now(
    make: Callable[[Path], Case], home: Path
) -> None:
    case = make(home)
    sent = await case.credential.apply(REQUEST, CLIENT)
    assert case.rotate is not None
    case.rotate()
    assert await asyncio.gather(*(case.credential.refresh(sent) for _ in range(20))) == [True] * 20
    assert (await case.credential.apply(REQUEST, CLIENT)).headers != sent.headers
    assert case.credential.redact(case.secrets[0]) == "[secret]"


@names(RENEWABLE)
async def test_a_source_that_returns_the_same_has_no_other(make: Callable[[Path], Case], home: Path) -> None:
    case = make(home)
    sent = await case.credential.apply(REQUEST, CLIENT)
    assert [await case.credential.refresh(sent) for _ in range(3)] == [False] * 3


@names(RENEWABLE)
async def test_a_request_refused_with_a_replaced_credential_is_sent_again_at_once(
    make: Callable[[Path], Case], home: Path
) -> None:
    case = make(home)
    assert case.rotate is not None
    refused = [await case.credential.apply(REQUEST, CLIENT)]
    for _ in range(2):  # revoked twice within seconds
        case.rotate()
        assert await asyncio.gather(*(case.credential.refresh(sent) for sent in refused * 15)) == [True] * 15 * len(
            refused
        )
        refused.append(await case.credential.apply(REQUEST, CLIENT))
    assert await case.credential.refresh(refused[0])
    assert not await case.credential.refresh(refused[2])


@names(RENEWABLE)
def test_it_serves_one_loop_after_another(make: Callable[[Path], Case], home: Path) -> None:
    case = make(home)
    first = asyncio.run(case.credential.apply(REQUEST, CLIENT))
    assert case.rotate is not None
    case.rotate()
    assert asyncio.run(case.credential.refresh(first))
    assert asyncio.run(case.credential.apply(REQUEST, CLIENT)).headers != first.headers


async def test_without_keys_the_error_has_no_details(home: Path) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"^upstream authentication failed$"):
        await AwsCredential(region="us-east-1").apply(REQUEST, CLIENT)
