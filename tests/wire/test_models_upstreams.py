"""The Models API before upstreams whose list is late, or never comes, or is something else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import httpx
from support.calls import HEADERS, UPSTREAM_KEY
from support.gateway import Gateway, gateway

from bud_asgi import Anonymous, Anthropic, Route
from bud_asgi.catalogue import served_at
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, empty, hang, html, json_body, late, reset_before_head


class Known(Anthropic):
    """A server at another address that is known to serve what Anthropic's own does."""

    @property
    def models(self) -> Sequence[str]:
        return served_at("anthropic")


def known(upstream: ThreadedStandIn) -> Known:
    return Known(api_key=UPSTREAM_KEY, base_url=upstream.base_url)


def get(here: Gateway, query: str = "") -> httpx.Response:
    """Request a list over a new connection."""
    return httpx.get(f"{here.base_url}/v1/models{query}", headers=HEADERS, verify=False)


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [one["id"] for one in reply.json()["data"]]


CATALOGUE = list(served_at("anthropic"))
FAULTS: dict[str, Callable[[], Reply]] = {
    "hangs": hang,
    "resets": reset_before_head,
    "is-late": lambda: late(0.3, json_body({"data": [{"id": "claude-z"}]})),
    "fails": lambda: empty(500),
    "lists-something-else": lambda: json_body({"models": ["llama"]}),
    "answers-a-page": html,
}


def test_the_catalogue_stands_in_at_once_for_upstreams_that_fail_in_any_way() -> None:
    """All at once, each at its own path."""
    with StandIn(strict=False).in_thread() as upstream:
        upstream.always(lambda received: FAULTS[received.path.split(b"/")[1].decode()]())
        providers = [Known(api_key="k", base_url=f"{upstream.base_url}/{name}", name=name) for name in FAULTS]
        routes = [Route("*", to=list(FAULTS))]
        with (
            gateway("", providers=providers, routes=routes) as here,
            httpx.Client(headers=HEADERS, verify=False) as web,
        ):
            web.get(f"{here.base_url}/healthz")
            took: list[float] = []
            for _ in range(2):
                began = time.monotonic()
                listed = ids(web.get(f"{here.base_url}/v1/models?limit=1000"))
                took.append(time.monotonic() - began)
                assert listed == CATALOGUE
            assert min(took) < 0.25  # sooner than the late list
            assert len(upstream.wait_requests(len(FAULTS))) == len(FAULTS)
        upstream.wait_connections(0, 1.0)


def test_a_list_that_comes_late_replaces_the_catalogue_and_a_cursor_of_that_begins_again(
    upstream: ThreadedStandIn,
) -> None:
    upstream.enqueue(late(0.1, json_body({"data": [{"id": "claude-z"}, {"id": "claude-y"}]})))
    with gateway("", providers=[known(upstream)]) as here:
        page = get(here, "?limit=2").json()
        assert page["last_id"] == CATALOGUE[1]
        time.sleep(0.2)
        rest = get(here, f"?limit=2&after_id={page['last_id']}")
        assert ids(rest) == ["claude-z", "claude-y"]
        assert get(here, f"?before_id={page['last_id']}").status_code == 400
        here.assert_nothing_open()


def test_where_nothing_stands_in_a_list_is_waited_for(upstream: ThreadedStandIn) -> None:
    upstream.enqueue(late(0.2, json_body({"data": [{"id": "claude-z"}]})))
    with gateway(upstream.base_url) as here:
        assert ids(get(here)) == ["claude-z"]
        here.assert_nothing_open()


def test_no_list_is_fetched_before_the_first_request_for_models(upstream: ThreadedStandIn) -> None:
    with gateway(upstream.base_url) as here:
        assert here.post().status_code == 200
        assert httpx.get(f"{here.base_url}/v1/models", verify=False).status_code == 401
        assert [request.method for request in upstream.requests] == [b"POST"]
        get(here)
        get(here)
        assert [request.method for request in upstream.requests] == [b"POST", b"GET"]


def test_no_list_is_fetched_with_a_clients_credential(upstream: ThreadedStandIn) -> None:
    passing = Anthropic(auth="client", base_url=upstream.base_url)
    routes = [Route(model, to=["anthropic"]) for model in ("house", "*")]
    with gateway("", providers=[passing], auth=Anonymous(), routes=routes) as here:
        assert ids(get(here)) == ["house"]
    assert upstream.requests == []
