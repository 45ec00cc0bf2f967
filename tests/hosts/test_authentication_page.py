"""The page on authentication: each program on it runs, and does what the page states."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hosting_kit import messages_app
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.calls import BODY, UPSTREAM_KEY

from bud_asgi import Anonymous, Anthropic, MessagesApp, Principal
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.server.serving import serving

PAGE = (Path(__file__).parent.parent.parent / "docs" / "authentication.md").read_text()
PROGRAMS: dict[str, str] = dict(
    re.findall(r"\n## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL),
)
"""The programs by the heading that they are below."""

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Generator[ThreadedStandIn]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", UPSTREAM_KEY)
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


def run(heading: str, upstream_url: str = "") -> dict[str, Any]:
    """Run the program below a heading, with the stand-in as its upstream."""
    program = PROGRAMS[heading]
    for end in ('from_env("ANTHROPIC_API_KEY")', 'auth="client"', "api_key=key_of"):
        program = program.replace(end, f'{end}, base_url="{upstream_url}"') if upstream_url else program
    names: dict[str, Any] = {}
    exec(program, names)
    return names


async def log_in(request: Request) -> PlainTextResponse:
    request.session["user"] = request.path_params["user"]
    return PlainTextResponse("")


@pytest.mark.parametrize("heading", ["Refusals in your own words", "Sessions"])
def test_the_programs_with_a_session(heading: str, upstream: ThreadedStandIn) -> None:
    layers = [Middleware(SessionMiddleware, secret_key="secret")]
    host = Starlette(routes=[Route("/login/{user}", log_in)], middleware=layers)
    messages_app(upstream.base_url, auth=run(heading)["auth"]).install(host, "/llm")
    refusals = {"mallory": 403, "bob": 402, "eve": 429} if heading.startswith("Refusals") else {}
    with serving(host) as url, httpx.Client(base_url=url, headers=VERSION, trust_env=False) as browser:
        assert browser.post("/llm/v1/messages", json=BODY).status_code == 401
        for user, status in {**refusals, "ada": 200}.items():
            browser.get(f"/login/{user}")
            reply = browser.post("/llm/v1/messages", json=BODY)
            assert reply.status_code == status
            assert reply.headers.get("retry-after") == ("60" if status == 429 else None)


def test_the_program_with_keys_in_a_database(upstream: ThreadedStandIn) -> None:
    auth = run("Keys in your own database")["auth"]
    with serving(messages_app(upstream.base_url, auth=auth)) as url:
        for key, status in {"shop-YOUR_API_KEY": 200, "shop-other": 401, "other": 401}.items():
            headers = {**VERSION, "x-api-key": key}
            assert httpx.post(f"{url}/v1/messages", json=BODY, headers=headers).status_code == status


def test_the_program_for_fastapi(upstream: ThreadedStandIn) -> None:
    app = run("FastAPI dependencies", upstream.base_url)["app"]
    with serving(app) as url:
        for key, status in {"YOUR_API_KEY": 200, "other": 401}.items():
            headers = {**VERSION, "authorization": f"Bearer {key}"}
            assert httpx.post(f"{url}/llm/v1/messages", json=BODY, headers=headers).status_code == status


def test_the_program_of_pass_through() -> None:
    with StandIn(api_key="sk-ant-of-ada").in_thread() as upstream:
        with serving(run("Pass-through", upstream.base_url)["messages"]) as url:
            headers = {**VERSION, "x-api-key": "sk-ant-of-ada", "authorization": "Bearer team-1"}
            assert httpx.post(f"{url}/v1/messages", json=BODY, headers=headers).status_code == 200
            headers["authorization"] = "Bearer team-2"
            assert httpx.post(f"{url}/v1/messages", json=BODY, headers=headers).status_code == 401
        assert [seen.header("authorization") for seen in upstream.requests] == [None]


async def test_the_program_with_a_key_for_each_tenant() -> None:
    with StandIn(strict=False).in_thread() as upstream:
        provider: Anthropic = run("An upstream key for each tenant", upstream.base_url)["provider"]
        messages = MessagesApp(auth=Anonymous(), providers=[provider])
        for team, status in {"acme": 200, "other": 403}.items():
            transport = messages.transport(Principal(id="ada", team=team))
            async with messages.lifespan(), httpx.AsyncClient(transport=transport, headers=VERSION) as client:
                assert (await client.post("http://gateway/v1/messages", json=BODY)).status_code == status
        assert [seen.header("x-api-key") for seen in upstream.requests] == [b"sk-ant-..."]


async def test_the_program_of_calls_from_the_hosts_own_code(upstream: ThreadedStandIn) -> None:
    names = run("Calls from your own code", upstream.base_url)
    async with names["messages"].lifespan(), names["client"] as client:
        message = await client.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
        )
        assert message.content


def test_every_program_of_the_page_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert len(PROGRAMS) == PAGE.count("```python") == 7
    assert [heading for heading in PROGRAMS if f'"{heading}"' not in source] == []
