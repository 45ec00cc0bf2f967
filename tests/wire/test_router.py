"""A router of the host's over real sockets: one function, in `routes=` and in a stack of middleware."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from support.calls import BODY, KEY, UPSTREAM_KEY
from support.gateway import Gateway, gateway, provider
from support.sockets import raw_request
from support.waiting import wait_until

from bud_asgi import (
    ApiKey,
    ApiKeys,
    AuthMiddleware,
    GatewayError,
    Limit,
    Principal,
    RateLimitMiddleware,
    Route,
    RouteTable,
    RoutingMiddleware,
    Target,
    hash_api_key,
)
from bud_asgi.exchange import Offer
from bud_asgi.routing import RouterFunction
from bud_asgi.testing import StandIn, ThreadedStandIn, error

ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/x"
STREAMING = json.dumps({**BODY, "stream": True}).encode()


def keys(*models: str) -> ApiKeys:
    return ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), team="web", models=models or ("*",))])


@contextmanager
def routed(
    router: Any, kind: str = "app", *, auth: ApiKeys | None = None, limits: Sequence[Limit] = ()
) -> Generator[tuple[Gateway, ThreadedStandIn, ThreadedStandIn]]:
    """A gateway before two upstreams, with a router in `routes` ("app") or in a stack ("stack")."""
    backend = auth or keys()
    with (
        StandIn(api_key=UPSTREAM_KEY).in_thread() as one,
        StandIn(api_key=UPSTREAM_KEY).in_thread() as two,
    ):
        providers = [provider(one.base_url, name="one"), provider(two.base_url, name="two")]
        stack = [
            Middleware(AuthMiddleware, backend=backend),
            Middleware(RoutingMiddleware, router=router),
            Middleware(RateLimitMiddleware, limits=limits),
        ]
        options: dict[str, Any] = (
            {"auth": backend, "routes": router, "limits": limits} if kind == "app" else {"middleware": stack}
        )
        with gateway("", providers=providers, **options) as here:
            yield here, one, two
            here.assert_nothing_open()


both_ways = pytest.mark.parametrize("kind", ["app", "stack"])


def in_time(found: object) -> RouterFunction:
    """An async function that always returns the same."""

    async def tenant_route(model: str, principal: Principal) -> Any:
        await asyncio.sleep(0)
        return found

    return tenant_route


@both_ways
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_an_async_function_decides_by_model_and_caller(kind: str, stream: bool) -> None:
    calls: list[tuple[str, str | None]] = []

    async def tenant_route(model: str, principal: Principal) -> Route | None:
        calls.append((model, principal.team))
        await asyncio.sleep(0)
        return Route(model, to=[Target("two", "claude-haiku-4-5")])

    with routed(tenant_route, kind) as (here, one, two):
        assert here.post({"model": "claude-fast[1m]", "stream": stream}).status_code == 200
        assert calls == [("claude-fast", "web")]
        assert (len(one.requests), [request.json()["model"] for request in two.requests]) == (0, ["claude-haiku-4-5"])
        exchange = here.account()
        assert exchange.route is not None
        assert exchange.route.model == "claude-fast"


@both_ways
def test_a_function_need_not_be_async(kind: str) -> None:
    def tenant_route(model: str, principal: Principal) -> Route:
        return Route("*", to=["two"])

    with routed(tenant_route, kind) as (here, _, two):
        assert here.post({"model": "m"}).status_code == 200
        assert two.requests[0].json()["model"] == "m"


@both_ways
def test_a_table_for_each_caller_is_looked_up_with_its_conditions(kind: str) -> None:
    table = RouteTable([Route("m", ["one"], headers={"x-tier": "gold"}), Route("m", ["two"]), Route(ARN, ["two"])])
    with routed(in_time(table), kind) as (here, one, two):
        assert here.post({"model": "m"}).status_code == 200
        assert (len(one.requests), len(two.requests)) == (0, 1)
        assert here.post({"model": ARN}).status_code == 200
        assert here.post({"model": "x"}).status_code == 404


@both_ways
def test_a_returned_route_fails_over(kind: str) -> None:
    with routed(in_time(Route("*", to=["one", "two"])), kind) as (here, one, two):
        one.enqueue(error(500, "api_error", "no"))
        assert here.post().status_code == 200
        assert (len(one.requests), len(two.requests)) == (1, 1)


@both_ways
def test_the_groups_of_a_route_that_is_made_anew_for_each_call_keep_a_conversation_at_its_target(kind: str) -> None:
    def tenant_route(model: str, principal: Principal) -> Route:
        return Route(model, to=[["one", "two"]])

    with routed(tenant_route, kind) as (here, one, two):
        for session in range(6):
            before = len(one.requests), len(two.requests)
            headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "x-session-id": f"s-{session}"}
            assert [here.post(headers=headers).status_code for _ in range(3)] == [200] * 3
            assert (len(one.requests) - before[0], len(two.requests) - before[1]) in {(3, 0), (0, 3)}


REFUSED: dict[str, tuple[object, tuple[str, ...], str, int, str]] = {
    "nothing": (None, ("*",), "m", 404, "model: m"),
    "a model that the caller may not use": (
        Route("*", ["one"]),
        ("other",),
        "m",
        403,
        "model: m is not among the models that you may use",
    ),
    "a name that the caller may not use": (
        Route("best", ["one"]),
        ("m",),
        "m",
        403,
        "model: best is not among the models that you may use",
    ),
    "a condition that does not hold": (Route("*", ["one"], teams=["other"]), ("*",), "m", 404, "model: m"),
    "a resource that the caller does not name": (
        Route(ARN, ["one"]),
        ("*",),
        ARN,
        403,
        f"model: {ARN} is not among the models that you may use",
    ),
}


@both_ways
@pytest.mark.parametrize(("found", "models", "model", "status", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_function_does_not_serve_is_refused(
    kind: str, found: object, models: tuple[str, ...], model: str, status: int, message: str
) -> None:
    with routed(in_time(found), kind, auth=keys(*models)) as (here, one, two):
        refused = here.post({"model": model})
        assert (refused.status_code, refused.json()["error"]["message"]) == (status, message)
        assert one.requests == two.requests == []


def test_a_resource_that_the_caller_names_is_served() -> None:
    with routed(in_time(Route("*", ["one"])), auth=keys("arn:aws:*")) as (here, _, _two):
        assert here.post({"model": ARN}).status_code == 200


@both_ways
def test_further_models_are_resolved_one_by_one(kind: str) -> None:
    async def tenant_route(model: str, principal: Principal) -> Route | None:
        await asyncio.sleep(0)
        return None if model == "unserved" else Route(model, to=["two"] if model == "a" else ["one", "two"])

    with routed(tenant_route, kind) as (here, one, two):
        body = {"model": "b", "fallbacks": [{"model": "a"}]}
        headers = {
            "x-api-key": KEY,
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "server-side-fallback-2026-06-01",
        }
        assert here.post(body, headers=headers).status_code == 200
        assert (len(one.requests), len(two.requests)) == (0, 1)  # only there are both served
        refused = here.post({"model": "b", "fallbacks": [{"model": "unserved"}]}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["message"]) == (404, "fallbacks.0.model: unserved")


WRONG: dict[str, tuple[object, str]] = {
    "a name": ("one", 'tenant_route returned "one" instead of a Route'),
    "a list": (["one"], "tenant_route returned a list instead of a Route"),
    "a class": (Route, "tenant_route returned the class Route instead of a Route"),
    "an unknown provider": (
        Route("*", ["one", "three"]),
        "the router chose the unknown provider 'three' for model 'm'",
    ),
    "a table with an unknown provider": (RouteTable([Route("*", ["three"])]), "the unknown provider 'three'"),
}


@both_ways
@pytest.mark.parametrize(("found", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_result_is_a_500_and_one_line_in_the_log(
    kind: str, found: object, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with routed(in_time(found), kind, limits=[Limit("concurrent", 1)]) as (here, one, _):
        for _again in range(2):
            refused = here.post({"model": "m"})
            assert refused.status_code == 500
            assert refused.json()["error"] == {
                "type": "api_error",
                "message": "The route of this model is misconfigured: m",
            }
        assert one.requests == []
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("bud_asgi")]
    assert len(logged) == 2
    assert all(words in line for line in logged)


class Closed(GatewayError):
    status = 503
    type = "api_error"


RAISED: dict[str, tuple[Exception, int, str, str]] = {
    "an error of the database": (OSError("db-7 is away"), 500, "Internal server error", "db-7 is away"),
    "its own time limit": (TimeoutError("slow"), 500, "Internal server error", "slow"),
    "a refusal": (Closed("We are closed."), 503, "We are closed.", ""),
    "a refusal as in the host's own routes": (HTTPException(503, "We are closed."), 503, "We are closed.", ""),
}


@both_ways
@pytest.mark.parametrize(("raised", "status", "message", "logged"), RAISED.values(), ids=RAISED.keys())
def test_what_a_function_raises_is_answered_and_logged_with_its_traceback(
    kind: str, raised: Exception, status: int, message: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def tenant_route(model: str, principal: Principal) -> Route:
        await asyncio.sleep(0)
        raise raised

    with routed(tenant_route, kind) as (here, *_):
        refused = here.post()
        assert (refused.status_code, refused.json()["error"]) == (status, {"type": "api_error", "message": message})
    if logged:
        assert "tenant_route" in caplog.text
        assert "To refuse a request, raise an HTTPException or a GatewayError" in caplog.text
        assert logged in caplog.text
    else:
        assert not [record for record in caplog.records if record.name.startswith("bud_asgi")]


@both_ways
@pytest.mark.parametrize("body", [json.dumps(BODY).encode(), STREAMING], ids=["json", "stream"])
def test_a_client_that_disconnects_ends_a_function_that_hangs(kind: str, body: bytes) -> None:
    ended: list[str] = []

    async def tenant_route(model: str, principal: Principal) -> Route:
        ended.append("called")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        raise AssertionError

    with routed(tenant_route, kind, limits=[Limit("concurrent", 1)]) as (here, one, two):
        with raw_request(here.base_url, body):
            wait_until(lambda: ended == ["called"], "it is called")
        left = time.monotonic()
        wait_until(lambda: ended == ["called", "cancelled"], "it is cancelled")
        assert time.monotonic() - left < 15.0
        assert here.account().outcome == "client_gone"
        assert one.requests == two.requests == []


@both_ways
def test_limits_by_model_count_the_model_of_the_route(kind: str) -> None:
    async def tenant_route(model: str, principal: Principal) -> Route:
        return Route("best" if model == "m" else model, to=["one"])

    limits = [Limit("requests", 1, 3600.0, models=("best",))]
    with routed(tenant_route, kind, limits=limits) as (here, *_):
        assert [here.post({"model": model}).status_code for model in ("m", "n", "m", "n")] == [200, 200, 429, 200]


def models(here: Gateway, path: str = "") -> Any:
    return httpx.get(f"{here.base_url}/v1/models{path}", headers={"x-api-key": KEY}).json()


@both_ways
def test_the_models_api_lists_the_caller_s_own_names_that_are_served(kind: str) -> None:
    async def tenant_route(model: str, principal: Principal) -> Route | None:
        return Route(model, to=[Target("one", "claude-haiku-4-5")]) if model in {"fast", "claude-opus-4-8"} else None

    with routed(tenant_route, kind, auth=keys("fast", "gone", "claude-*")) as (here, *_):
        assert [model["id"] for model in models(here)["data"]] == ["fast"]
        assert models(here, "/fast")["id"] == "fast"
        assert models(here, "/claude-opus-4-8[1m]")["id"] == "claude-opus-4-8"
        for name in ("gone", "claude-next", "claude-*", "c" * 300):
            assert models(here, f"/{name}")["error"] == {"type": "not_found_error", "message": f"model: {name}"}


class Tenants:
    """A router with methods, both async."""

    async def resolve(self, model: str, principal: Principal | None) -> Route | None:
        await asyncio.sleep(0)
        return Route("fast", ["one"]) if model == "fast" else None

    async def offers(self, principal: Principal | None) -> Sequence[Offer]:
        await asyncio.sleep(0)
        return [Offer("fast", (Target("one", "claude-haiku-4-5"),))]


@both_ways
def test_a_router_with_methods_lists_what_it_offers(kind: str) -> None:
    with routed(Tenants(), kind) as (here, one, _):
        assert [model["id"] for model in models(here)["data"]] == ["fast"]
        assert [here.post({"model": model}).status_code for model in ("fast", "m")] == [200, 404]
        assert [request.json()["model"] for request in one.requests if request.method == b"POST"] == ["fast"]


def test_without_a_principal_a_function_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    stack = [Middleware(RoutingMiddleware, router=in_time(Route("*", ["one"])))]
    with gateway("", providers=[provider("http://127.0.0.1:1", name="one")], middleware=stack) as here:
        assert here.post().status_code == 500
    assert "needs a principal: put AuthMiddleware in front of RoutingMiddleware" in caplog.text
