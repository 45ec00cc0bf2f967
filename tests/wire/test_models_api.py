"""The Models API over real sockets: names, keys, pages, one model, refusals, HEAD."""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain
from typing import Any

import httpx
import pytest
from support.calls import KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider

from bud_asgi import ApiKey, ApiKeys, Limit, Route, Target, hash_api_key
from bud_asgi.testing import StandIn, model

MODELS = [
    model("claude-opus-5", "2026-07-14", allowed_fallback_models=("claude-opus-4-8",)),
    model("claude-sonnet-4-6", "2026-02-17", lifecycle="deprecated", retires_at="2027-01-01T00:00:00Z"),
    model("claude-haiku-4-5-20251001", "2025-10-15"),
    model("claude-3-opus-20240229", "2024-02-29", lifecycle="retired"),
    model("gpt-oss", "2025-08-05"),
]
LOCAL = ["llama-4", "meta/llama é 3"]
ROUTES = [
    Route("house", to=[Target("anthropic", "claude-opus-5")]),
    Route("claude-*", to=["anthropic"]),
    Route("*", to=["local"]),
]
HAIKU_KEY, NOBODY_KEY = "sk-bud-haiku", "sk-bud-nobody"
KEYS = ApiKeys(
    [
        ApiKey(name="me", hash=hash_api_key(KEY)),
        ApiKey(name="haiku", hash=hash_api_key(HAIKU_KEY), models=("claude-haiku-4-5", "claude-haiku-4-5-2*", "house")),
        ApiKey(name="nobody", hash=hash_api_key(NOBODY_KEY), models=()),
    ]
)
USUAL = ["house", "claude-opus-5", "claude-sonnet-4-6", "claude-haiku-4-5-20251001", "llama-4", "meta/llama é 3"]
"""The newest first, of one day those by name; `house` is as old as what it leads to."""


@pytest.fixture(scope="module")
def both() -> Generator[Gateway]:
    """A gateway before two upstreams, for keys that may use different models."""
    with (
        StandIn(api_key=UPSTREAM_KEY, models=MODELS).in_thread() as anthropic,
        StandIn(api_key=UPSTREAM_KEY, models=LOCAL).in_thread() as local,
    ):
        providers = [provider(anthropic.base_url), provider(local.base_url, name="local")]
        limits = [Limit("requests", 10_000, 3600.0)]
        with gateway("", providers=providers, auth=KEYS, routes=ROUTES, limits=limits) as here:
            yield here
            assert get(here).status_code == 200  # some worker may have run only tests that need no listing
            here.assert_nothing_open()
            for upstream in (anthropic, local):
                assert [request.path for request in upstream.requests] == [b"/v1/models"]
                assert upstream.refused == []


def get(here: Gateway, path: str = "", *, key: str = KEY, method: str = "GET", **headers: str) -> httpx.Response:
    """One request to the Models API."""
    return httpx.request(
        method, f"{here.base_url}/v1/models{path}", headers={"x-api-key": key, **headers}, verify=False
    )


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    return [one["id"] for one in reply.json()["data"]]


def test_all_that_is_routed_is_listed_the_newest_first(both: Gateway) -> None:
    reply = get(both)
    assert ids(reply) == USUAL
    body = reply.json()
    assert {name: body[name] for name in body if name != "data"} == {
        "has_more": False,
        "first_id": USUAL[0],
        "last_id": USUAL[-1],
    }
    assert reply.headers["request-id"].startswith("req_")
    assert reply.headers["anthropic-ratelimit-requests-limit"] == "10000"


def test_models_have_the_fields_that_their_upstream_gives(both: Gateway) -> None:
    told = {one["id"]: one for one in get(both).json()["data"]}
    assert told["claude-opus-5"]["created_at"] == "2026-07-14T00:00:00Z"
    assert told["claude-opus-5"]["capabilities"]["effort"]["xhigh"] == {"supported": True}
    assert "allowed_fallback_models" not in told["claude-opus-5"]
    assert told["house"] == {**told["claude-opus-5"], "id": "house"}
    assert told["claude-sonnet-4-6"]["retires_at"] == "2027-01-01T00:00:00Z"
    assert told["meta/llama é 3"]["type"] == "model"


def walked(here: Gateway, limit: int, cursor: str, end: str, start: dict[str, Any]) -> list[list[str]]:
    """The ids of page after page, each beginning where the one before ended."""
    pages: list[list[str]] = []
    query, more = {"limit": limit, **start}, True
    with httpx.Client(headers={"x-api-key": KEY}, verify=False) as web:
        while more:
            body = web.get(f"{here.base_url}/v1/models", params=query).json()
            pages.append([one["id"] for one in body["data"]])
            more, query = body["has_more"], {"limit": limit, cursor: body[end]}
    return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 1000])
def test_pages_of_any_size_are_the_whole_list_forwards_and_backwards(both: Gateway, limit: int) -> None:
    assert [*chain(*walked(both, limit, "after_id", "last_id", {}))] == USUAL
    back = walked(both, limit, "before_id", "first_id", {"before_id": USUAL[-1]})
    assert [*chain(*reversed(back))] == USUAL[:-1]


LIFECYCLES = {
    "lifecycle%5B%5D=retired": ["claude-3-opus-20240229"],
    "lifecycle[]=deprecated&lifecycle[]=retired": ["claude-sonnet-4-6", "claude-3-opus-20240229"],
    "lifecycle=deprecated": ["claude-sonnet-4-6"],
    "lifecycle%5B%5D=active&limit=1": ["house"],
}


@pytest.mark.parametrize(("query", "found"), LIFECYCLES.items(), ids=LIFECYCLES.keys())
def test_models_are_chosen_by_their_lifecycle(both: Gateway, query: str, found: list[str]) -> None:
    assert ids(get(both, f"?{query}")) == found


def test_a_key_sees_only_its_own_models(both: Gateway) -> None:
    assert ids(get(both, key=HAIKU_KEY)) == ["house", "claude-haiku-4-5-20251001", "claude-haiku-4-5"]
    assert ids(get(both, key=NOBODY_KEY)) == []
    for name in ("claude-opus-5", "llama-4"):
        assert get(both, f"/{name}", key=HAIKU_KEY).status_code == 404
    assert get(both, "/claude-haiku-4-5", key=HAIKU_KEY).json()["id"] == "claude-haiku-4-5"
    assert get(both, "?after_id=claude-opus-5", key=NOBODY_KEY).json()["data"] == []


RETRIEVED = {
    **{name: name for name in USUAL},
    "claude-3-opus-20240229": "claude-3-opus-20240229",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "meta%2Fllama%20%C3%A9%203": "meta/llama é 3",
    "claude%2Dopus%2D5?limit=5": "claude-opus-5",
    "claude-opus-5?limit=0&after_id=a&before_id=b": "claude-opus-5",
}


@pytest.mark.parametrize(("asked", "found"), RETRIEVED.items(), ids=RETRIEVED.keys())
def test_a_single_model_is_as_in_the_list(both: Gateway, asked: str, found: str) -> None:
    listed = {one["id"]: one for one in get(both, "?limit=1000&lifecycle=active&lifecycle=retired").json()["data"]}
    listed |= {one["id"]: one for one in get(both).json()["data"]}
    assert get(both, f"/{asked}").json() == listed[found]


@pytest.mark.parametrize(
    "name", ["claude-next", "gpt-oss", "claude-opus-5-5", "HOUSE", "claude-*", "*", "house/", "%00"]
)
def test_a_model_that_is_not_offered_is_not_found(both: Gateway, name: str) -> None:
    reply = get(both, f"/{name}")
    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "not_found_error"
    assert reply.json()["error"]["message"] == f"model: {httpx.URL('http://x/' + name).path[1:]}"
    assert reply.headers["x-should-retry"] == "false"


def test_the_beta_form_has_more_fields(both: Gateway) -> None:
    for told in (
        get(both, "/claude-opus-5?beta=true").json(),
        get(both, "/claude-opus-5", **{"anthropic-beta": "a-1"}).json(),
        get(both, "?beta=true").json()["data"][1],
        get(both, **{"anthropic-beta": "a-1"}).json()["data"][1],
    ):
        assert told["allowed_fallback_models"] == ["claude-opus-4-8"]


REFUSED = {
    "limit=0": "limit: Input should be greater than or equal to 1",
    "limit=1001": "limit: Input should be less than or equal to 1000",
    "limit=x": "limit: Input should be a valid integer, unable to parse string as an integer",
    "after_id=a&before_id=b": "after_id: only one of after_id and before_id may be given",
    "lifecycle[]=new": "lifecycle.0: Input should be 'active', 'deprecated' or 'retired'",
    "before_id=claude-opus-5-5": "before_id: there is no model with this id",
    "after_id=nobody": "after_id: there is no model with this id",
}


@pytest.mark.parametrize(("query", "message"), REFUSED.items(), ids=REFUSED.keys())
def test_a_bad_query_is_refused_in_the_envelope(both: Gateway, query: str, message: str) -> None:
    reply = get(both, f"?{query}")
    assert reply.status_code == 400
    body = reply.json()
    assert body["error"] == {"type": "invalid_request_error", "message": message}
    assert body["request_id"] == reply.headers["request-id"]


def test_listing_needs_a_key_and_other_methods_are_refused(both: Gateway) -> None:
    for path in ("", "/claude-opus-5"):
        assert get(both, path, key="sk-wrong").json()["error"]["type"] == "authentication_error"
        assert httpx.get(f"{both.base_url}/v1/models{path}", verify=False).status_code == 401
        for method in ("POST", "DELETE", "PUT"):
            reply = get(both, path, method=method)
            assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")
    assert get(both, "/").status_code == 404
    assert get(both, "x").status_code == 404


@pytest.mark.parametrize("path", ["", "?limit=2", "/house", "/nobody", "?limit=0"])
def test_a_head_is_that_of_the_answer(both: Gateway, path: str) -> None:
    got, head = get(both, path), get(both, path, method="HEAD")
    assert (head.status_code, head.content) == (got.status_code, b"")
    varying = {"date", "request-id", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"}
    assert {n: v for n, v in head.headers.items() if n not in varying} == {
        n: v for n, v in got.headers.items() if n not in varying
    }
    assert int(head.headers["content-length"]) == len(got.content) > 2


def test_its_account_is_that_of_an_answer_without_an_attempt(both: Gateway) -> None:
    get(both, key=HAIKU_KEY)
    account = both.account()
    assert (account.operation, account.outcome, account.status) == ("models.list", "answered", 200)
    assert (account.attempts, account.usage) == ([], None)
    assert account.principal is not None
    assert account.principal.id == "haiku"


def test_it_is_limited_on_its_own_and_per_caller() -> None:
    """Names cannot be tried without end; asking for the list takes nothing from the messages."""
    with StandIn(api_key=UPSTREAM_KEY, models=MODELS).in_thread() as upstream:
        limits = [Limit("requests", 3, 3600.0)]
        with gateway("", providers=[provider(upstream.base_url)], auth=KEYS, limits=limits) as here:
            assert [get(here, path).status_code for path in ("", "/nobody", "?limit=0")] == [200, 404, 400]
            refused = get(here, "/claude-opus-5")
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
            assert 0 < int(refused.headers["retry-after"]) <= 1200
            assert get(here, key=HAIKU_KEY).status_code == 200
            assert here.post({"model": "claude-opus-5"}).status_code == 200
            here.assert_nothing_open()
