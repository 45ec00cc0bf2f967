"""A host with a gateway and its status page, and callers that give the page something to show on each of its parts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.requests import HTTPConnection

from bud_asgi import Anthropic, ApiKeys, Limit, MessagesApp, Principal, Route, Target, hash_api_key
from bud_asgi.http import Timeouts
from bud_asgi.testing import StandIn, ThreadedStandIn, error, stall, text
from support.calls import BODY, MODEL, UPSTREAM_KEY
from support.serving import serving
from support.waiting import wait_until

OPERATOR = "sk-bud-the-operators-own-key"
HOSTILE = "<img src=x onerror=\"document.title='XSS'\">\u202e'&`</td></script><script>document.title='XSS'</script>"
"""A name that would run code in a page that does not escape it."""


class Callers(AuthenticationBackend):
    """Admits everyone, under the name and team of a header."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Principal]:
        """The caller."""
        name, _, team = conn.headers["x-api-key"].partition("|")
        return AuthCredentials(), Principal(id=unquote(name), team=unquote(team) or None)


class Busy:
    """The running host: its URL, the app, and the upstreams by name."""

    def __init__(self, url: str, messages: MessagesApp, upstreams: dict[str, ThreadedStandIn]) -> None:
        self.url, self.messages, self.upstreams = url, messages, upstreams

    def post(self, caller: str = "ci", model: str = MODEL, *, team: str = "", **more: Any) -> int:
        """Send a request, and return the status of the response."""
        headers = {"x-api-key": f"{quote(caller)}|{quote(team)}", "anthropic-version": "2023-06-01"}
        body = {**BODY, "model": model, **more}
        return httpx.post(f"{self.url}/llm/v1/messages", headers=headers, json=body, timeout=30).status_code

    def page(self, path: str = "/status", key: str = OPERATOR) -> httpx.Response:
        """Load the page, or what is below it, as a browser does."""
        return httpx.get(f"{self.url}{path}", auth=("", key))


ROUTES: Sequence[Route] = (
    Route("claude-*", to=[["anthropic", Target("backup", weight=2)], "spare"]),
    Route("fast", to=[Target("anthropic", MODEL)]),
    Route("batch", to=[Target("backup", MODEL), Target("spare", MODEL)]),
)


@contextmanager
def busy(routes: Sequence[Route] = ROUTES, **options: Any) -> Generator[Busy]:
    """Run the host. The upstream `anthropic` works, and nothing listens for `spare`."""
    limits = [Limit("requests", 600), Limit("output_tokens", 20_000, per="team"), Limit("concurrent", 500, per="all")]
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(StandIn(strict=False).in_thread()) for name in ("anthropic", "backup")}
        timeouts = Timeouts(2.0, 30.0, 30.0)
        providers = [
            Anthropic(name=name, api_key=UPSTREAM_KEY, base_url=one.base_url, timeouts=timeouts)
            for name, one in upstreams.items()
        ]
        providers.append(Anthropic(name="spare", api_key=UPSTREAM_KEY, base_url="http://127.0.0.1:9"))
        settings: dict[str, Any] = {
            "providers": providers,
            "routes": routes,
            "limits": limits,
            "auth": Callers(),
            **options,
        }
        messages = MessagesApp(**settings)
        host = Starlette()
        messages.install(host, "/llm")
        host.mount("/status", messages.status_page(auth=ApiKeys({"operator": hash_api_key(OPERATOR)})))
        yield Busy(stack.enter_context(serving(host)), messages, upstreams)


@contextmanager
def streams(here: Busy, number: int, callers: Sequence[str], model: str = MODEL) -> Generator[None]:
    """Keep streams running: each has begun, and pauses in its middle."""
    for upstream in here.upstreams.values():
        upstream.always(stall(60.0, after_bytes=700, reply=text("Hello " * 50)))
    headers = [{"x-api-key": quote(caller), "anthropic-version": "2023-06-01"} for caller in callers]
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(limits=limits, timeout=30) as client, ExitStack() as stack:
        for index in range(number):
            body = {**BODY, "model": model, "stream": True}
            request = client.stream(
                "POST", f"{here.url}/llm/v1/messages", headers=headers[index % len(headers)], json=body
            )
            response = stack.enter_context(request)
            assert response.status_code == 200
        wait_until(lambda: here.messages.state().streams == number, f"{number} streams have begun")
        yield


def fail(here: Busy) -> None:
    """Let requests fail in several ways."""
    here.upstreams["backup"].always(error(529, "overloaded_error", "Overloaded"))
    assert here.post("batch-jobs", "batch") >= 500
    assert here.post("ci", "unknown-model") == 404
    assert here.post("ci", max_tokens="many") == 400
