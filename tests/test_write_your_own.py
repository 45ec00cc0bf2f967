"""The parts on the page "Write your own" work as it says, each in an app, in front of a real upstream."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bud_asgi.testing import StandIn, ThreadedStandIn

PAGE = (Path(__file__).parent.parent / "docs" / "write-your-own.md").read_text(encoding="utf-8")
PROGRAMS: Mapping[str, str] = dict(
    re.findall(r"\n## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL),
)
QUESTION = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def stand_in() -> Generator[ThreadedStandIn]:
    with StandIn(api_key="sk-ant-upstream").in_thread() as upstream:
        yield upstream


class Part:
    """The program of a section, in an app that is called."""

    def __init__(self, title: str, upstream: ThreadedStandIn) -> None:
        program = PROGRAMS[title].replace(
            'from_env("ANTHROPIC_API_KEY")', f'from_env("ANTHROPIC_API_KEY"), base_url="{upstream.base_url}"'
        )
        self.names: dict[str, Any] = {}
        exec(program, self.names)
        self.client = TestClient(self.names["messages"])

    def post(self, body: Mapping[str, Any] | None = None, **headers: str) -> tuple[int, str]:
        """The status, and the error's type or the answer's text."""
        lines = {
            "anthropic-version": "2023-06-01",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        reply = self.client.post("/v1/messages", json={**QUESTION, **(body or {})}, headers=lines)
        content = reply.json()
        return reply.status_code, content["error"]["message"] if "error" in content else content["content"][0]["text"]


@pytest.fixture
def part(stand_in: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], Part]]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-upstream")
    stand_in.requests.clear()
    made: list[Part] = []

    def make(title: str) -> Part:
        made.append(Part(title, stand_in))
        made[-1].client.__enter__()
        return made[-1]

    yield make
    for one in made:
        one.client.__exit__()


def test_every_part_has_a_program() -> None:
    linked = re.findall(r"^\| \[([^\]]+)\]\(#", PAGE, re.MULTILINE)
    assert [title.lower() for title in PROGRAMS] == [title.lower() for title in linked]


def test_an_authenticator(part: Callable[[str], Part]) -> None:
    own = part("Authenticator")
    assert own.post()[0] == 401
    assert own.post(x_team="red") == (401, "unknown team")
    assert own.post(x_team="blue")[0] == 200
    assert own.post({"model": "claude-opus-5"}, x_team="blue")[0] == 403


def test_a_router(part: Callable[[str], Part], stand_in: ThreadedStandIn) -> None:
    own = part("Router")
    assert own.post({"model": "fast"})[0] == 200
    assert stand_in.requests[0].json()["model"] == "claude-haiku-4-5"
    assert own.post()[0] == 404
    listed = own.client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()["data"]
    assert {model["id"] for model in listed} == {"fast", "best"}


def test_a_limit_store(part: Callable[[str], Part]) -> None:
    own = part("Limit store")
    assert [own.post()[0] for _ in range(3)] == [200, 200, 429]
    used = {limit.kind: amount for (limit, *_), amount in own.names["store"].used.items()}
    assert used["requests"] == 2
    assert 0 < used["output_tokens"] < 200


def test_a_provider(
    part: Callable[[str], Part], stand_in: ThreadedStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("stale-token-of-the-proxy\n", encoding="utf-8")
    own = part("Provider")
    assert own.post() == (502, "upstream authentication failed")
    Path("token").write_text("sk-ant-upstream\n", encoding="utf-8")
    assert own.post()[0] == 200
    assert stand_in.requests[-1].header("x-cost-centre") == b"42"
    assert own.post({"tools": []}) == (400, "tools: not supported here")


def test_an_engine(part: Callable[[str], Part]) -> None:
    own = part("HTTP engine")
    assert own.post()[0] == 200
    elsewhere = own.names["Anthropic"](api_key="k", base_url="http://localhost:1")
    with own.names["messages"].override(providers=[elsewhere]):
        assert own.post()[0] == 502


def test_an_observer(part: Callable[[str], Part]) -> None:
    own = part("Observer")
    assert own.post()[0] == 200
    assert own.names["outcomes"].counted == {("claude-haiku-4-5", "answered"): 1}


def test_a_middleware(part: Callable[[str], Part]) -> None:
    own = part("Middleware")
    assert own.post()[0] == 401
    assert own.post(x_user="bob") == (503, "We are closed.")
    assert own.post(x_user="ada")[0] == 200
