"""Tokens over real sockets: a gateway, an issuer and an upstream, with the official SDK."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import cast

import anthropic
import httpx
import pytest
from support.calls import BODY, KEY, MODEL
from support.gateway import Gateway, gateway, provider
from support.issuer import LocalIssuer

from bud_asgi import Anthropic, ApiKeys, Limit, hash_api_key
from bud_asgi.auth import Grant, Jwt
from bud_asgi.testing import StandIn, ThreadedStandIn

VERSION = {"anthropic-version": "2023-06-01"}
OWN = "sk-ant-api03-the-clients-own-key"
HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def issuer() -> Generator[LocalIssuer]:
    with StandIn(strict=False).in_thread() as stand_in:
        yield LocalIssuer(cast("StandIn", stand_in))  # it has what is used here


@pytest.fixture(scope="module")
def gateway_and_upstream(issuer: LocalIssuer) -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway for keys and tokens. Of the roles, `users` may use one model, twice a minute."""
    grants = [Grant(role="admins"), Grant(role="users", models=(MODEL,), limits=(Limit("requests", 2),))]
    tokens = Jwt(issuer.issuer(roles="groups", grants=grants, team="org"))
    with StandIn(strict=False).in_thread() as stand_in:
        keys = ApiKeys({"me": hash_api_key(KEY)})
        with gateway("", providers=[provider(stand_in.base_url)], auth=[keys, tokens], access_log=True) as one:
            yield one, stand_in


def client(here: Gateway, token: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=here.base_url, auth_token=token, api_key=None, max_retries=0)


def test_the_official_sdk_is_served_with_a_token(here: Gateway, upstream: ThreadedStandIn, issuer: LocalIssuer) -> None:
    token = issuer.token(issuer.claims(sub="root", groups=["admins"], org="red"))
    with client(here, token) as sdk:
        for _ in range(3):
            assert sdk.messages.create(model=MODEL, max_tokens=9, messages=HELLO).role == "assistant"
    principal = here.account().principal
    assert principal is not None
    assert (principal.id.rpartition(":")[2], principal.team) == ("root", "red")
    assert token not in str([request.headers for request in upstream.requests])
    assert issuer.fetches() == 1


def test_a_role_decides_the_models_and_the_limits(here: Gateway, issuer: LocalIssuer) -> None:
    bob, eve = (issuer.token(issuer.claims(sub=name, groups=["users"])) for name in ("bob", "eve"))
    headers = {"authorization": f"Bearer {bob}", **VERSION}
    assert [here.post(headers=headers).status_code for _ in range(3)] == [200, 200, 429]
    refused = here.post({"model": "claude-opus-4-8"}, headers={"authorization": f"Bearer {eve}", **VERSION})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")


def test_a_caller_without_a_role_may_use_no_model(here: Gateway, issuer: LocalIssuer) -> None:
    headers = {"authorization": f"Bearer {issuer.token()}", **VERSION}
    assert here.post(headers=headers).status_code == 403
    listed = httpx.get(f"{here.base_url}/v1/models", headers=headers, verify=False)
    assert (listed.status_code, listed.json()["data"]) == (200, [])


def test_keys_and_tokens_work_side_by_side(here: Gateway) -> None:
    assert here.post(headers={"x-api-key": KEY, **VERSION}).status_code == 200


def test_a_refused_token_is_in_no_log_and_reaches_no_upstream(
    here: Gateway, upstream: ThreadedStandIn, issuer: LocalIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    expired = issuer.token(issuer.claims(exp=1))
    reply = here.post(headers={"authorization": f"Bearer {expired}", **VERSION})
    assert reply.status_code == 401
    assert reply.json()["error"] == {"type": "authentication_error", "message": "The bearer token has expired"}
    assert reply.headers["x-should-retry"] == "false"
    for part in expired.split("."):
        assert part not in caplog.text
        assert part not in reply.text
    assert upstream.requests == []


def test_a_token_proves_the_caller_and_only_the_own_key_is_passed_through(issuer: LocalIssuer) -> None:
    with StandIn(strict=False).in_thread() as stand_in:
        mine = Anthropic(auth="client", base_url=stand_in.base_url)
        with gateway("", providers=[mine], auth=[Jwt(issuer.issuer())]) as here:
            token = issuer.token()
            headers = {"authorization": f"Bearer {token}", "x-api-key": OWN, **VERSION}
            assert here.post(headers=headers).status_code == 200
            assert (
                here.post(headers={"x-api-key": token, "authorization": f"Bearer {OWN}", **VERSION}).status_code == 200
            )
            assert (
                httpx.post(f"{here.base_url}/v1/messages", headers=headers, json=BODY, verify=False).status_code == 200
            )
        first, second, _ = stand_in.requests
        assert (first.header("x-api-key"), first.header("authorization")) == (OWN.encode(), None)
        assert (second.header("x-api-key"), second.header("authorization")) == (None, f"Bearer {OWN}".encode())
        assert token not in str([request.headers for request in stand_in.requests])
