"""Claude Code's credentials, its first requests, the models that it requests, and limits."""

from __future__ import annotations

import json
import time
from collections.abc import Generator

import httpx
import pytest
from claude_code import ClaudeCode, Script
from clients_gateways import mounted
from clients_outside import BlockedInternet
from clients_tap import Tap, tapped
from support.calls import KEY

from bud_asgi import Anonymous, Anthropic, ApiKey, ApiKeys, Exchange, Limit, Route, Target, hash_api_key
from bud_asgi.testing import StandIn, ThreadedStandIn, text, tool_use

DONE = Script(text("All done."))

CREDENTIALS = {
    "token": ({"ANTHROPIC_AUTH_TOKEN": KEY}, {"authorization": b"Bearer " + KEY.encode(), "x-api-key": None}),
    "key": (
        {"ANTHROPIC_AUTH_TOKEN": "", "ANTHROPIC_API_KEY": KEY},
        {"authorization": None, "x-api-key": KEY.encode()},
    ),
}


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_a_credential_in_either_header(kind: str, claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn) -> None:
    environment, headers = CREDENTIALS[kind]
    upstream.always(DONE)
    claude(tap.base_url, **environment).assert_success("All done.")
    (sent,) = tap.sent(b"POST", b"/v1/messages")
    assert {name: sent.header(name) for name in headers} == headers


def test_a_credential_from_a_helper_is_sent_in_both_headers(
    claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn
) -> None:
    upstream.always(DONE)
    settings = json.dumps({"apiKeyHelper": f"echo {KEY}"})
    claude(tap.base_url, f"--settings={settings}", ANTHROPIC_AUTH_TOKEN="").assert_success("All done.")
    (sent,) = tap.sent(b"POST", b"/v1/messages")
    assert (sent.header("authorization"), sent.header("x-api-key")) == (b"Bearer " + KEY.encode(), KEY.encode())


def test_an_invalid_credential_ends_the_session_at_once(
    claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn
) -> None:
    session = claude(tap.base_url, ANTHROPIC_AUTH_TOKEN="sk-bud-wrong")
    assert session.result["is_error"]
    assert "401" in session.result["result"]
    assert len(tap.sent(b"POST", b"/v1/messages")) == 1
    assert upstream.requests == []


def test_a_subscription_token_is_forwarded(claude: ClaudeCode) -> None:
    token = "sk-ant-oat01-CANARY"
    with StandIn(api_key=token).in_thread() as upstream:
        upstream.always(DONE)
        forwarding = Anthropic(auth="client", base_url=upstream.base_url)
        with mounted(upstream, auth=Anonymous(), providers=[forwarding]) as base_url:
            claude(base_url, ANTHROPIC_AUTH_TOKEN="", CLAUDE_CODE_OAUTH_TOKEN=token).assert_success("All done.")
        (received,) = [request for request in upstream.requests if request.path == b"/v1/messages"]
    assert received.header("authorization") == f"Bearer {token}".encode()
    assert b"oauth-2025-04-20" in (received.header("anthropic-beta") or b"")


def test_hello_at_startup(claude: ClaudeCode, tap: Tap, upstream: ThreadedStandIn, internet: BlockedInternet) -> None:
    """It opens a connection early, unless it has a proxy or nonessential traffic is disabled."""
    upstream.always(DONE)
    settings = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": ""}
    claude(tap.base_url, **settings).assert_success("All done.")
    assert internet.requests == []  # so it is safe to run the same without the proxy
    claude(tap.base_url, **settings, HTTP_PROXY="", HTTPS_PROXY="").assert_success("All done.")
    (hello,) = tap.sent(b"HEAD", b"/api/hello")
    assert (hello.header("authorization"), hello.header("x-api-key")) == (None, None)
    assert httpx.head(f"{tap.base_url}/api/hello").status_code == 200


def test_sessions_and_agents_can_be_distinguished(claude: ClaudeCode, upstream: ThreadedStandIn) -> None:
    """`on_settled` sees the ids of the session and of its agent."""
    call = {"description": "Look around", "prompt": "Look around.", "subagent_type": "general-purpose"}
    main, agent = Script(tool_use("Agent", call), text("All done.")), Script(text("Nothing to see."))
    upstream.always(lambda request: main(request) if b"Go on." in request.body else agent(request))
    settled: list[Exchange] = []

    async def on_settled(exchange: Exchange) -> None:
        settled.append(exchange)

    with mounted(upstream, on_settled=on_settled) as base_url:
        session = claude(base_url)
    session.assert_success("All done.")
    headers_seen = [exchange.headers for exchange in settled if exchange.operation == "messages.create"]
    assert len({headers[b"x-claude-code-session-id"] for headers in headers_seen}) == 1
    agents = [headers.get(b"x-claude-code-agent-id") for headers in headers_seen]
    assert None in agents
    assert len(set(agents)) == 2
    assert {request.json()["model"] for request in upstream.requests} == {"claude-opus-5-5"}


@pytest.fixture
def team(upstream: ThreadedStandIn) -> Generator[Tap]:
    """A gateway with custom names for a model, and a key that may use some models only."""
    opus = [Target("anthropic", "claude-opus-5-5")]
    routes = [Route("claude-team", to=opus), Route("team", to=opus), Route("claude-*", to=["anthropic"])]
    models = ("claude-team", "team", "claude-haiku-5-5")
    keys = ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=models)])
    with mounted(upstream, routes=routes, auth=keys) as base_url, tapped(base_url) as tap:
        yield tap


def test_models_are_discovered(claude: ClaudeCode, team: Tap, upstream: ThreadedStandIn) -> None:
    upstream.always(DONE)
    session = claude(team.base_url, "--model=claude-team", CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY="1")
    session.assert_success("All done.")
    (listing,) = team.sent(b"GET", b"/v1/models")
    assert listing.target.endswith(b"/v1/models?limit=1000")
    assert (listing.header("authorization"), listing.header("x-api-key")) == (b"Bearer " + KEY.encode(), None)
    listed = httpx.get(f"{team.base_url}/v1/models?limit=1000", headers={"x-api-key": KEY}).json()["data"]
    assert {model["id"] for model in listed} == {"claude-team", "team", "claude-haiku-5-5"}
    found = json.loads((claude.home / ".claude/cache/gateway-models.json").read_text())
    assert {model["id"] for model in found["models"]} == {"claude-team", "claude-haiku-5-5"}  # others are ignored


def test_only_the_model_name_is_replaced(claude: ClaudeCode, team: Tap, upstream: ThreadedStandIn) -> None:
    upstream.always(DONE)
    claude(team.base_url, "--model=claude-team").assert_success("All done.")
    (sent,) = team.sent(b"POST", b"/v1/messages")
    assert sent.json()["thinking"]["type"] == "adaptive"
    (received,) = [request for request in upstream.requests if request.path == b"/v1/messages"]
    assert received.body == sent.body.replace(b'"model":"claude-team"', b'"model":"claude-opus-5-5"', 1) != sent.body


def test_a_model_that_the_key_may_not_use(claude: ClaudeCode, team: Tap, upstream: ThreadedStandIn) -> None:
    session = claude(team.base_url, "--model=sonnet")
    assert session.result["is_error"]
    assert len(team.sent(b"POST", b"/v1/messages")) == 1
    assert "claude-sonnet-5-5 is not among the models that you may use" in session.result["result"]


MODELS = {
    None: "claude-opus-5-5",
    "fable": "claude-fable-5-2",
    "haiku": "claude-haiku-5-5",
    "opus": "claude-opus-5-5",
    "opus[1m]": "claude-opus-5-5",
    "opusplan": "claude-sonnet-5-5",
    "sonnet": "claude-sonnet-5-5",
    "claude-custom": "claude-custom",
}
"""What this release asks for, by what its user chose."""

HOOK = {"hooks": {"Stop": [{"hooks": [{"type": "prompt", "prompt": "Is it done? $ARGUMENTS"}]}]}}
"""A prompt to a model after each turn: one of the small background tasks."""


@pytest.fixture
def plain(upstream: ThreadedStandIn) -> Generator[Tap]:
    upstream.always(DONE)
    with mounted(upstream) as base_url, tapped(base_url) as tap:
        yield tap


def requested_models(tap: Tap) -> list[str]:
    return [request.json()["model"] for request in tap.sent(b"POST", b"/v1/messages")]


@pytest.mark.parametrize("chosen", MODELS)
def test_the_models_that_it_requests(chosen: str | None, claude: ClaudeCode, plain: Tap) -> None:
    options = [f"--model={chosen}"] if chosen else []
    claude(plain.base_url, *options, f"--settings={json.dumps(HOOK)}").assert_success("All done.")
    assert requested_models(plain) == [MODELS[chosen]] * 2


def test_a_model_for_background_tasks(claude: ClaudeCode, plain: Tap) -> None:
    settings = f"--settings={json.dumps(HOOK)}"
    claude(plain.base_url, settings, ANTHROPIC_DEFAULT_HAIKU_MODEL="claude-haiku-4-5").assert_success("All done.")
    assert requested_models(plain) == ["claude-opus-5-5", "claude-haiku-4-5"]


def test_counting_tokens_has_its_own_limits(claude: ClaudeCode, upstream: ThreadedStandIn) -> None:
    with mounted(upstream, limits=[Limit("requests", 30)]) as base_url:
        assert not claude(base_url, prompt="/context").result["is_error"]
        counted = len(upstream.requests)
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        params = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
        reply = httpx.post(f"{base_url}/v1/messages", headers=headers, json=params)
    assert 20 < counted <= 30
    assert reply.headers["anthropic-ratelimit-requests-remaining"] == "29"


def test_a_short_limit_is_waited_for(claude: ClaudeCode, upstream: ThreadedStandIn) -> None:
    upstream.always(Script(tool_use("Bash", {"command": "true", "description": "Nothing"}), text("All done.")))
    limits = [Limit("requests", 1, window=2.0)]
    with mounted(upstream, limits=limits) as base_url, tapped(base_url) as tap:
        claude(base_url=tap.base_url).assert_success("All done.")
    assert len(tap.sent(b"POST", b"/v1/messages")) > 2
    assert len(upstream.requests) == 2


def test_a_long_limit_is_reported_at_once(claude: ClaudeCode, upstream: ThreadedStandIn) -> None:
    upstream.always(Script(tool_use("Bash", {"command": "true", "description": "Nothing"}), text("All done.")))
    settled: list[Exchange] = []

    async def on_settled(exchange: Exchange) -> None:
        settled.append(exchange)

    limits = [Limit("requests", 1, window=3600.0)]
    with mounted(upstream, limits=limits, on_settled=on_settled) as base_url, tapped(base_url) as tap:
        session, ended = claude(base_url=tap.base_url), time.monotonic()
    assert session.result["is_error"]
    assert len(tap.sent(b"POST", b"/v1/messages")) == 2
    assert "would exceed your rate limit of 1 request per hour. Try again at" in session.result["result"]
    (refused,) = [exchange for exchange in settled if exchange.refused_by]
    assert refused.ended is not None
    assert ended - refused.ended < 5.0
