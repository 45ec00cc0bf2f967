"""An upstream key for each tenant, over real sockets: sent there, nowhere else, and no tenant's fault is another's."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from support.calls import BODY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider

from bud_asgi import HostToken, Principal, Route
from bud_asgi.testing import StandIn, ThreadedStandIn, error, json_body

VERSION = {"anthropic-version": "2023-06-01"}
KEYS = {"ann": "sk-ant-canary-key-of-ann", "bob": "sk-ant-canary-key-of-bob"}


class Stage:
    """A gateway whose `theirs` provider has a key for each tenant; `ours` is behind it with the operator's."""

    def __init__(self, here: Gateway, theirs: ThreadedStandIn, ours: ThreadedStandIn) -> None:
        self.here, self.theirs, self.ours = here, theirs, ours

    def post(self, tenant: str, body: dict[str, Any] | None = None):
        return self.here.post(body, headers={**VERSION, "x-api-key": tenant})


@pytest.fixture(params=["x-api-key", "bearer"])
def stage(request: pytest.FixtureRequest) -> Generator[Stage]:
    async def key_of(principal: Principal) -> str | None:
        return KEYS.get(principal.id)

    with StandIn(strict=False).in_thread() as theirs, StandIn(api_key=UPSTREAM_KEY).in_thread() as ours:
        providers = [
            provider(theirs.base_url, name="theirs", api_key=key_of, auth=request.param),
            provider(ours.base_url, name="ours"),
        ]
        routes = [Route("claude-opus-*", to=["theirs"]), Route("claude-*", to=["theirs", "ours"])]
        with gateway("", providers=providers, auth=HostToken(lambda token: token), routes=routes) as here:
            yield Stage(here, theirs, ours)
            here.assert_nothing_open()


def sent_credential(seen: Any) -> str:
    value = seen.header("x-api-key") or seen.header("authorization")
    return value.decode().removeprefix("Bearer ")


def test_each_tenant_s_key_is_sent_and_the_operator_s_where_there_is_none(stage: Stage) -> None:
    for tenant in ("ann", "bob", "ann", "eve"):
        assert stage.post(tenant).status_code == 200
        assert stage.post(tenant, {"stream": True}).text.count("event: message_stop") == 1
    sent = [sent_credential(seen) for seen in stage.theirs.requests]
    assert sent == [KEYS[name] for name in ("ann", "ann", "bob", "bob", "ann", "ann")]
    assert [sent_credential(seen) for seen in stage.ours.requests] == [UPSTREAM_KEY] * 2


def test_without_a_key_and_another_target_the_caller_is_refused(stage: Stage) -> None:
    reply = stage.post("eve", {"model": "claude-opus-5-5"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    assert stage.theirs.requests == []


def test_a_refused_key_is_not_shown_and_takes_the_target_from_no_other_tenant(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = ""
    for _ in range(8):
        stage.theirs.enqueue(error(401, "authentication_error", f"invalid x-api-key {KEYS['ann']}"))
        refused = stage.post("ann", {"model": "claude-opus-5-5"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (502, "api_error")
        texts += refused.text
    assert {state.state for state in stage.here.messages.state().targets} == {"up"}
    before = len(stage.theirs.requests)
    assert stage.post("bob").status_code == 200
    assert len(stage.theirs.requests) == before + 1
    assert "canary" not in caplog.text + texts


def test_a_limit_of_one_tenant_keeps_no_other_one_out(stage: Stage) -> None:
    stage.theirs.enqueue(error(429, "rate_limit_error", "too many", headers={"retry-after": "60"}))
    assert stage.post("ann", {"model": "claude-opus-5-5"}).status_code == 429
    before = len(stage.theirs.requests)
    assert stage.post("bob").status_code == 200
    assert len(stage.theirs.requests) == before + 1
    assert stage.ours.requests == []


def test_an_echo_of_the_key_in_an_error_is_removed(stage: Stage) -> None:
    body = json.dumps({"detail": f"bad key {KEYS['ann']}"}).encode()
    stage.theirs.enqueue(json_body(body, status=400))
    reply = stage.post("ann", {"model": "claude-opus-5-5"})
    assert "canary" not in reply.text + str(reply.headers)


def test_the_model_list_is_not_fetched_with_a_tenant_s_key(stage: Stage) -> None:
    reply = httpx.get(f"{stage.here.base_url}/v1/models", headers={"x-api-key": "ann"})
    assert reply.status_code == 200
    assert stage.theirs.requests == []


def test_the_records_of_a_request_hold_no_key(stage: Stage) -> None:
    assert stage.post("ann", BODY).status_code == 200
    account = stage.here.account()
    assert "canary" not in repr(account) + repr(account.attempts) + repr(account.principal)
