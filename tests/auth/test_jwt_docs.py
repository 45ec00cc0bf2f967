"""docs/jwt.md: each file and program of it is valid, and each mapping makes the caller that it is meant to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bud_asgi import MessagesApp, Principal
from bud_asgi.auth import Jwt, Throttle
from bud_asgi.auth.jwt.issuer import ALGORITHMS, ClaimError
from bud_asgi.config import read_file

DOCS = Path(__file__).parents[2] / "docs"
PAGE, REFERENCE = (DOCS / "jwt.md").read_text(), (DOCS / "configuration.md").read_text()
FILES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PROVIDER = '\n[providers.a]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'
KEYS = f'\n[[keys]]\nname = "a"\nhash = "sha256:{"0" * 64}"\n'


@pytest.mark.parametrize("text", FILES, ids=range(1, len(FILES) + 1))
def test_each_file_is_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "gateway.toml").write_text(text + PROVIDER + ("" if "[[issuers]]" in text else KEYS))
    assert isinstance(read_file(tmp_path / "gateway.toml").app(), MessagesApp)


@pytest.mark.parametrize("code", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_each_program_runs(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names.get("messages") or names["auth"], MessagesApp | Jwt)


EXAMPLES: dict[str, tuple[dict[str, Any], Principal, dict[str, Any]]] = {
    "Google": (
        {
            "azp": "1234567890-abc.apps.googleusercontent.com",
            "sub": "110169484474386276334",
            "hd": "example.com",
            "email": "ann@example.com",
            "email_verified": True,
            "name": "Ann",
        },
        Principal(id="accounts.google.com:ann@example.com", name="Ann"),
        {"hd": None},
    ),
    "Entra ID": (
        {
            "azp": "8f3c2b1a-0000-4000-8000-000000000003",
            "name": "Ann",
            "oid": "8f3c2b1a-0000-4000-8000-000000000004",
            "roles": ["Llm.User"],
            "scp": "access_as_user",
            "sub": "pairwise",
            "tid": "8f3c2b1a-0000-4000-8000-000000000001",
            "ver": "2.0",
        },
        Principal(
            id="login.microsoftonline.com/8f3c2b1a-0000-4000-8000-000000000001/v2.0:8f3c2b1a-0000-4000-8000-000000000004",
            name="Ann",
        ),
        {"oid": None},
    ),
    "Okta": (
        {
            "cid": "0oa1",
            "uid": "00u1",
            "scp": ["openid"],
            "sub": "ann@example.com",
            "groups": ["Everyone", "llm-users"],
            "ver": 1,
        },
        Principal(id="example.okta.com/oauth2/default:ann@example.com"),
        {"sub": None},
    ),
    "Auth0": (
        {"azp": "client", "sub": "auth0|123456", "scope": "openid", "permissions": ["use:llm"]},
        Principal(id="example.eu.auth0.com/:auth0|123456"),
        {"sub": None},
    ),
    "Keycloak": (
        {
            "azp": "cli",
            "preferred_username": "ann",
            "realm_access": {"roles": ["default-roles-main", "llm-users"]},
            "scope": "openid profile",
            "sub": "f:1:ann",
            "typ": "Bearer",
        },
        Principal(id="login.example.com/realms/main:ann"),
        {"typ": "ID"},
    ),
    "GitHub Actions": (
        {
            "actor": "ann",
            "ref": "refs/tags/v1.2",
            "repository": "octo-org/octo-repo",
            "repository_owner": "octo-org",
            "repository_owner_id": "1234567",
            "run_id": "99",
            "sub": "repo:octo-org/octo-repo:ref:refs/tags/v1.2",
            "workflow_ref": "octo-org/octo-repo/.github/workflows/ci.yml@refs/tags/v1.2",
        },
        Principal(
            id="github:octo-org/octo-repo",
            metadata={
                "workflow_ref": "octo-org/octo-repo/.github/workflows/ci.yml@refs/tags/v1.2",
                "run_id": "99",
                "actor": "ann",
            },
        ),
        {"repository_owner_id": "666"},
    ),
}


def test_each_well_known_issuer_has_an_example() -> None:
    section = PAGE.partition("## Well-known issuers")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.*)$", section, re.MULTILINE) == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_mapping_of_a_well_known_issuer_makes_a_caller(tmp_path: Path, name: str) -> None:
    claims, principal, change = EXAMPLES[name]
    text = PAGE.partition(f"### {name}\n")[2].partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "gateway.toml").write_text(text + PROVIDER)
    (issuer,) = read_file(tmp_path / "gateway.toml").issuers
    assert issuer.caller(claims) == principal
    with pytest.raises(ClaimError):
        issuer.caller({**claims, **change})


def test_the_algorithms_are_those_of_the_code() -> None:
    row = next(line for line in REFERENCE.splitlines() if line.startswith("| `algorithms`"))
    assert re.findall(r"`([A-Z]\w+)`", row.rpartition("|")[0].rpartition("|")[0]) == list(ALGORITHMS)


def test_the_throttle_is_that_of_the_code() -> None:
    defaults = Throttle()
    assert (defaults._counts._failures, defaults._counts._rate) == (100, 100 / 60)
    assert re.findall(r"\| `failures` .* \| (\d+) \|", REFERENCE) == ["100"]
    assert "fail 100 times" in PAGE
