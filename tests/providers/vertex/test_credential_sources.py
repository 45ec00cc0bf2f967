"""Sources of Google access tokens: keys, the environment, workload identity federation, objects of the host."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from google.auth import identity_pool, impersonated_credentials
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials as UserCredentials

from bud_asgi.providers.vertex.credential import GoogleCredential
from bud_asgi.testing.google import CLOUD_PLATFORM, impersonation_url
from providers.google_stage import REQUEST, Served, applied, bearer, google_served

QUOTA = "billing-project"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Served]:
    """Without anything of this machine's in the environment."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCLOUD_", "GCE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    with google_served() as one:
        yield one
        assert one.stand_in.refused == []


async def principal(served: Served, credential: GoogleCredential) -> str:
    """The principal of the token that a credential returns."""
    value = await bearer(credential)
    token = served.google.tokens.find(value)
    assert token is not None
    assert token.scopes == (CLOUD_PLATFORM,)
    return token.principal


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


async def test_a_key_file(served: Served, tmp_path: Path) -> None:
    file = written(tmp_path / "key.json", served.key())
    for given in (file, str(file)):
        assert await principal(served, served.credential(service_account_file=given)) == served.google.account.email


async def test_the_environment_names_a_key_file(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(written(tmp_path / "key.json", served.key())))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", QUOTA)
    credential = GoogleCredential()
    assert await principal(served, credential) == served.google.account.email
    assert (await applied(credential))["x-goog-user-project"] == QUOTA
    own = GoogleCredential(quota_project="mine")
    assert (await applied(own))["x-goog-user-project"] == "mine"


def federation(served: Served, tmp_path: Path, impersonated: str | None = None) -> dict[str, object]:
    subject = tmp_path / "subject-token"
    subject.write_text(served.google.federation.subject_token)
    return served.google.federation.info(served.stand_in.base_url, str(subject), impersonated)


@pytest.mark.parametrize("impersonating", [False, True])
async def test_the_environment_names_a_federated_identity(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impersonating: bool
) -> None:
    """No API is asked for the identity's project, which the setting names."""
    target = served.google.target.email if impersonating else None
    file = written(tmp_path / "identity.json", federation(served, tmp_path, target))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert await principal(served, GoogleCredential()) == (target or served.google.federation.principal)
    assert len(served.stand_in.requests) == (2 if impersonating else 1)


async def test_gclouds_file_is_found(served: Served, tmp_path: Path) -> None:
    (tmp_path / "gcloud").mkdir()
    written(tmp_path / "gcloud" / "application_default_credentials.json", served.key())
    assert await principal(served, GoogleCredential()) == served.google.account.email


PROGRAM = """
import asyncio
from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers.vertex.credential import GoogleCredential

async def main():
    request = await GoogleCredential().apply(HttpRequest(Origin("127.0.0.1", 1), b"POST", b"/", ()), {})
    print(dict(request.headers)[b"authorization"].decode())

asyncio.run(main())
"""


def test_a_machine_uses_its_metadata_server(served: Served) -> None:
    host = served.stand_in.base_url.removeprefix("http://")
    environment = {**os.environ, "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [f"Bearer {token}" for token in served.issued] == [ran.stdout.strip()]


def test_without_credentials_the_error_is_clear(served: Served) -> None:
    environment = {**os.environ, "NO_GCE_CHECK": "true"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert "UpstreamUnavailable: upstream authentication failed" in ran.stderr
    assert "Your default credentials were not found" in ran.stderr


async def test_credentials_of_the_hosts_are_given_their_scope(served: Served) -> None:
    unscoped: Any = service_account.Credentials.from_service_account_info(served.key())
    credential = served.credential(credentials=unscoped.with_quota_project(QUOTA))
    assert await principal(served, credential) == served.google.account.email
    assert (await applied(credential))["x-goog-user-project"] == QUOTA


async def test_credentials_of_a_workload(served: Served, tmp_path: Path) -> None:
    info = federation(served, tmp_path)
    credential = served.credential(credentials=identity_pool.Credentials.from_info(info))
    assert await principal(served, credential) == served.google.federation.principal


async def test_credentials_that_become_another_account(served: Served) -> None:
    target = served.google.target.email
    credentials = impersonated_credentials.Credentials(
        service_account.Credentials.from_service_account_info(served.key()),
        target,
        [CLOUD_PLATFORM],
        iam_endpoint_override=impersonation_url(served.stand_in.base_url, target),
    )
    assert await principal(served, served.credential(credentials=credentials)) == target


async def test_a_token_that_the_host_got_already_is_used(served: Served) -> None:
    credentials: Any = service_account.Credentials.from_service_account_info(served.key(), scopes=[CLOUD_PLATFORM])
    credentials.token = served.google.tokens.issue("host").value
    credentials.expiry = (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None)
    credential = served.credential(credentials=credentials)
    assert await principal(served, credential) == "host"
    assert served.stand_in.requests == []
    assert await credential.refresh(await credential.apply(REQUEST, {}))
    assert await principal(served, credential) == served.google.account.email
    assert len(served.stand_in.requests) == 1


async def test_an_old_token_of_the_hosts_is_not_used(served: Served) -> None:
    credentials: Any = service_account.Credentials.from_service_account_info(served.key(), scopes=[CLOUD_PLATFORM])
    credentials.token = served.google.tokens.issue("host").value
    credentials.expiry = (datetime.now(UTC) + timedelta(minutes=3)).replace(tzinfo=None)
    assert await principal(served, served.credential(credentials=credentials)) == served.google.account.email


async def test_a_token_alone_can_be_used_but_not_renewed(served: Served) -> None:
    credential = served.credential(credentials=UserCredentials("ya29.given"))
    assert await bearer(credential) == "ya29.given"
    assert await credential.refresh(await credential.apply(REQUEST, {})) is False
    assert await bearer(credential) == "ya29.given"


@contextmanager
def oauth_server() -> Generator[tuple[str, list[Mapping[str, list[str]]]]]:
    """A token endpoint for users' refresh tokens, and what it was asked."""
    asked: list[Mapping[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()))
            reply = json.dumps({"access_token": f"ya29.{len(asked)}", "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 (its name there)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/token", asked
        finally:
            server.shutdown()
            thread.join()


async def test_a_users_credentials_are_refreshed() -> None:
    with oauth_server() as (url, asked):
        user = UserCredentials(None, refresh_token="1//of-a-user", token_uri=url, client_id="c", client_secret="s")
        credential = GoogleCredential(credentials=user)
        assert await asyncio.gather(bearer(credential), bearer(credential)) == ["ya29.1", "ya29.1"]
        assert await credential.refresh(await credential.apply(REQUEST, {}))
        assert await bearer(credential) == "ya29.2"
    assert [one["refresh_token"] for one in asked] == [["1//of-a-user"]] * 2


WRONG: dict[str, tuple[object, str]] = {
    "of a user": ({"type": "authorized_user", "refresh_token": "SECRET"}, "not a service account's key"),
    "of something else": (
        {"type": "gdch", "client_email": "a", "private_key": "SECRET", "token_uri": "b"},
        "not a service account's key",
    ),
    "cut off": ({"type": "service_account", "private_key": "SECRET"}, "not a service account's key"),
    "a list": (["SECRET"], "not a service account's key"),
}


@pytest.mark.parametrize(("info", "words"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_key_is_refused_at_once(tmp_path: Path, info: Any, words: str) -> None:
    file = written(tmp_path / "key.json", info)
    for options in ({"service_account_info": info}, {"service_account_file": file}):
        given: dict[str, Any] = options
        with pytest.raises(ValueError, match=words) as raised:
            GoogleCredential(**given)
        assert "SECRET" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        GoogleCredential(service_account_file=tmp_path / "none.json")
    file = tmp_path / "key.json"
    for content in (b"{SECRET", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"key\.json: not valid JSON") as raised:
            GoogleCredential(service_account_file=file)
        assert "SECRET" not in str(raised.value)


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^credentials: cannot be combined with service_account_file$"):
        GoogleCredential(credentials=UserCredentials("t"), service_account_file=tmp_path)
    for project in ("", "a b", "a\n", "é"):
        with pytest.raises(ValueError, match="quota_project"):
            GoogleCredential(quota_project=project)
