"""No side effects: on the process, on the host's routes, or between two mounted apps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hosting_kit import HERE, messages_app, post, web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.calls import BODY, UPSTREAM_KEY

from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.server.serving import serving


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def states(upstream: ThreadedStandIn) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(HERE / "traceless.py"), upstream.base_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return json.loads(ended.stdout)


@pytest.mark.parametrize(("moment", "expected"), [("imported", "before"), ("served", "in a loop"), ("after", "before")])
def test_the_process_is_unchanged(states: dict[str, dict[str, Any]], moment: str, expected: str) -> None:
    changed = {key: value for key, value in states[moment].items() if value != states[expected][key]}
    assert changed == {}


def test_two_apps_in_one_host_are_independent(upstream: ThreadedStandIn) -> None:
    host = Starlette()
    one, two = messages_app(upstream.base_url), messages_app(upstream.base_url, max_body=10)
    one.install(host, "/one")
    two.install(host, "/two")
    with serving(host) as url:
        assert post(f"{url}/one").status_code == 200
        assert post(f"{url}/two").status_code == 413
        assert web.get(f"{url}/one/readyz").status_code == web.get(f"{url}/two/readyz").status_code == 200


def test_one_app_can_be_mounted_at_two_prefixes(upstream: ThreadedStandIn) -> None:
    host = Starlette()
    messages = messages_app(upstream.base_url)
    messages.install(host, "/one")
    host.mount("/two", messages)
    with serving(host) as url:
        assert post(f"{url}/one").status_code == post(f"{url}/two").status_code == 200
    upstream.wait_connections(0)


@pytest.mark.parametrize(("first", "second"), [("/llm", "/llm"), ("/llm", "/llm/"), ("/llm/", "/llm"), ("/", "/")])
def test_a_second_app_at_the_same_prefix_is_an_error_that_names_the_prefix(
    upstream: ThreadedStandIn, first: str, second: str
) -> None:
    host = Starlette()
    messages_app(upstream.base_url).install(host, first)
    with pytest.raises(ValueError, match=f"an app is mounted at '{first.rstrip('/') or '/'}' already"):
        messages_app(upstream.base_url).install(host, second)


@pytest.mark.parametrize("path", ["", "llm", "llm/"])
def test_a_prefix_without_a_leading_slash_is_an_error_that_shows_it(upstream: ThreadedStandIn, path: str) -> None:
    with pytest.raises(ValueError, match=f"must begin with a slash, not '{path}'"):
        messages_app(upstream.base_url).install(Starlette(), path)


@pytest.mark.parametrize("path", ["/a{b", "/a}b", "/a{}", "/a{0}", "/a{b:nothing}", "/{a}/{a}", "/a{b!r}"])
def test_an_invalid_pattern_is_an_error_that_names_the_option(upstream: ThreadedStandIn, path: str) -> None:
    with pytest.raises(ValueError, match=r"^path: not a valid pattern: "):
        messages_app(upstream.base_url).install(Starlette(), path)


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


@pytest.mark.parametrize("root", ["/", "//"])
def test_mounted_at_the_root_earlier_routes_answer_and_later_ones_never_do(
    upstream: ThreadedStandIn, root: str
) -> None:
    host = Starlette(routes=[Route("/", _home), Route("/early", _home)])
    messages_app(upstream.base_url).install(host, root)
    host.router.routes.append(Route("/late", _home))
    with serving(host) as url:
        assert post(url).status_code == 200
        assert web.get(f"{url}/").text == web.get(f"{url}/early").text == "home"
        assert web.get(f"{url}/late").json()["error"]["type"] == "not_found_error"
        assert web.post(f"{url}/v1/messages/", json=BODY).status_code == 404


def test_of_two_nested_prefixes_the_one_mounted_first_answers(upstream: ThreadedStandIn) -> None:
    host = Starlette()
    messages_app(upstream.base_url).install(host, "/llm/inner")
    messages_app(upstream.base_url).install(host, "/llm")
    with serving(host) as url:
        assert post(f"{url}/llm/inner").status_code == post(f"{url}/llm").status_code == 200
