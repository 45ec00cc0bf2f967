"""Claims of a verified token, and the caller that they make; the documented mappings of well-known issuers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from support.asgi import Behind, call, http_scope
from support.issuer import LocalIssuer

from bud_asgi.auth import AuthMiddleware, Grant, Issuer
from bud_asgi.auth.jwt.issuer import ClaimError
from bud_asgi.exchange import Principal
from bud_asgi.limit import Limit

LIMITS = (Limit("requests", 10),)
GRANTS = [Grant(role="admins"), Grant(role="users", models=("claude-haiku-*",), limits=LIMITS)]


def caller(claims: Mapping[str, Any], prefix: str | None = "t:", **options: Any) -> Principal:
    """The caller that claims make, without the usual prefix of its id."""
    found = Issuer(url="https://issuer.example", audience="a", prefix=prefix, **options).caller(claims)
    assert found is not None
    return msgspec.structs.replace(found, id=found.id.removeprefix("t:"))


MAPPED: dict[str, tuple[dict[str, Any], dict[str, Any], Principal]] = {
    "the subject": ({}, {"sub": "ann"}, Principal(id="ann")),
    "another claim": ({"id": "email"}, {"sub": "1", "email": "ann@example.com"}, Principal(id="ann@example.com")),
    "a number": ({"id": "uid"}, {"uid": 42}, Principal(id="42")),
    "a claim in a claim": ({"id": ["user", "id"]}, {"user": {"id": "ann"}}, Principal(id="ann")),
    "a claim whose name is a URL": (
        {"id": "https://example.com/id"},
        {"https://example.com/id": "ann"},
        Principal(id="ann"),
    ),
    "a prefix": ({"prefix": "okta:"}, {"sub": "ann"}, Principal(id="okta:ann")),
    "the prefix by default": ({"prefix": None}, {"sub": "ann"}, Principal(id="issuer.example:ann")),
    "name and team": (
        {"name": "name", "team": "org"},
        {"sub": "ann", "name": "Ann", "org": "red"},
        Principal(id="ann", name="Ann", team="red"),
    ),
    "name and team that are missing": ({"name": "name", "team": ["a", "b"]}, {"sub": "ann"}, Principal(id="ann")),
    "metadata": (
        {"metadata": ["repository", "run", "missing"]},
        {"sub": "ann", "repository": "o/r", "run": 7},
        Principal(id="ann", metadata={"repository": "o/r", "run": "7"}),
    ),
    "a role in a list": (
        {"roles": ["realm", "roles"], "grants": GRANTS},
        {"sub": "ann", "realm": {"roles": ["x", "users"]}},
        Principal(id="ann", models=("claude-haiku-*",), limits=LIMITS),
    ),
    "the first grant decides": (
        {"roles": "groups", "grants": GRANTS},
        {"sub": "ann", "groups": ["users", "admins"]},
        Principal(id="ann"),
    ),
    "a role in a string": (
        {"roles": "scope", "grants": GRANTS},
        {"sub": "ann", "scope": "openid users"},
        Principal(id="ann", models=("claude-haiku-*",), limits=LIMITS),
    ),
    "a role with a blank": (
        {"roles": "role", "grants": [Grant(role="LLM users")]},
        {"sub": "ann", "role": "LLM users"},
        Principal(id="ann"),
    ),
    "no role": ({"roles": "groups", "grants": GRANTS}, {"sub": "ann", "groups": ["x"]}, Principal(id="ann", models=())),
    "no claim of roles": ({"roles": "groups", "grants": GRANTS}, {"sub": "ann"}, Principal(id="ann", models=())),
    "roles of another type": (
        {"roles": "groups", "grants": GRANTS},
        {"sub": "ann", "groups": {"users": True}},
        Principal(id="ann", models=()),
    ),
    "a required value": ({"required": {"hd": "example.com"}}, {"sub": "ann", "hd": "example.com"}, Principal(id="ann")),
    "one of several": ({"required": {"hd": ["a", "b"]}}, {"sub": "ann", "hd": "b"}, Principal(id="ann")),
    "in a list": ({"required": {"groups": "b"}}, {"sub": "ann", "groups": ["a", "b"]}, Principal(id="ann")),
    "a pattern": ({"required": {"ref": "refs/tags/*"}}, {"sub": "ann", "ref": "refs/tags/v1"}, Principal(id="ann")),
    "true": ({"required": {"verified": True}}, {"sub": "ann", "verified": True}, Principal(id="ann")),
    "a function": (
        {"principal": lambda claims: Principal(id=claims["sub"], models=("a",))},  # pyright: ignore[reportUnknownLambdaType]
        {"sub": "ann"},
        Principal(id="ann", models=("a",)),
    ),
}


@pytest.mark.parametrize(("options", "claims", "principal"), MAPPED.values(), ids=MAPPED.keys())
def test_claims_make_a_caller(options: dict[str, Any], claims: dict[str, Any], principal: Principal) -> None:
    assert caller(claims, **options) == principal


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no id": ({}, {}),
    "an empty id": ({}, {"sub": ""}),
    "an id that is a list": ({}, {"sub": ["ann"]}),
    "an id that is true": ({}, {"sub": True}),
    "an id that is a fraction": ({}, {"sub": 1.5}),
    "a team that is a list": ({"team": "groups"}, {"sub": "ann", "groups": ["a"]}),
    "a required claim that is missing": ({"required": {"hd": "example.com"}}, {"sub": "ann"}),
    "another value": ({"required": {"hd": "example.com"}}, {"sub": "ann", "hd": "evil.example"}),
    "a value in another case": ({"required": {"hd": "example.com"}}, {"sub": "ann", "hd": "EXAMPLE.com"}),
    "1 in place of true": ({"required": {"verified": True}}, {"sub": "ann", "verified": 1}),
    "text in place of true": ({"required": {"verified": True}}, {"sub": "ann", "verified": "true"}),
    "true in place of 1": ({"required": {"level": 1}}, {"sub": "ann", "level": True}),
    "text around a pattern": ({"required": {"sub": "repo:o/*"}}, {"sub": "xrepo:o/r"}),
    "a required claim beside a function": (
        {"required": {"hd": "a"}, "principal": lambda claims: Principal(id="ann")},  # pyright: ignore[reportUnknownLambdaType]
        {"sub": "ann"},
    ),
}


@pytest.mark.parametrize(("options", "claims"), REFUSED.values(), ids=REFUSED.keys())
def test_claims_that_do_not_fit_are_refused(options: dict[str, Any], claims: dict[str, Any]) -> None:
    with pytest.raises(ClaimError):
        caller(claims, **options)


async def test_the_log_says_why_a_valid_token_is_refused(issuer: LocalIssuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = issuer.backend(required={"hd": "example.com"})
    scope = http_scope([(b"authorization", b"Bearer " + issuer.token().encode())])
    sent = await call(AuthMiddleware(Behind(), backend=backend), scope)
    assert (sent.status, sent.error["message"]) == (401, "The bearer token does not have the required claims")
    assert "a valid token was refused: the required claim hd is missing, or has another value" in caplog.text


async def test_a_function_may_refuse_a_token(issuer: LocalIssuer) -> None:
    scope = http_scope([(b"authorization", b"Bearer " + issuer.token().encode())])
    assert (await call(AuthMiddleware(Behind(), backend=issuer.backend(principal=refuse)), scope)).status == 401


def refuse(_claims: Mapping[str, Any]) -> None:
    """Refuse every token."""


async def test_a_wrong_result_of_a_function_is_a_500_and_a_line_in_the_log(
    issuer: LocalIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(claims: Mapping[str, Any]) -> Any:
        return claims["sub"]

    scope = http_scope([(b"authorization", b"Bearer " + issuer.token().encode())])
    sent = await call(AuthMiddleware(Behind(), backend=issuer.backend(principal=wrong)), scope)
    assert (sent.status, sent.error["message"]) == (500, "The authentication of this gateway is misconfigured.")
    assert 'the result of principal(): expected a Principal or None, got "ann"' in caplog.text
