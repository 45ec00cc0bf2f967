"""Which limits apply to a request, and whose bucket it takes from."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from support.asgi import BODY, Receiving, chunks, exchange_of, http_scope

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limit import Limit
from bud_asgi.limits.charges import charges_of, family_of, limits_of, model_of, needs_body
from bud_asgi.limits.plans import Plans
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import Operation

REQUESTS = Limit("requests", 5)
EVERYONES = Limit("requests", 50, per="all")
OPERATIONS: tuple[Operation, ...] = ("messages.create", "messages.count_tokens", "models.list", "models.retrieve")


class Resolved(msgspec.Struct):
    """A route that is known by its model."""

    model: str

    def choose(self, exchange: Exchange) -> list[Target]:
        return []


def method_of(exchange: Exchange) -> str | None:
    return exchange.method


def keys(limits: list[Limit], exchange: Exchange, model: str | None = None) -> list[tuple[Limit, str]]:
    """The limits that apply to a request, with the keys of their buckets."""
    family = family_of(exchange)
    found = charges_of(limits_of(limits, exchange.principal, family), exchange, family, model)
    assert {charge.amount for charge in found} <= {1}
    return [(charge.limit, charge.key) for charge in found]


def test_each_dimension_has_a_bucket_for_each_of_its_names() -> None:
    limits = [Limit("requests", 5, per=per) for per in ("principal", "team", "model", "all")]
    ann = Principal(id="ann", team="core")
    assert [key for _, key in keys(limits, exchange_of(ann), "opus")] == [
        "messages:ann",
        "messages:core",
        "messages:opus",
        "messages:",
    ]


def test_a_limit_per_team_does_not_apply_to_those_without_one_nor_one_per_model_where_there_is_none() -> None:
    limits = [Limit("requests", 5, per="team"), Limit("requests", 5, per="model"), EVERYONES]
    assert keys(limits, exchange_of("ann")) == [(EVERYONES, "messages:")]


def test_requests_without_a_principal_share_a_bucket() -> None:
    assert keys([REQUESTS, EVERYONES], exchange_of(None)) == [(REQUESTS, "messages:"), (EVERYONES, "messages:")]


def test_no_principal_shares_a_bucket_with_another() -> None:
    """Not even one whose id looks like the name of a bucket."""
    found: list[tuple[Limit, str]] = []
    for operation in (None, "messages.create", "messages.count_tokens", "models.list"):
        for name in ("p", "count_tokens:p", "messages:p", ":p", "messages", "count_tokens"):
            found += keys([REQUESTS], exchange_of(name, operation))
    assert len(set(found)) == len(found) - 6  # the operation of an app that is not ours counts as messages


def test_each_kind_of_operation_has_buckets_of_its_own() -> None:
    found = {key for operation in OPERATIONS for _, key in keys([REQUESTS, EVERYONES], exchange_of("ann", operation))}
    assert found == {f"{family}:{name}" for family in ("messages", "count_tokens", "models") for name in ("ann", "")}


def test_in_front_of_another_app_the_path_shows_what_counts_tokens() -> None:
    exchange = Exchange.of(http_scope(path="/llm/v1/messages/count_tokens"))
    assert family_of(exchange) == "count_tokens"


def test_token_limits_apply_to_messages_only() -> None:
    limits = [Limit("input_tokens", 5), Limit("output_tokens", 5), Limit("tokens", 5), Limit("concurrent", 5), REQUESTS]
    for operation in OPERATIONS:
        found = [limit for limit, _ in keys(limits, exchange_of("ann", operation), "opus")]
        assert found == (limits if operation == "messages.create" else limits[3:])


def test_a_limit_of_some_models_applies_to_those_only() -> None:
    opus = Limit("requests", 5, models=("*opus*",))
    assert keys([opus], exchange_of(), "claude-opus-4") == [(opus, "messages:ann")]
    assert keys([opus], exchange_of(), "claude-haiku") == keys([opus], exchange_of(), None) == []


def test_a_limit_of_some_callers_applies_to_those_only() -> None:
    team, person = Limit("requests", 5, teams=("core",)), Limit("requests", 5, 1.0, principals=("b*",))
    ann, bob = Principal(id="ann", team="core"), Principal(id="bob")
    assert [limit for limit, _ in keys([team, person], exchange_of(ann))] == [team]
    assert [limit for limit, _ in keys([team, person], exchange_of(bob))] == [person]
    assert keys([team, person], exchange_of(None)) == []


def test_limits_of_a_principal_replace_the_general_ones_per_principal_of_the_same_kind_and_window() -> None:
    general = [
        REQUESTS,
        Limit("requests", 5, mode="observe"),
        Limit("requests", 5, models=("opus",)),
        Limit("requests", 100, 3600.0),
        Limit("requests", 5, per="team"),
        EVERYONES,
        Limit("tokens", 5),
        Limit("concurrent", 5),
    ]
    own = (Limit("requests", 900), Limit("concurrent", 9), Limit("tokens", 9, 1.0))
    ann = Principal(id="ann", limits=own)
    assert limits_of(general, ann, "messages") == [*own, *general[3:7]]
    assert limits_of(general, Principal(id="bob"), "messages") == general


def test_what_does_not_depend_on_the_body_is_known_before_it() -> None:
    early = [REQUESTS, EVERYONES, Limit("concurrent", 5), Limit("requests", 5, teams=("a",), principals=("b",))]
    late = [Limit("tokens", 5), Limit("requests", 5, per="model"), Limit("requests", 5, models=("a",))]
    assert [needs_body(limit) for limit in early + late] == [False] * 4 + [True] * 3
    assert needs_body(Limit("requests", 5, per=method_of))


async def test_limits_use_the_name_that_a_model_resolves_to() -> None:
    exchange = exchange_of()
    assert model_of(exchange) is None
    await exchange.request(Receiving(*chunks(BODY)))
    assert model_of(exchange) == "m"
    exchange.route = Resolved("resolved")
    assert model_of(exchange) == "resolved"


def test_a_function_names_the_bucket_or_none() -> None:
    names = {"ann": "eu", "bob": ""}

    def region_of(exchange: Exchange) -> str | None:
        return names.get(exchange.principal.id) if exchange.principal else None

    region = Limit("requests", 5, per=region_of)
    assert keys([region], exchange_of("ann")) == [(region, "messages:eu")]
    assert keys([region], exchange_of("bob")) == [(region, "messages:")]
    assert keys([region], exchange_of("eve")) == []


@pytest.mark.parametrize("name", [5, b"eu", ["eu"], False])
def test_a_function_that_returns_anything_else_is_a_fault_of_the_host(
    name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def region(_exchange: Exchange) -> Any:
        return name

    exchange = exchange_of()
    with caplog.at_level(logging.ERROR, "bud_asgi"), pytest.raises(GatewayError) as error:
        keys([Limit("requests", 5, per=region)], exchange)
    assert (error.value.status, str(error.value)) == (500, "The rate limits of this gateway are misconfigured.")
    assert f"{exchange.request_id}: the result of {__name__}." in caplog.text
    assert "region(): expected a string or None, got" in caplog.text


def test_plans_are_found_again_and_what_is_remembered_is_bounded() -> None:
    plans = Plans([REQUESTS, EVERYONES], None)
    first = plans.early(exchange_of("ann"))
    assert plans.early(exchange_of("ann")) is first
    assert first.is_complete
    assert plans.full(exchange_of("ann"), first) is first
    for number in range(10_000):
        plans.early(exchange_of(f"p{number}"))
        assert len(plans._early) <= 4096
    known = len(plans._early)
    long = [plans.early(exchange_of("x" * 300)) for _ in range(2)]
    assert long[0].charges == long[1].charges
    assert len(plans._early) == known


def test_the_plan_of_a_caller_whose_limits_change_changes_too() -> None:
    plans = Plans([REQUESTS], None)
    before, after = (Principal(id="ann", limits=(Limit("requests", amount),)) for amount in (7, 8))
    found = [plans.early(exchange_of(ann)).charges[0].limit.amount for ann in (before, after, before)]
    assert found == [7, 8, 7]


def test_what_depends_on_the_model_is_found_with_the_body() -> None:
    limits = [REQUESTS, Limit("tokens", 5), Limit("requests", 5, models=("m",)), Limit("requests", 5, models=("n",))]
    plans, exchange = Plans(limits, None), exchange_of()
    early = plans.early(exchange)
    assert ([charge.limit for charge in early.charges], early.is_complete) == (limits[:1], False)
    asyncio.run(exchange.request(Receiving(*chunks(BODY))))
    full = plans.full(exchange, early)
    assert ([charge.limit for charge in full.charges], full.is_complete) == (limits[:3], True)
    assert plans.full(exchange, early) is full


def test_a_function_is_called_for_every_request() -> None:
    calls: list[str] = []

    def count(_exchange: Exchange) -> str:
        calls.append("")
        return str(len(calls))

    plans, exchange = Plans([Limit("requests", 5, per=count)], None), exchange_of()
    early = plans.early(exchange)
    assert [plans.full(exchange, early).charges[0].key for _ in range(3)] == ["messages:1", "messages:2", "messages:3"]
