"""Conditions of routes: which route a request gets, whatever was remembered of the requests before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.test_patterns import by_hand
from support.asgi import BODY, VERSION, Receiving, chunks, http_scope
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import GatewayError, ModelNotAllowed, NotFound
from bud_asgi.protocol.request import decode_request
from bud_asgi.routing import (
    HostRouter,
    Route,
    RouteTable,
    TableRoute,
    make_router,
    resolve,
    resolve_by_host,
    unreachable,
)

CI, OTHER = Principal(id="ci", team="web"), Principal(id="other")


def request(
    model: str = "m",
    principal: Principal | None = CI,
    size: int = 100,
    headers: dict[str, str] | None = None,
    fields: str = "",
) -> Exchange:
    """A request that has been read, with a body of that many bytes; `fields` follow the usual ones."""
    lines = [VERSION, *((name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items())]
    exchange = Exchange.of(http_scope(lines))
    exchange.principal = principal
    body = BODY.replace(b'"m"', b'"%b"' % model.encode())[:-1] + fields.encode() + b"}"
    exchange.read_request = decode_request(body + b" " * (size - len(body)))
    return exchange


def led(table: RouteTable, exchange: Exchange) -> str:
    """The provider that a request is led to."""
    resolve(table, exchange)
    assert exchange.route is not None
    return exchange.route.choose(exchange)[0].provider


HOLDS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "no conditions": ({}, {"principal": None}, None),
    "a principal": ({"principals": ["x", "c*"]}, {}, None),
    "another principal": ({"principals": ["c*"]}, {"principal": OTHER}, "principals"),
    "any principal": ({"principals": ["x", "*"]}, {"principal": None}, None),
    "no principal": ({"principals": ["c*"]}, {"principal": None}, "principals"),
    "a team": ({"teams": ["w*"]}, {}, None),
    "no team": ({"teams": ["w*"]}, {"principal": OTHER}, "teams"),
    "another team": ({"teams": ["x*"]}, {}, "teams"),
    "a header": ({"headers": {"X-Tier": "gold-*"}}, {"headers": {"x-tier": "gold-1"}}, None),
    "a header of another value": (
        {"headers": {"x-tier": "gold-*"}},
        {"headers": {"x-tier": "Gold-1"}},
        "headers.x-tier",
    ),
    "no header": ({"headers": {"x-tier": "*"}}, {}, "headers.x-tier"),
    "an empty header": ({"headers": {"x-tier": "*"}}, {"headers": {"x-tier": ""}}, None),
    "a header that is no ASCII": ({"headers": {"x-tier": "é*"}}, {"headers": {"x-tier": "é1"}}, None),
    "the second of two headers": ({"headers": {"a": "1", "b": "2"}}, {"headers": {"a": "1"}}, "headers.b"),
    "a beta": ({"headers": {"anthropic-beta": "*one-*"}}, {"headers": {"anthropic-beta": "two-1,one-1"}}, None),
    "a feature that is a beta": (
        {"features": ["x", "one-*"]},
        {"headers": {"anthropic-beta": "two-1, one-1"}},
        None,
    ),
    "another beta": ({"features": ["one-*"]}, {"headers": {"anthropic-beta": "two-1,one"}}, "features"),
    "a beta in the body": ({"features": ["one-*"]}, {"fields": ',"anthropic_beta":["one-1"]'}, None),
    "an invalid list of betas": ({"features": ["one-*"]}, {"headers": {"anthropic-beta": "one-1,a b"}}, "features"),
    "a feature that is a field": ({"features": ["mcp_*"]}, {"fields": ',"mcp_servers":[]'}, None),
    "a field of a plain body": ({"features": ["thinking"]}, {"fields": ',"thinking":{}'}, None),
    "a field that is null": ({"features": ["thinking"]}, {"fields": ',"thinking":null'}, "features"),
    "a field within another": ({"features": ["role"]}, {}, "features"),
    "any feature": ({"features": ["x", "*"]}, {}, None),
    "the smallest size": ({"min_bytes": 100}, {}, None),
    "a smaller size": ({"min_bytes": 101}, {}, "min_bytes"),
    "the largest size": ({"max_bytes": 100}, {}, None),
    "a larger size": ({"max_bytes": 99}, {}, "max_bytes"),
    "all of them": ({"principals": ["ci"], "teams": ["web"], "min_bytes": 1, "max_bytes": 200}, {}, None),
}


@pytest.mark.parametrize(("conditions", "given_request", "unmet"), HOLDS.values(), ids=HOLDS.keys())
def test_a_route_is_for_requests(conditions: dict[str, Any], given_request: dict[str, Any], unmet: str | None) -> None:
    exchange = request(**given_request)
    table = RouteTable([Route("m", ["here"], **conditions), Route("*", ["elsewhere"])])
    for _ in range(2):
        assert led(table, exchange) == ("elsewhere" if unmet else "here")
    step, _ = table.explain(exchange, "m")
    assert (step.result, step.unmet) == (("condition", unmet) if unmet else ("used", ""))


def test_a_model_whose_routes_are_all_for_others_is_not_found() -> None:
    table = RouteTable([Route("m", ["here"], principals=["ops"])])
    with pytest.raises(NotFound, match=r"^model: m$"):
        resolve(table, request())
    assert led(table, request(principal=Principal(id="ops"))) == "here"


def test_what_is_remembered_for_one_caller_does_not_lead_another() -> None:
    table = RouteTable([Route("*", ["web"], teams=["web"]), Route("*", ["rest"])])
    assert [led(table, request(principal=one)) for one in (OTHER, CI, OTHER, CI)] == ["rest", "web", "rest", "web"]


def test_an_exact_name_is_first_and_its_conditions_lead_on_to_the_patterns() -> None:
    table = RouteTable([Route("*", ["all"]), Route("m", ["big"], min_bytes=200), Route("m", ["small"], max_bytes=100)])
    assert [led(table, request(size=size)) for size in (100, 150, 200)] == ["small", "all", "big"]


def test_without_the_request_routes_with_conditions_on_it_are_skipped() -> None:
    conditions: list[dict[str, Any]] = [{"max_bytes": 9**9}, {"headers": {"x": "*"}}, {"features": ["model"]}]
    table = RouteTable([*(Route("m", ["a"], **one) for one in conditions), Route("m", ["c"])])
    assert table.resolve("m", CI).targets == (Target("c"),)


ARN = "arn:aws:bedrock:eu-central-1:1:inference-profile/x"


def test_a_resource_that_is_named_for_others_is_not_named() -> None:
    table = RouteTable([Route("arn:*", ["theirs"], principals=["ops"]), Route("*", ["all"])])
    assert led(table, request(ARN, Principal(id="ops"))) == "theirs"
    with pytest.raises(ModelNotAllowed):
        resolve(table, request(ARN, CI))
    assert led(table, request(ARN, Principal(id="ci", models=("arn:aws:*",)))) == "all"
    with pytest.raises(ModelNotAllowed):
        resolve(table, request(ARN, CI))


def test_the_duplicate_of_a_route_is_refused_whatever_the_order_of_its_conditions() -> None:
    routes = [
        Route("m", ["a"], principals=["x", "y"], headers={"a": "1", "b": "2"}),
        Route("m", ["b"], principals=["y", "x", "x"], headers={"B": "2", "a": "1"}),
    ]
    with pytest.raises(OptionError, match=r"^routes\[1\].model: duplicate route, already defined by routes\[0\]$"):
        RouteTable(routes)
    assert RouteTable([routes[0], Route("m", ["b"], principals=["x"])])


def test_offers_are_those_for_the_caller_one_for_each_model() -> None:
    table = RouteTable(
        [
            Route("c*", ["a"], headers={"x": "*"}),
            Route("*", ["a"], teams=["web"]),
            Route("*", ["b"]),
            Route("m", ["a"], max_bytes=9),
            Route("m", ["b", "a"]),
        ]
    )
    a, b = Target("a"), Target("b")
    of_m, of_c = Offer("m", (a, b)), Offer("c*", (a,))
    assert table.offers(CI) == [of_m, Offer("*", (a, b)), of_c]
    assert table.offers(OTHER) == table.offers(None) == [of_m, Offer("*", (b,)), of_c]


class Own(RouteTable):
    """A router of a host's own, on top of a table."""

    def resolve(self, model: str, principal: Principal | None) -> TableRoute:
        return super().resolve(model.removeprefix("own-"), principal)


class Renamed(RouteTable):
    """A table that changes nothing."""


@pytest.mark.parametrize(("table", "model", "expected"), [(Own, "own-m", "rest"), (Renamed, "m", "small")])
def test_a_router_that_overrides_resolve_is_asked_without_the_request(
    table: type[RouteTable], model: str, expected: str
) -> None:
    router = make_router("router", table([Route("m", ["small"], max_bytes=9**9), Route("m", ["rest"])]))
    exchange = request(model)
    if isinstance(router, HostRouter):
        asyncio.run(resolve_by_host(router, exchange))
    else:
        resolve(router, exchange)
    assert exchange.route is not None
    assert exchange.route.choose(exchange)[0].provider == expected


def test_further_models_of_a_request_are_resolved_with_its_conditions() -> None:
    exchange = Exchange.of(http_scope([VERSION]))
    exchange.principal = CI
    body = BODY[:-1] + b',"fallbacks":[{"model":"n"}]}'
    asyncio.run(exchange.request(Receiving(*chunks(body))))
    resolve(RouteTable([Route("n", ["small"], max_bytes=9**9), Route("*", ["all"])]), exchange)
    ((_, route),) = exchange.named_routes
    assert route.choose(exchange) == (Target("small"),)


def test_a_resolved_route_has_its_groups_and_their_balance() -> None:
    table = RouteTable([Route("*", ["x"]), Route("m*", [["a", Target("b", weight=3)], "c"], balance="weighted")])
    exchange = request("m1")
    exchange.principal = None
    table = RouteTable([*reversed(table.routes)])
    resolve(table, exchange)
    route: ResolvedRoute | None = exchange.route
    assert isinstance(route, TableRoute)
    assert (route.model, route.index, route.balance) == ("m1", 0, "weighted")
    assert route.groups == ((Target("a"), Target("b", weight=3)), (Target("c"),))
    assert route.choose(exchange) == (Target("a"), Target("b", weight=3), Target("c"))


_names = st.sampled_from(["a", "ab", "a*", "*b", "*"])
_routes = st.lists(
    st.builds(
        Route,
        _names,
        st.just(["p"]),
        principals=st.sampled_from([["*"], ["x"], ["x*", "y"]]),
        teams=st.sampled_from([["*"], ["t*"]]),
        headers=st.sampled_from([{}, {"h": "*"}, {"h": "1*"}]),
        min_bytes=st.sampled_from([None, None, 150]),
        max_bytes=st.sampled_from([None, None, 160]),
        features=st.sampled_from([["*"], ["*"], ["f-*"], ["f-1", "metadata"]]),
    ),
    max_size=6,
    unique_by=lambda route: (route.model, route.conditions),
)
_requests = st.builds(
    request,
    st.sampled_from(["a", "ab", "b"]),
    st.builds(Principal, id=st.sampled_from(["x", "x1", "z"]), team=st.sampled_from([None, "t1"])),
    st.sampled_from([100, 155, 200]),
    st.sampled_from([{}, {"h": "1"}, {"h": "2"}, {"anthropic-beta": "f-1"}, {"anthropic-beta": "g,f-2", "h": "1"}]),
    st.sampled_from(["", ',"metadata":{}']),
)


def by_definition(routes: list[Route], exchange: Exchange) -> int | None:
    """The index of the route for a request: exact names before patterns, then their order."""
    model, principal = exchange.decoded_request.model, exchange.principal
    size, header = len(exchange.decoded_request.body), exchange.headers.get(b"h")
    betas = exchange.headers.get(b"anthropic-beta", b"").decode().split(",")
    features = [*betas, *exchange.decoded_request.spans]
    assert principal is not None
    for index in sorted(range(len(routes)), key=lambda index: "*" in routes[index].model):
        route = routes[index]
        if (
            by_hand(route.model, model)
            and any(by_hand(pattern, principal.id) for pattern in route.principals)
            and (route.teams == ("*",) or any(by_hand(pattern, principal.team or "") for pattern in route.teams))
            and all(header is not None and by_hand(pattern, header.decode()) for pattern in route.headers.values())
            and any(by_hand(pattern, feature) for pattern in route.features for feature in features)
            and (route.min_bytes or 0) <= size <= (route.max_bytes or size)
        ):
            return index
    return None


@pytest.mark.torture
@examples(60)
@given(routes=_routes, exchanges=st.lists(_requests, min_size=1, max_size=5))
def test_each_request_gets_the_first_route_that_is_for_it(routes: list[Route], exchanges: list[Exchange]) -> None:
    table, hidden = RouteTable(routes), dict(unreachable(routes))
    for exchange in exchanges * 2:
        expected = by_definition(routes, exchange)
        used = [step.index for step in table.explain(exchange, exchange.decoded_request.model) if step.result == "used"]
        assert used == ([] if expected is None else [expected])
        if expected is None:
            with pytest.raises(GatewayError):
                resolve(table, exchange)
        else:
            resolve(table, exchange)
            assert isinstance(exchange.route, TableRoute)
            assert exchange.route.index == expected
            assert expected not in hidden
