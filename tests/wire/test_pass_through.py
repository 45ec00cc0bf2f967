"""The client's own credential and its trace context, forwarded only where the app is configured to."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from support.calls import BODY, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider

from bud_asgi import (
    Anonymous,
    Anthropic,
    ApiKeys,
    HostUser,
    Route,
    hash_api_key,
)
from bud_asgi.testing import StandIn, ThreadedStandIn, error, json_body

TOKEN = "sk-ant-oat01-the-clients-own"
VERSION = {"anthropic-version": "2023-06-01"}
BOTH = [Route("claude-*", to=["mine"]), Route("*", to=["ours"])]


@pytest.fixture(scope="module")
def gateway_and_upstream() -> Generator[tuple[Gateway, ThreadedStandIn]]:
    """A gateway without authentication: `claude-*` with the client's credential, the rest with the operator's key."""
    with StandIn(strict=False).in_thread() as stand_in:
        mine = Anthropic(auth="client", base_url=stand_in.base_url, name="mine")
        ours = provider(stand_in.base_url, name="ours")
        with gateway("", providers=[mine, ours], auth=Anonymous(), routes=BOTH) as one:
            yield one, stand_in


CREDENTIALS: dict[str, list[tuple[str, str]]] = {
    "a bearer token": [("authorization", f"Bearer {TOKEN}")],
    "a bearer token in an odd spelling": [("Authorization", f"bEARER   {TOKEN}\t=")],
    "a key": [("x-api-key", TOKEN)],
    "both": [("x-api-key", "sk-ant-other"), ("authorization", f"Bearer {TOKEN}")],
    "another scheme": [("authorization", "Digest username=a, uri=b")],
    "none": [],
}


@pytest.mark.parametrize("path", ["", "/count_tokens"])
@pytest.mark.parametrize("lines", CREDENTIALS.values(), ids=CREDENTIALS.keys())
def test_the_clients_credential_is_forwarded_unchanged_without_ours(
    here: Gateway, upstream: ThreadedStandIn, lines: list[tuple[str, str]], path: str
) -> None:
    upstream.enqueue(json_body({"type": "message"}))
    url = f"{here.base_url}/v1/messages{path}"
    assert httpx.post(url, headers=[*lines, *VERSION.items()], json=BODY, verify=False).status_code == 200
    (seen,) = upstream.requests
    sent = [(name.decode().lower(), value.decode()) for name, value in seen.headers]
    credentials = [line for line in sent if line[0] in {"authorization", "x-api-key"}]
    assert sorted(credentials) == sorted((name.lower(), value) for name, value in lines)
    assert UPSTREAM_KEY not in str(seen.headers)


def test_another_provider_gets_the_operator_s_key_and_nothing_of_the_client_s(
    here: Gateway, upstream: ThreadedStandIn
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "x-api-key": TOKEN, **VERSION}
    assert here.post({"model": "other"}, headers=headers).status_code == 200
    (seen,) = upstream.requests
    assert seen.header("x-api-key") == UPSTREAM_KEY.encode()
    assert seen.header("authorization") is None
    assert TOKEN not in str(seen.headers)


TOLD: dict[str, dict[str, Any]] = {
    "authentication_error": {"type": "authentication_error", "message": f"invalid token {TOKEN[:20]}"},
    "permission_error": {"type": "permission_error", "message": "not for this token"},
    "with a code": {"type": "permission_error", "message": "no", "details": {"error_code": "x"}},
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD.keys())
def test_an_upstream_error_about_the_clients_credential_is_forwarded(
    here: Gateway, upstream: ThreadedStandIn, told: dict[str, Any], status: int, stream: bool
) -> None:
    body = json.dumps({"type": "error", "error": told, "request_id": "req_9"}, indent=1).encode()
    upstream.enqueue(json_body(body, status=status, headers={"x-should-retry": "false"}))
    reply = here.post({"stream": stream}, headers={"authorization": f"Bearer {TOKEN}", **VERSION})
    assert (reply.status_code, reply.content) == (status, body)
    assert reply.headers["x-should-retry"] == "false"
    account = here.account()
    assert (account.outcome, len(account.attempts), len(upstream.requests)) == ("answered", 1, 1)


def test_an_upstream_error_about_our_credential_is_not_forwarded(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(401, "authentication_error", "invalid x-api-key"))
    reply = here.post({"model": "other"}, headers=VERSION)
    assert reply.status_code == 502
    assert reply.json()["error"] == {"type": "api_error", "message": "upstream authentication failed"}


ACCOUNT = {"anthropic-workspace-id": "wrkspc_1", "anthropic-user-profile-id": "up_1"}
TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1,b=t61r"}
NEVER = {"cookie": "a=b", "proxy-authorization": "Basic eDp5", "x-forwarded-for": "1.2.3.4", "baggage": "user=me"}


@pytest.mark.parametrize(("model", "whose"), [("claude-a", ACCOUNT), ("other", {})], ids=["the client's", "ours"])
def test_the_client_selects_who_is_billed_only_with_its_own_credential(
    here: Gateway, upstream: ThreadedStandIn, model: str, whose: dict[str, str]
) -> None:
    here.post({"model": model}, headers={"x-api-key": TOKEN, **VERSION, **ACCOUNT, **TRACE, **NEVER})
    (seen,) = upstream.requests
    sent = {name.decode().lower(): value.decode() for name, value in seen.headers}
    assert {name: sent[name] for name in {*ACCOUNT, *TRACE, *NEVER} & sent.keys()} == whose


OURS: dict[str, tuple[list[tuple[str, str]], dict[str, str]]] = {
    "our key, and a token of theirs": (
        [("x-api-key", KEY), ("authorization", f"Bearer {TOKEN}")],
        {"authorization": f"Bearer {TOKEN}"},
    ),
    "our key as a token, and a key of theirs": (
        [("authorization", f"Bearer {KEY}"), ("x-api-key", TOKEN)],
        {"x-api-key": TOKEN},
    ),
    "our key alone": ([("x-api-key", KEY)], {}),
    "our key in both": ([("x-api-key", KEY), ("authorization", f"Bearer {KEY}")], {}),
    "our key, and one of ours that is not valid": (
        [("x-api-key", KEY), ("authorization", "Bearer sk-bud-old")],
        {},
    ),
    "our key, and two in one header, of which one is ours": (
        [("authorization", f"Bearer {KEY}"), ("x-api-key", TOKEN), ("x-api-key", KEY)],
        {},
    ),
}


@pytest.mark.parametrize(("lines", "forwarded"), OURS.values(), ids=OURS.keys())
def test_a_key_of_the_gateway_is_sent_to_no_upstream(
    upstream: ThreadedStandIn, lines: list[tuple[str, str]], forwarded: dict[str, str]
) -> None:
    mine = Anthropic(auth="client", base_url=upstream.base_url)
    with gateway("", providers=[mine], auth=ApiKeys({"me": hash_api_key(KEY)})) as here:
        url = f"{here.base_url}/v1/messages"
        assert httpx.post(url, headers=[*lines, *VERSION.items()], json=BODY, verify=False).status_code == 200
    (seen,) = upstream.requests
    sent = {name.decode().lower(): value.decode() for name, value in seen.headers}
    assert {name: sent[name] for name in ("authorization", "x-api-key") if name in sent} == forwarded
    assert KEY not in str(seen.headers)


def test_with_a_user_of_the_host_s_it_is_passed_through_too(upstream: ThreadedStandIn) -> None:
    users = HostUser(lambda scope: dict(scope["headers"]).get(b"x-user", b"").decode() or None, credential_headers=())
    mine = Anthropic(auth="client", base_url=upstream.base_url)
    with gateway("", providers=[mine], auth=users) as here:
        assert here.post(headers={"x-api-key": TOKEN, **VERSION}).status_code == 401
        assert upstream.requests == []
        assert here.post(headers={"x-api-key": TOKEN, "x-user": "ada", **VERSION}).status_code == 200
    assert upstream.requests[0].header("x-api-key") == TOKEN.encode()
    assert upstream.requests[0].header("x-user") is None


def test_a_credential_of_its_own_would_be_a_contradiction() -> None:
    with pytest.raises(ValueError, match=r"^api_key: cannot be combined"):
        Anthropic(auth="client", api_key="k")
    assert TOKEN not in repr(Anthropic(auth="client"))


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_trace_context_is_forwarded_if_the_operator_allows_it(upstream: ThreadedStandIn, on: bool) -> None:
    traced = provider(upstream.base_url, trace_context=True) if on else provider(upstream.base_url)
    with gateway("", providers=[traced]) as here:
        lines = {"x-api-key": KEY, **VERSION, **TRACE, **ACCOUNT, **NEVER}
        assert here.post(headers=lines).status_code == 200
        (seen,) = upstream.requests
        sent = {name.decode().lower(): value.decode() for name, value in seen.headers}
        assert {name: sent[name] for name in {*ACCOUNT, *TRACE, *NEVER} & sent.keys()} == (TRACE if on else {})
        odd = [("x-api-key", KEY), *VERSION.items(), ("tracestate", "a=1"), ("tracestate", "b=2")]
        assert httpx.post(f"{here.base_url}/v1/messages", headers=odd, json=BODY, verify=False).status_code == 200
        assert upstream.requests[1].header("tracestate") == (b"a=1, b=2" if on else None)


def test_a_trace_context_that_is_not_ascii_is_not_forwarded(upstream: ThreadedStandIn) -> None:
    with gateway("", providers=[provider(upstream.base_url, trace_context=True)]) as here:
        lines = [(b"x-api-key", KEY.encode()), (b"anthropic-version", b"2023-06-01"), (b"traceparent", b"\xc3\xa9")]
        assert httpx.post(f"{here.base_url}/v1/messages", headers=lines, json=BODY, verify=False).status_code == 200
    assert upstream.requests[0].header("traceparent") is None


def test_a_limit_of_one_client_s_account_keeps_no_other_client_out() -> None:
    with StandIn(strict=False).in_thread() as theirs, StandIn(strict=False).in_thread() as ours:
        mine = Anthropic(auth="client", base_url=theirs.base_url, name="mine")
        providers = [mine, provider(ours.base_url, name="ours")]
        with gateway("", providers=providers, auth=Anonymous(), routes=[Route("*", to=["mine", "ours"])]) as here:
            theirs.enqueue(error(429, "rate_limit_error", "too many", headers={"retry-after": "60"}))
            for token in ("sk-ant-one", "sk-ant-two"):
                assert here.post(headers={"x-api-key": token, **VERSION}).status_code == 200
        assert [seen.header("x-api-key") for seen in theirs.requests] == [b"sk-ant-one", b"sk-ant-two"]
