"""The stand-in for Google's token services, used by Google's own library."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from google.auth import identity_pool, impersonated_credentials
from google.auth.credentials import Credentials, TokenState
from google.auth.exceptions import GoogleAuthError, OAuthError, RefreshError, TransportError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from bud_asgi.testing import StandIn, ThreadedStandIn, hang, json_body, text
from bud_asgi.testing.google import CLOUD_PLATFORM, Google, ServiceAccount, google_error, impersonation_url, oauth_error

SCOPES = [CLOUD_PLATFORM]
OTHER = ServiceAccount("other@bud-stand-in.iam.gserviceaccount.com", "bud-stand-in")
Served = tuple[Google, ThreadedStandIn]


@pytest.fixture
def served() -> Iterator[Served]:
    google = Google()
    with StandIn.of(google).in_thread() as stand_in:
        yield google, stand_in


def of_account(served: Served, **changes: str) -> Any:
    """Load credentials from the key file, with some of its fields changed."""
    info: Mapping[str, str] = {**served[0].account.info(served[1].base_url), **changes}
    return service_account.Credentials.from_service_account_info(info, scopes=SCOPES)


def refreshed(credentials: Credentials) -> str:
    credentials.refresh(Request())
    return str(credentials.token)


def left(credentials: Any) -> float:
    """Return the seconds until it expires; google-auth has naive datetimes in UTC."""
    return (credentials.expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def impatient(url: str, method: str = "GET", body: Any = None, headers: Any = None, **_options: Any) -> Any:
    """A transport with a short timeout."""
    moment: Any = 0.2
    return Request()(url, method, body, headers, moment)


def error_of(raised: pytest.ExceptionInfo[GoogleAuthError]) -> dict[str, Any]:
    """Return the error that the endpoint sent."""
    detail = raised.value.args[1]
    return json.loads(detail) if isinstance(detail, str) else detail


def test_a_service_account_gets_a_token(served: Served, tmp_path: Path) -> None:
    google, stand_in = served
    google.lifetime = 1200
    file = tmp_path / "key.json"
    file.write_text(json.dumps(google.account.info(stand_in.base_url)))
    credentials: Any = service_account.Credentials.from_service_account_file(str(file), scopes=SCOPES)
    token = google.tokens.find(refreshed(credentials))
    assert token is not None
    assert (token.principal, token.scopes, token.expired) == (google.account.email, (CLOUD_PLATFORM,), False)
    assert 1195 < left(credentials) <= 1200
    assert credentials.token_state is TokenState.FRESH
    assert credentials.project_id == google.project
    assert [request.target for request in stand_in.requests] == [b"/token"]
    assert refreshed(credentials) != token.value
    assert (len(stand_in.requests), len(google.tokens.issued)) == (2, 2)


def test_a_token_with_a_short_lifetime_is_stale_at_once(served: Served) -> None:
    served[0].lifetime = 60
    credentials = of_account(served)
    refreshed(credentials)
    assert credentials.token_state is TokenState.STALE


def test_a_token_expires(served: Served) -> None:
    google, _ = served
    google.lifetime = 0
    token = google.tokens.find(refreshed(of_account(served)))
    assert token is not None
    assert token.expired


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "another key": ({"private_key": OTHER.info("")["private_key"]}, "Invalid JWT Signature."),
    "another key's id": ({"private_key_id": OTHER.key_id}, "Invalid JWT Signature."),
    "another account": ({"client_email": OTHER.email}, "Invalid grant: account not found"),
}


@pytest.mark.parametrize(("changes", "expected_message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_key_is_rejected(served: Served, changes: dict[str, str], expected_message: str) -> None:
    with pytest.raises(RefreshError) as raised:
        refreshed(of_account(served, **changes))
    assert error_of(raised) == {"error": "invalid_grant", "error_description": expected_message}
    assert raised.value.retryable is False
    assert [request.refusal for request in served[1].requests] == [expected_message]
    assert served[0].tokens.issued == []


TIME = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp "
    "values in the JWT claim."
)
CLAIMS: dict[str, tuple[dict[str, object], str, str]] = {
    "for another": (
        {"aud": "https://example.com/token"},
        "invalid_grant",
        "Invalid JWT: Failed audience check. The right audience is https://oauth2.googleapis.com/token",
    ),
    "expired": ({"exp": int(time.time()) - 1}, "invalid_grant", TIME),
    "too long": ({"exp": int(time.time()) + 9000}, "invalid_grant", TIME),
    "of tomorrow": ({"iat": int(time.time()) + 86_400, "exp": int(time.time()) + 90_000}, "invalid_grant", TIME),
    "no date": ({"exp": "soon"}, "invalid_grant", TIME),
    "no scope": ({"scope": ""}, "invalid_scope", "Empty or missing scope not allowed."),
    "no such scope": (
        {"scope": "cloud-platform"},
        "invalid_scope",
        "Invalid OAuth scope or ID token audience provided.",
    ),
}


@pytest.mark.parametrize(("claims", "error", "expected_message"), CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_claim_is_rejected(
    served: Served, claims: dict[str, object], error: str, expected_message: str
) -> None:
    with pytest.raises(RefreshError) as raised:
        refreshed(of_account(served).with_claims(claims))
    assert error_of(raised) == {"error": error, "error_description": expected_message}
    assert served[0].tokens.issued == []


BODIES = {
    b"grant_type=password": "unsupported_grant_type",
    b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c": "invalid_grant",
    b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer": "invalid_grant",
    b"grant_type=a&grant_type=b": "invalid_request",
}


@pytest.mark.parametrize(("body", "error"), BODIES.items())
def test_an_invalid_assertion_is_rejected(served: Served, body: bytes, error: str) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    response = Request()(f"{served[1].base_url}/token", "POST", body, kind)
    assert (response.status, json.loads(response.data)["error"]) == (400, error)


def test_the_endpoint_fails_as_set(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth retries a server's error twice, but no rejection; without a reply its own timeout applies."""
    google, stand_in = served
    waited: list[float] = []
    monkeypatch.setattr("google.auth._exponential_backoff.time", SimpleNamespace(sleep=waited.append))
    stand_in.enqueue(*[json_body({}, status=503)] * 3)
    with pytest.raises(RefreshError) as raised:
        refreshed(of_account(served))
    assert (raised.value.retryable, len(stand_in.requests), len(waited)) == (True, 3, 2)
    stand_in.enqueue(oauth_error("invalid_grant", "Token has been expired or revoked."))
    with pytest.raises(RefreshError, match="expired or revoked"):
        refreshed(of_account(served))
    assert len(stand_in.requests) == 4
    stand_in.enqueue(hang())
    with pytest.raises(TransportError, match="timed out"):
        of_account(served).refresh(impatient)
    assert google.tokens.issued == []
    assert refreshed(of_account(served)) == google.tokens.issued[0].value
    assert stand_in.refused == []


def federated(served: Served, tmp_path: Path, subject_token: str | None = None, **changes: object) -> Any:
    google, stand_in = served
    file = tmp_path / "subject-token"
    file.write_text(google.federation.subject_token if subject_token is None else subject_token)
    info = {**google.federation.info(stand_in.base_url, str(file)), **changes}
    return identity_pool.Credentials.from_info(info, scopes=SCOPES)


def test_a_workload_exchanges_its_token(served: Served, tmp_path: Path) -> None:
    google, stand_in = served
    token = google.tokens.find(refreshed(federated(served, tmp_path)))
    assert token is not None
    assert (token.principal, token.scopes) == (google.federation.principal, (CLOUD_PLATFORM,))
    assert [request.target for request in stand_in.requests] == [b"/v1/token"]


EXCHANGES: dict[str, tuple[str | None, dict[str, object], str]] = {
    "another's token": ("other", {}, "invalid_grant"),
    "another pool": (None, {"audience": "//iam.googleapis.com/projects/1/locations/global/x"}, "invalid_target"),
    "another kind": (None, {"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
}


@pytest.mark.parametrize(("subject_token", "changes", "error"), EXCHANGES.values(), ids=EXCHANGES.keys())
def test_a_wrong_exchange_is_rejected(
    served: Served, tmp_path: Path, subject_token: str | None, changes: dict[str, object], error: str
) -> None:
    with pytest.raises(OAuthError) as raised:
        refreshed(federated(served, tmp_path, subject_token, **changes))
    assert error_of(raised)["error"] == error
    assert served[0].tokens.issued == []


def test_a_workload_impersonates_a_service_account(served: Served, tmp_path: Path) -> None:
    google, stand_in = served
    url = impersonation_url(stand_in.base_url, google.target.email)
    token = google.tokens.find(refreshed(federated(served, tmp_path, service_account_impersonation_url=url)))
    assert token is not None
    assert (token.principal, token.scopes) == (google.target.email, (CLOUD_PLATFORM,))
    assert [issued.principal for issued in google.tokens.issued] == [google.federation.principal, google.target.email]


def impersonated(served: Served, email: str, lifetime: int = 600) -> Any:
    url = impersonation_url(served[1].base_url, email)
    source = of_account(served)
    return impersonated_credentials.Credentials(source, email, SCOPES, lifetime=lifetime, iam_endpoint_override=url)


def test_a_service_account_impersonates_another(served: Served) -> None:
    google, _ = served
    credentials = impersonated(served, google.target.email)
    token = google.tokens.find(refreshed(credentials))
    assert token is not None
    assert token.principal == google.target.email
    assert 595 < left(credentials) <= 600


def test_impersonation_without_permission_is_rejected(served: Served) -> None:
    google, stand_in = served
    with pytest.raises(RefreshError) as raised:
        refreshed(impersonated(served, OTHER.email))
    assert error_of(raised)["error"]["status"] == "PERMISSION_DENIED"
    assert "'iam.serviceAccounts.getAccessToken' denied" in error_of(raised)["error"]["message"]
    with pytest.raises(RefreshError) as raised:
        refreshed(impersonated(served, google.target.email, lifetime=3601))
    assert error_of(raised)["error"]["status"] == "INVALID_ARGUMENT"
    credentials = impersonated(served, google.target.email)
    stand_in.enqueue(json_body({"access_token": "ya29.not-issued", "expires_in": 3600}))
    with pytest.raises(RefreshError) as raised:
        refreshed(credentials)
    assert error_of(raised)["error"]["status"] == "UNAUTHENTICATED"
    stand_in.enqueue(google.answer, google_error("INTERNAL", "Internal error encountered."))
    with pytest.raises(RefreshError) as raised:
        refreshed(impersonated(served, google.target.email))
    assert error_of(raised)["error"]["code"] == 500


PROGRAM = """
import json
import google.auth
from google.auth.transport.requests import Request

credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
credentials.refresh(Request())
print(json.dumps([project, credentials.service_account_email, credentials.token]))
"""


def test_credentials_of_a_machine_come_from_its_metadata_server(served: Served, tmp_path: Path) -> None:
    google, stand_in = served
    host = stand_in.base_url.removeprefix("http://")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "GCLOUD_", "GCE_"))}
    error_of = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "CLOUDSDK_CONFIG": str(tmp_path), "NO_PROXY": "*"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | error_of, capture_output=True, check=False, timeout=110
    )
    assert ran.returncode == 0, ran.stderr.decode()
    project, email, token = json.loads(ran.stdout)
    assert (project, email) == (google.project, google.account.email)
    assert [issued.value for issued in google.tokens.issued] == [token]
    assert [request.target for request in stand_in.requests] == [
        b"/",
        b"/computeMetadata/v1/project/project-id",
        b"/computeMetadata/v1/instance/service-accounts/default/?recursive=true",
        f"/computeMetadata/v1/instance/service-accounts/default/token?scopes={quote(CLOUD_PLATFORM, safe='')}".encode(),
    ]
    assert stand_in.refused == []


ASKED: list[tuple[str, dict[str, str], int]] = [
    ("/", {}, 200),
    ("/computeMetadata/v1/project/project-id", {}, 403),
    ("/computeMetadata/v1/project/project-id", {"Metadata-Flavor": "Other"}, 403),
    ("/computeMetadata/v1/project/project-id", {"Metadata-Flavor": "Google", "X-Forwarded-For": "10.0.0.1"}, 403),
    ("/computeMetadata/v1/project/project-id", {"Metadata-Flavor": "Google"}, 200),
    ("/computeMetadata/v1/instance/service-accounts/other/token", {"Metadata-Flavor": "Google"}, 404),
    ("/computeMetadata/v1/universe/universe-domain", {"Metadata-Flavor": "Google"}, 200),
    ("/computeMetadata/v1/instance/", {"Metadata-Flavor": "Google"}, 404),
]


@pytest.mark.parametrize(("path", "headers", "status"), ASKED)
def test_the_metadata_server_rejects_other_requests(
    served: Served, path: str, headers: dict[str, str], status: int
) -> None:
    response = Request()(f"{served[1].base_url}{path}", "GET", headers=headers)
    assert response.status == status
    assert response.headers["metadata-flavor"] == "Google"


@pytest.mark.parametrize(
    ("module", "heavy"), [("bud_asgi.testing", "cryptography"), ("bud_asgi.testing.vertex", "google.auth")]
)
def test_an_import_costs_no_more_than_it_must(module: str, heavy: str) -> None:
    program = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=110).returncode == 0


def test_an_unknown_path_gets_an_html_page(served: Served) -> None:
    served[1].always(text("never"))
    for method, path in (("GET", "/token"), ("POST", "/oauth"), ("POST", "/v1/projects/-/serviceAccounts/a:signJwt")):
        response = Request()(f"{served[1].base_url}{path}", method)
        assert (response.status, response.headers["content-type"]) == (404, "text/html; charset=UTF-8")
