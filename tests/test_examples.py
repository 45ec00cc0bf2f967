"""Each example is served and called with the official SDK."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import cast

import anthropic
import httpx
import pytest
from support.issuer import LocalIssuer

from bud_asgi.testing import StandIn, ThreadedStandIn, bedrock, vertex
from bud_asgi.testing.google import Google
from bud_asgi.testing.server.serving import serving

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py"))
HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Generator[ThreadedStandIn]:
    with StandIn(api_key="sk-ant-upstream").in_thread() as stand_in:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-upstream")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", stand_in.base_url)
        monkeypatch.setenv("EXAMPLE_API_KEY", "sk-owner")
        monkeypatch.setenv("EXAMPLE_FREE_API_KEY", "sk-free")
        yield stand_in


def load_app(name: str):
    spec = importlib.util.spec_from_file_location(f"examples.{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.app


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_sets_the_variables_that_the_example_needs(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    docstring, _, code = source.removeprefix('"""').partition('"""')
    assert f"uvicorn examples.{name}:app" in docstring
    required = re.findall(r'(?:os\.environ\[|from_env\()"(\w+)"', code)
    assert sorted(re.findall(r"([A-Z_]+)=", docstring)) == sorted(required)


def client(url: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def test_starlette_host(upstream: ThreadedStandIn) -> None:
    with serving(load_app("starlette_host")) as url, client(f"{url}/llm", "sk-owner") as caller:
        assert httpx.get(url).text == "the host's own page"
        assert caller.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO).content
        assert httpx.post(f"{url}/llm/v1/messages").status_code == 401


def test_fastapi_host(upstream: ThreadedStandIn) -> None:
    def user(token: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=f"{url}/llm", auth_token=token, api_key=None, max_retries=0)

    with serving(load_app("fastapi_host")) as url, user("session-of-ada") as ada:
        assert httpx.get(url).json() == {"hello": "from the host"}
        with ada.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=HELLO) as stream:
            assert stream.get_final_text()
        assert ada.models.list().data
        with pytest.raises(anthropic.PermissionDeniedError):
            ada.messages.create(model="claude-opus-5-5", max_tokens=9, messages=HELLO)
        with user("session-of-eve") as eve, pytest.raises(anthropic.AuthenticationError, match="session has expired"):
            eve.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
        with user("session-of-bob") as bob, pytest.raises(anthropic.APIStatusError) as poor:
            bob.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
        assert (poor.value.status_code, poor.value.type) == (402, "billing_error")


def test_session_host(upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET", "a secret")
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": HELLO}
    headers = {"anthropic-version": "2023-06-01"}
    with serving(load_app("session_host")) as url, httpx.Client(base_url=url, headers=headers) as browser:
        refused = browser.post("/llm/v1/messages", json=body)
        assert (refused.status_code, refused.json()["error"]["message"]) == (401, "authentication is required")
        browser.post("/login", json={"user": "mallory"})
        assert browser.post("/llm/v1/messages", json=body).status_code == 403
        browser.post("/login", json={"user": "ada"})
        assert browser.post("/llm/v1/messages", json=body).json()["type"] == "message"
        assert browser.get("/summary").json()["text"]
        assert browser.get("/summary").json()["text"]
        assert browser.post("/llm/v1/messages", json=body).status_code == 429, "both ways count"


def test_keys_and_tokens(upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn(strict=False).in_thread() as stand_in:
        issuer = LocalIssuer(cast("StandIn", stand_in))  # it has what is used here
        monkeypatch.setenv("ISSUER_URL", issuer.url)
        token = issuer.token(issuer.claims(realm_access={"roles": ["llm-users"]}))
        with serving(load_app("keys_and_tokens")) as url, client(url, "sk-owner") as service, client(url, token) as ann:
            assert service.messages.create(model="claude-opus-5-5", max_tokens=9, messages=HELLO).role == "assistant"
            for _ in range(3):
                ann.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
            with pytest.raises(anthropic.RateLimitError):
                ann.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)


def test_keys_in_a_database(upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYS_DATABASE", str(tmp_path / "keys.db"))
    app = load_app("keys_in_a_database")
    add_key = sys.modules["examples.keys_in_a_database"].add_key
    with serving(app) as url, client(url, add_key("ada", "basic")) as ada:
        assert ada.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO).content
        with pytest.raises(anthropic.PermissionDeniedError):
            ada.messages.create(model="claude-opus-5-5", max_tokens=9, messages=HELLO)
        with client(url, add_key("bob", "overdue")) as bob, pytest.raises(anthropic.APIStatusError, match="invoice"):
            bob.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
        for key in ("shop-unknown", "other"):
            with client(url, key) as eve, pytest.raises(anthropic.AuthenticationError):
                eve.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
        own_key = add_key("eve", "pro", "sk-ant-of-eve")  # which this upstream does not know
        with client(url, own_key) as eve, pytest.raises(anthropic.InternalServerError):
            eve.messages.create(model="claude-opus-5-5", max_tokens=9, messages=HELLO)
    assert [seen.header("x-api-key") for seen in upstream.requests] == [b"sk-ant-upstream", b"sk-ant-of-eve"]


def test_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKENS", "team-1=ada,team-2=bob")
    with StandIn(api_key="sk-ant-of-ada").in_thread() as upstream:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", upstream.base_url)
        with serving(load_app("pass_through")) as url, client(url, "sk-ant-of-ada") as stranger:
            with pytest.raises(anthropic.AuthenticationError):
                stranger.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
            assert upstream.requests == []
            headers = {"x-api-key": "sk-ant-of-ada"}
            with anthropic.Anthropic(base_url=url, auth_token="team-1", default_headers=headers) as ada:
                assert ada.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO).content
        (seen,) = upstream.requests
    assert (seen.header("x-api-key"), seen.header("authorization")) == (b"sk-ant-of-ada", None)


def test_own_stack(upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serving(load_app("own_stack")) as url,
        client(url, "sk-owner") as owner,
        client(url, "sk-free") as free,
    ):
        for caller in (owner, free):
            caller.messages.create(model="best", max_tokens=9, messages=HELLO)
        assert [request.json()["model"] for request in upstream.requests] == ["claude-opus-5-5", "claude-haiku-4-5"]
        monkeypatch.setenv("EXAMPLE_CLOSED", "yes")
        with pytest.raises(anthropic.InternalServerError) as closed:
            free.messages.create(model="best", max_tokens=9, messages=HELLO)
        assert closed.value.status_code == 503
        for _ in range(4):
            owner.messages.create(model="best", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.RateLimitError):
            owner.messages.create(model="best", max_tokens=9, messages=HELLO)


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[tuple[ThreadedStandIn, ThreadedStandIn]]:
    """Bedrock and Vertex AI, with credentials in the places where their own tools look."""
    aws, google = bedrock.Bedrock(), Google()
    key, key_file = aws.keys.issue_temporary(), tmp_path / "key.json"
    with (
        StandIn.of(aws).in_thread() as amazon,
        StandIn.of(google).in_thread() as tokens,
        StandIn.of(vertex.Vertex(tokens=google.tokens)).in_thread() as vertex_ai,
    ):
        key_file.write_text(json.dumps(google.account.info(tokens.base_url)))
        for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "AWS_REGION": aws.region,
            "AWS_ACCESS_KEY_ID": key.access_key,
            "AWS_SECRET_ACCESS_KEY": key.secret_key,
            "AWS_SESSION_TOKEN": str(key.session_token),
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": amazon.base_url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
            "ANTHROPIC_VERTEX_PROJECT_ID": google.project,
            "ANTHROPIC_VERTEX_BASE_URL": f"{vertex_ai.base_url}/v1",
        }.items():
            monkeypatch.setenv(name, value)
        yield amazon, vertex_ai


def test_three_providers(upstream: ThreadedStandIn, clouds: tuple[ThreadedStandIn, ThreadedStandIn]) -> None:
    amazon, google = clouds
    with serving(load_app("three_providers")) as url, client(url, "sk-owner") as caller:

        def message_id(model: str) -> str:
            with caller.messages.stream(model=model, max_tokens=9, messages=HELLO) as stream:
                return stream.get_final_message().id

        assert message_id("claude-opus-5-5").startswith("msg_bdrk_")
        assert message_id("claude-haiku-4-5").startswith("msg_vrtx_")
        assert message_id("claude-team").startswith("msg_vrtx_")
        assert message_id("claude-sonnet-5-5").startswith("msg_01")
        upstream.refuse_connections(drop_open=True)
        assert message_id("claude-sonnet-5-5").startswith("msg_bdrk_")
        assert {"claude-team", "claude-opus-5-5"} <= {model.id for model in caller.models.list(limit=1000)}
    assert [request.path.split(b"/")[2] for request in amazon.requests] == [
        b"us.anthropic.claude-opus-5-5",
        b"us.anthropic.claude-sonnet-5-5",
    ]
    assert [request.path.rpartition(b"/")[2] for request in google.requests] == [
        b"claude-haiku-4-5@20251001:streamRawPredict",
        b"claude-sonnet-4-6:streamRawPredict",
    ]


def test_limited_app(upstream: ThreadedStandIn) -> None:
    headers = {"x-api-key": "sk-owner"}
    with serving(load_app("limited_app")) as url, httpx.Client(base_url=url, headers=headers) as caller:
        assert caller.post("/count", content=b"words " * 600).json() == {"words": 600}
        assert caller.post("/count", content=b"of two").headers["anthropic-ratelimit-tokens-remaining"] == "399"
        assert caller.post("/count", content=b" " * 6 * 300).json() == {"words": 0}
        refused = caller.post("/count", content=b"words " * 500)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) in {6, 7}  # 102 words are missing
        assert httpx.post(f"{url}/count").status_code == 401
