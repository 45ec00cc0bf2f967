"""A router of the host's: how long it may take, what is remembered of its routes, and which exceptions travel on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import BODY, exchange_of
from support.counts import examples
from support.virtual_time import loop_time, run_in_virtual_time

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.request import NamedModel, decode_request
from bud_asgi.routing import Chooser, HostRouter, Route, TableRoute, find_offers, make_router, resolve_by_host
from bud_asgi.routing.chooser import MAX_GROUPS
from bud_asgi.routing.fleet import MAX_TARGETS
from bud_asgi.routing.router import MAX_ROUTES, MAX_SECONDS


def request(model: str = "m", further: int = 0) -> Exchange:
    """A request that has been read, and that names so many further models."""
    exchange = exchange_of()
    decoded = decode_request(BODY.replace(b'"m"', b'"%b"' % model.encode()))
    named = [NamedModel(f"fallbacks.{number}.model", f"m-{number}") for number in range(further)]
    exchange.read_request = msgspec.structs.replace(decoded, named_models=named)
    return exchange


def host_router(function: Any) -> HostRouter:
    router = make_router("router", function)
    assert isinstance(router, HostRouter)
    return router


def routed(function: Any, exchange: Exchange) -> TableRoute:
    """The route that a function gives to a request."""
    asyncio.run(resolve_by_host(host_router(function), exchange))
    assert isinstance(exchange.route, TableRoute)
    return exchange.route


class Slow:
    """A router whose every call takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = self.cancelled = 0

    async def __call__(self, model: str, principal: Principal) -> Route:
        self.calls += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Route(model, ["p"])


class SlowList(Slow):
    """The same with methods."""

    async def resolve(self, model: str, principal: Principal | None) -> Route:
        return await self("", Principal(id="p"))

    async def offers(self, principal: Principal | None) -> Sequence[Offer]:
        await self("m", Principal(id="p"))
        return []


@pytest.mark.parametrize(("seconds", "further", "calls"), [(60.0, 0, 1), (3.0, 9, 4)], ids=["one call", "all calls"])
def test_a_function_that_takes_too_long_is_cancelled(
    seconds: float, further: int, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    router = Slow(seconds)

    async def run() -> float:
        began = loop_time()
        with pytest.raises(GatewayError, match="misconfigured") as error:
            await resolve_by_host(host_router(router), request(further=further))
        assert (error.value.status, error.value.type) == (500, "api_error")
        return loop_time() - began

    assert run_in_virtual_time(run()) == pytest.approx(MAX_SECONDS)
    assert (router.calls, router.cancelled) == (calls, 1)
    (record,) = caplog.records
    assert record.getMessage().endswith("the router Slow did not return within 10 s")


def test_a_list_of_offers_has_the_same_time() -> None:
    router = SlowList(60.0)

    async def run() -> float:
        began = loop_time()
        with pytest.raises(GatewayError, match="misconfigured"):
            await find_offers(host_router(router), request())
        return loop_time() - began

    assert run_in_virtual_time(run()) == pytest.approx(MAX_SECONDS)


def test_calls_that_end_in_time_leave_no_timer() -> None:
    async def run() -> None:
        await resolve_by_host(host_router(Slow(1.0)), request(further=5))
        await asyncio.sleep(MAX_SECONDS * 2)

    run_in_virtual_time(run())


@pytest.mark.parametrize("raised", [asyncio.CancelledError, TimeoutError, KeyError, KeyboardInterrupt])
def test_exceptions_of_the_function_travel_on(raised: type[BaseException]) -> None:
    async def tenant_route(model: str, principal: Principal) -> Route:
        await asyncio.sleep(0)
        raise raised

    with pytest.raises(raised):
        routed(tenant_route, request())


def test_an_exception_that_is_raised_again_and_again_is_noted_once() -> None:
    kept = KeyError("tenant")

    def tenant_route(model: str, principal: Principal) -> Route:
        raise kept

    for _ in range(3):
        with pytest.raises(KeyError):
            routed(tenant_route, request())
    (note,) = kept.__notes__
    assert note.endswith("tenant_route. To refuse a request, raise an HTTPException or a GatewayError.")


class Held:
    """A function in an object: as a method, and as the object itself."""

    def __init__(self, function: Callable[[str, Principal], Any]) -> None:
        self.function = function

    def route_of(self, model: str, principal: Principal) -> Any:
        return self.function(model, principal)

    __call__ = route_of


async def awaited_route(model: str, principal: Principal) -> Route:
    return Route("*", ["p"])


def later_route(model: str, principal: Principal) -> Awaitable[Route]:
    return asyncio.ensure_future(awaited_route(model, principal))


def route_now(model: str, principal: Principal) -> Route:
    return Route("*", ["p"])


@pytest.mark.parametrize("function", [awaited_route, later_route, route_now])
def test_anything_that_can_be_called_is_a_function(function: Callable[[str, Principal], Any]) -> None:
    for form in (function, partial(function), Held(function).route_of, Held(function)):
        assert routed(form, request("m")).targets == (Target("p"),)


def test_equal_routes_share_their_groups() -> None:
    def tenant_route(model: str, principal: Principal) -> Route:
        return Route("m-*", [["a", "b"], "c"])

    router = host_router(tenant_route)

    async def groups(model: str) -> int:
        exchange = request(model)
        await resolve_by_host(router, exchange)
        assert isinstance(exchange.route, TableRoute)
        assert exchange.route.model == model
        return id(exchange.route.groups[0])

    assert asyncio.run(groups("m-1")) == asyncio.run(groups("m-2"))


@examples(50, 2_000)
@given(
    model=st.sampled_from(["m", "n", "*"]),
    to=st.sampled_from([["a"], ["a", "b"], [["a", "b"]], [Target("a", "n")]]),
    headers=st.sampled_from([{}, {"x-tier": "gold"}]),
    other=st.sampled_from(["m", "n", "*"]),
)
def test_equal_routes_have_the_same_hash(model: str, to: list[Any], headers: dict[str, str], other: str) -> None:
    route, again = Route(model, to, headers=headers), Route(other, [*to], headers={**headers})
    assert (route == again) is (model == other)
    assert hash(route) == hash(again) or route != again


@pytest.mark.parametrize("own_targets", [True, False], ids=["targets of their own", "the same targets"])
def test_what_is_remembered_of_routes_that_come_and_go_is_bounded(own_targets: bool) -> None:
    def tenant_route(model: str, principal: Principal) -> Route:
        upstream_model = model if own_targets else "m"
        return Route(model, [[Target("a", upstream_model), Target("b", upstream_model)]])

    chooser, router = Chooser(), host_router(tenant_route)

    async def run() -> None:
        for number in range(MAX_GROUPS + 500):
            exchange = request(f"m-{number}")
            await resolve_by_host(router, exchange)
            assert isinstance(exchange.route, TableRoute)
            assert len(chooser.arrange(exchange, exchange.route, exchange.route.targets, 0.0)) == 2

    asyncio.run(run())
    gc.collect()
    kept = sum(isinstance(one, TableRoute) and one.targets[0].provider == "a" for one in gc.get_objects())
    assert MAX_ROUTES / 2 < kept <= MAX_ROUTES
    assert len(chooser._groups) <= MAX_GROUPS
    assert len(chooser.fleet.snapshot(0.0)) <= MAX_TARGETS


def test_a_group_whose_targets_have_been_forgotten_is_balanced_by_their_new_load() -> None:
    chooser, group = Chooser(), (Target("a"), Target("b"))
    assert len(chooser.order(group, "least_busy", None, 0.0)) == 2
    for number in range(MAX_TARGETS):
        chooser.fleet.health(Target("c", f"m-{number}"))
    for _ in range(50):
        chooser.fleet.health(Target("a")).begin(0.0)
    assert [chooser.order(group, "least_busy", None, 0.0)[0] for _ in range(9)] == [Target("b")] * 9
