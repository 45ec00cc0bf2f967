"""In each host, below each prefix: the endpoint answers as it does alone, and the host as it does without it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest
from host_apps import HOSTS, PREFIXES, Host
from hosting_kit import (
    BODY,
    HEADERS,
    STREAM,
    UPSTREAM_KEY,
    Arrivals,
    ask,
    messages_app,
    seconds_until_upstream_ends,
    slow_stream,
    wait_until,
    web,
)

from bud_asgi.exchange import Exchange
from bud_asgi.testing import StandIn, ThreadedStandIn, hang, hang_mid_event
from bud_asgi.testing.server.serving import serving


class Hosted:
    """A host that is served, with the guest in it."""

    def __init__(self, name: str, upstream: ThreadedStandIn) -> None:
        self.name = name
        self.upstream = upstream
        self.url = self.below = ""
        self.settled: list[Exchange] = []

    async def on_settled(self, exchange: Exchange) -> None:
        self.settled.append(exchange)


@pytest.fixture(scope="module", params=HOSTS.keys())
def hosted(request: pytest.FixtureRequest) -> Generator[Hosted]:
    host, prefix, before = HOSTS[request.param]
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        here = Hosted(request.param, upstream)
        messages = messages_app(upstream.base_url, on_settled=here.on_settled)
        with serving(host(messages, prefix)) as url:
            here.url, here.below = url, f"{url}{before}{prefix.rstrip('/')}"
            yield here
        upstream.wait_connections(0)  # in each case they are closed, whether a lifespan ran or not


def test_a_message_is_answered(hosted: Hosted) -> None:
    reply = ask(hosted.below)
    assert reply.status_code == 200
    assert reply.json()["type"] == "message"
    assert reply.headers["request-id"].startswith("req_")


def test_a_stream_arrives_event_by_event(hosted: Hosted) -> None:
    hosted.upstream.enqueue(slow_stream())
    Arrivals(hosted.below).assert_event_by_event()


def test_the_sdks_health_question_is_answered(hosted: Hosted) -> None:
    assert web.head(f"{hosted.below}/api/hello").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/messages/", "/v1", "/"])
def test_below_the_prefix_what_is_not_there_is_a_404_of_ours(hosted: Hosted, path: str) -> None:
    reply = web.post(f"{hosted.below}{path}", headers=HEADERS, json=BODY)
    assert reply.status_code == 404
    assert reply.json()["error"] == {"type": "not_found_error", "message": "Not found"}


def test_a_wrong_method_is_a_405_of_ours(hosted: Hosted) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        reply = web.request(method, f"{hosted.below}/v1/messages", headers=HEADERS)
        assert reply.status_code == 405
        assert reply.headers["allow"] == "POST"
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_without_a_key_it_is_a_401_of_ours(hosted: Hosted) -> None:
    reply = web.post(f"{hosted.below}/v1/messages", json=BODY, headers={"anthropic-version": "2023-06-01"})
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["", "x", "x/v1/messages", "v1/messages", "2/v1/messages"])
def test_beside_the_prefix_nothing_of_ours_is_served_and_no_post_is_redirected(hosted: Hosted, path: str) -> None:
    asked = len(hosted.upstream.requests)
    reply = web.post(f"{hosted.below}{path}", headers=HEADERS, json=BODY)
    if hosted.name == "Starlette, nested mounts" and not path:
        assert reply.status_code == 307  # Starlette's own `Mount` does, and only `install` can mend that
    else:
        assert reply.status_code == 404
    assert len(hosted.upstream.requests) == asked


def test_the_hosts_own_route_gives_the_same_bytes_and_headers_as_without_the_guest(hosted: Hosted) -> None:
    host, prefix, _before = HOSTS[hosted.name]
    with serving(host(None, prefix), lifespan="off") as url:
        for method, path in (("GET", "/own"), ("HEAD", "/own"), ("POST", "/own"), ("GET", "/lost")):
            assert _seen(method, f"{hosted.url}{path}") == _seen(method, f"{url}{path}")


@pytest.mark.parametrize(
    ("silent", "body"),
    [(hang(), BODY), (hang_mid_event(), STREAM)],
    ids=["while upstream is silent", "in mid-stream"],
)
def test_a_client_that_leaves_ends_the_upstream_call_within_a_second(hosted: Hosted, silent: Any, body: Any) -> None:
    settled = len(hosted.settled)
    seen = b"content_block_delta" if silent == hang_mid_event() else b""
    assert seconds_until_upstream_ends(hosted.below, hosted.upstream, silent, body, seen) < 1.0
    wait_until(lambda: len(hosted.settled) > settled, "it is settled")
    assert hosted.settled[-1].outcome == "client_gone"


@pytest.fixture(scope="module")
def one_upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        yield upstream


@pytest.mark.parametrize(("host", "prefix"), PREFIXES.values(), ids=PREFIXES.keys())
async def test_any_prefix_will_do(one_upstream: ThreadedStandIn, host: Host, prefix: str) -> None:
    app: Any = host(messages_app(one_upstream.base_url), prefix)
    below = prefix.rstrip("/")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        served = await client.post(f"{below}/v1/messages", headers=HEADERS, json=BODY)
        assert served.status_code == 200
        for lost in (below, f"{below}/nothing", f"{below}/messages", f"{below}/v1/messages/v1/messages", "/nothing"):
            reply = await client.post(lost, headers=HEADERS, json=BODY)
            assert reply.status_code == 404, lost


def _seen(method: str, url: str) -> tuple[int, bytes, list[tuple[str, str]]]:
    """What a client sees, but for the clock and the port."""
    reply = web.request(method, url)
    port = f":{reply.url.port}"
    lines = [(name, value.replace(port, "")) for name, value in reply.headers.items() if name != "date"]
    return reply.status_code, reply.content.replace(port.encode(), b""), lines
