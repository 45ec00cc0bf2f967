"""Every host at every prefix: the mounted app answers as it does alone, and the host as it does without it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest
from host_apps import HOSTS, PREFIXES, Host
from hosting_kit import (
    LONG,
    STREAM,
    assert_disconnect_ends_upstream_request,
    assert_streams_event_by_event,
    messages_app,
    post,
    web,
)
from support.calls import BODY, HEADERS, UPSTREAM_KEY
from support.waiting import wait_until

from bud_asgi.exchange import Exchange
from bud_asgi.testing import StandIn, ThreadedStandIn, hang, hang_mid_event
from bud_asgi.testing.server.serving import serving


class Hosted:
    """A running host with the mounted app."""

    def __init__(self, name: str, upstream: ThreadedStandIn) -> None:
        self.name = name
        self.upstream = upstream
        self.url = self.base_url = ""
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
            here.url, here.base_url = url, f"{url}{before}{prefix.rstrip('/')}"
            yield here
        upstream.wait_connections(0, LONG)  # closed whether or not a lifespan ran


def test_a_message_is_answered(hosted: Hosted) -> None:
    reply = post(hosted.base_url)
    assert reply.status_code == 200
    assert reply.json()["type"] == "message"
    assert reply.headers["request-id"].startswith("req_")


def test_a_stream_arrives_event_by_event(hosted: Hosted) -> None:
    assert_streams_event_by_event(hosted.base_url, hosted.upstream)


def test_the_sdks_health_check_is_answered(hosted: Hosted) -> None:
    assert web.head(f"{hosted.base_url}/api/hello").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/messages/", "/v1", "/"])
def test_an_unknown_path_below_the_prefix_is_a_404_in_our_format(hosted: Hosted, path: str) -> None:
    reply = web.post(f"{hosted.base_url}{path}", headers=HEADERS, json=BODY)
    assert reply.status_code == 404
    assert reply.json()["error"] == {"type": "not_found_error", "message": "Not found"}


def test_a_wrong_method_is_a_405_in_our_format(hosted: Hosted) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        reply = web.request(method, f"{hosted.base_url}/v1/messages", headers=HEADERS)
        assert reply.status_code == 405
        assert reply.headers["allow"] == "POST"
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_request_without_a_key_is_a_401_in_our_format(hosted: Hosted) -> None:
    reply = web.post(f"{hosted.base_url}/v1/messages", json=BODY, headers={"anthropic-version": "2023-06-01"})
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["", "x", "x/v1/messages", "v1/messages", "2/v1/messages"])
def test_a_path_that_only_resembles_the_prefix_is_not_served_and_no_post_is_redirected(
    hosted: Hosted, path: str
) -> None:
    before = len(hosted.upstream.requests)
    reply = web.post(f"{hosted.base_url}{path}", headers=HEADERS, json=BODY)
    if hosted.name == "Starlette, nested mounts" and not path:
        assert reply.status_code == 307  # Starlette's own `Mount` redirects; only `install` prevents it
    else:
        assert reply.status_code == 404
    assert len(hosted.upstream.requests) == before


def test_the_hosts_own_routes_give_the_same_bytes_and_headers_as_without_the_mounted_app(hosted: Hosted) -> None:
    host, prefix, _before = HOSTS[hosted.name]
    with serving(host(None, prefix), lifespan="off") as url:
        for method, path in (("GET", "/own"), ("HEAD", "/own"), ("POST", "/own"), ("GET", "/unknown")):
            assert _response(method, f"{hosted.url}{path}") == _response(method, f"{url}{path}")


@pytest.mark.parametrize(
    ("silent", "body"),
    [(hang(), BODY), (hang_mid_event(), STREAM)],
    ids=["while the upstream is silent", "in a stream"],
)
def test_a_client_that_disconnects_ends_the_upstream_request(hosted: Hosted, silent: Any, body: Any) -> None:
    settled = len(hosted.settled)
    after = b"content_block_delta" if silent == hang_mid_event() else b""
    assert_disconnect_ends_upstream_request(hosted.base_url, hosted.upstream, silent, body, after)
    wait_until(lambda: len(hosted.settled) > settled, "the request is settled", LONG)
    assert hosted.settled[-1].outcome == "client_gone"


@pytest.fixture(scope="module")
def one_upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        yield upstream


@pytest.mark.parametrize(("host", "prefix"), PREFIXES.values(), ids=PREFIXES.keys())
async def test_any_prefix_works(one_upstream: ThreadedStandIn, host: Host, prefix: str) -> None:
    app: Any = host(messages_app(one_upstream.base_url), prefix)
    base = prefix.rstrip("/")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host") as client:
        served = await client.post(f"{base}/v1/messages", headers=HEADERS, json=BODY)
        assert served.status_code == 200
        for unknown in (base, f"{base}/nothing", f"{base}/messages", f"{base}/v1/messages/v1/messages", "/nothing"):
            reply = await client.post(unknown, headers=HEADERS, json=BODY)
            assert reply.status_code == 404, unknown


def _response(method: str, url: str) -> tuple[int, bytes, list[tuple[str, str]]]:
    """What a client sees, without the date and the port."""
    reply = web.request(method, url)
    port = f":{reply.url.port}"
    lines = [(name, value.replace(port, "")) for name, value in reply.headers.items() if name != "date"]
    return reply.status_code, reply.content.replace(port.encode(), b""), lines
