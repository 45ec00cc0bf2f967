"""Which targets a request is sent to: by what it needs, by the account that has its state, and by their health."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import VERSION, http_scope
from support.counts import examples

from bud_asgi import Anthropic, Bedrock, Route, RouteTable, Target, Vertex
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import Provider, traits_of
from bud_asgi.routing import Balance, Chooser, resolve
from bud_asgi.routing.fleet import ENOUGH, MAX_TARGETS

NOW = 100.0
MODEL = "claude-sonnet-4-5"
KEYS: dict[str, Any] = {"access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "x"}
MCP: dict[str, Any] = {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}]}
PINNED: dict[str, Any] = {"container": "container_1"}
"""The id of a container exists at one account."""
FILES = "files-api-2025-04-14"
"""A flag that neither cloud has."""


@pytest.fixture(scope="module")
def providers() -> dict[str, Provider]:
    made: list[Provider] = [
        *(Anthropic(name=name, api_key="k") for name in ("one", "two", "three")),
        *(Bedrock(name=name, region="us-east-1", **KEYS) for name in ("aws", "aws2")),
        Vertex(name="google", project="p", credentials=Credentials("token")),
        Anthropic(name="old", base_url="http://old.internal", drop_betas=["*"], drop_fields=["mcp_servers"]),
    ]
    return {provider.name: provider for provider in made}


def request(fields: dict[str, Any] | None = None, betas: str = "", session: str = "", model: str = MODEL) -> Exchange:
    """A request that has been read."""
    headers = {"anthropic-beta": betas, "x-session-id": session}
    exchange = Exchange.of(http_scope([VERSION, *((k.encode(), v.encode()) for k, v in headers.items() if v)]))
    exchange.principal = Principal(id="ci")
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **(fields or {})}
    exchange.read_request = decode_request(json.dumps(body).encode())
    return exchange


def chooser_of(providers: dict[str, Provider], policy: FieldPolicy | None = None) -> Chooser:
    policy = policy or FieldPolicy()
    dropped = {
        name: policy.dropped_for(traits_of(one).allowed_fields, client_pays=False) for name, one in providers.items()
    }
    return Chooser(providers, dropped, fraction=random.Random(1).random)


def arranged(chooser: Chooser, exchange: Exchange, *to: Any, balance: Balance | None = None) -> list[str]:
    """The providers in the order in which a request with that route tries them."""
    table = RouteTable([Route("*", list(to), balance)])
    resolve(table, exchange)
    assert exchange.route is not None
    targets = [target for group in table.routes[0].groups for target in group]
    return [target.provider for target in chooser.arrange(exchange, exchange.route, targets, NOW)]


def fail(chooser: Chooser, *names: str) -> None:
    """Make targets go down."""
    for name in names:
        health = chooser.fleet.health(Target(name))
        for _ in range(5):
            health.end(health.begin(NOW), NOW, "failed")


ORDERS: dict[str, tuple[dict[str, Any], str, Sequence[Any], list[str]]] = {
    "without a need": ({}, "effort-2025-11-24", ["aws", "one"], ["aws", "one"]),
    "a rejected field": (MCP, "", ["aws", "one"], ["one"]),
    "a lost flag": ({}, FILES, ["aws", "one"], ["one", "aws"]),
    "a lost flag, over all groups": ({}, FILES, ["aws", "one", "google", "two"], ["one", "two", "aws", "google"]),
    "a flag that one cloud has": ({}, "computer-use-2024-10-22", ["google", "aws"], ["aws", "google"]),
    "a flag that all lack": ({}, FILES, ["aws", "google"], ["aws", "google"]),
    "a field that all reject": (MCP, "", ["aws", "google"], ["aws", "google"]),
    "a field that some reject and one leaves out": (MCP, "", ["aws", "old"], ["old"]),
    "a field that one rejects, one leaves out and one has": (MCP, "", ["aws", "old", "one"], ["one", "old"]),
    "two needs that no target has both of": (
        {},
        f"{FILES},computer-use-2024-10-22",
        ["google", "aws"],
        ["google", "aws"],
    ),
    "one target": (MCP, "", ["aws"], ["aws"]),
}


@pytest.mark.parametrize(("fields", "betas", "to", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_targets_that_lack_what_a_request_needs_come_last(
    providers: dict[str, Provider], fields: dict[str, Any], betas: str, to: Sequence[Any], order: list[str]
) -> None:
    chooser = chooser_of(providers)
    for _ in range(2):
        assert arranged(chooser, request(fields, betas), *to) == order
    assert arranged(chooser, request(), *to) == to


def test_a_group_keeps_its_balance_without_the_targets_that_lack_something(providers: dict[str, Provider]) -> None:
    chooser = chooser_of(providers)
    group = ["aws", "one", "google", "two"]
    firsts: Counter[str] = Counter()
    for session in range(60):
        order = arranged(chooser, request({}, FILES, str(session)), group, "three")
        assert arranged(chooser, request({}, FILES, str(session)), group, "three") == order
        assert (set(order[:2]), order[2], set(order[3:])) == ({"one", "two"}, "three", {"aws", "google"})
        firsts[order[0]] += 1
    assert min(firsts["one"], firsts["two"]) > 15


def test_health_comes_before_a_lost_flag_but_not_before_a_rejection(providers: dict[str, Provider]) -> None:
    chooser = chooser_of(providers)
    fail(chooser, "one")
    assert arranged(chooser, request({}, FILES), "aws", "one", "two") == ["two", "aws", "one"]
    assert arranged(chooser, request({}, FILES), "aws", "one") == ["aws", "one"]
    assert arranged(chooser, request(MCP), "aws", "one") == ["one"]


def test_a_target_that_is_nearly_full_has_room_for_what_the_others_lack(providers: dict[str, Provider]) -> None:
    chooser = chooser_of(providers)
    limits = {b"requests-limit": b"100", b"requests-remaining": b"1", b"requests-reset": b"2026-11-30T00:00:10Z"}
    named = {b"anthropic-ratelimit-" + name: value for name, value in limits.items()}
    chooser.fleet.health(Target("one")).note_limits(NOW, named, lambda: 1_796_000_000.0 - 1e6)
    assert arranged(chooser, request(), "one", "two") == ["two", "one"]
    assert arranged(chooser, request({}, FILES), "one", "aws") == ["one", "aws"]


def test_a_field_that_the_operator_s_policy_leaves_out_is_not_needed(providers: dict[str, Provider]) -> None:
    policy = FieldPolicy({"mcp_servers": "drop"})
    assert arranged(chooser_of(providers, policy), request(MCP), "aws", "one") == ["aws", "one"]
    profile = request({"billing_policy": {"a": 1}})
    assert arranged(chooser_of(providers), profile, "aws", "one") == ["aws", "one"]


def test_a_model_that_a_provider_does_not_know_is_left_to_the_attempt(providers: dict[str, Provider]) -> None:
    unknown = Target("aws", "not a model")
    assert arranged(chooser_of(providers), request({}, FILES), unknown, "one") == ["aws", "one"]


def test_what_is_remembered_is_bounded(providers: dict[str, Provider]) -> None:
    chooser, table = chooser_of(providers), RouteTable([Route("*", [["aws", "one"], ["google", "two"]])])
    for number in range(700):
        exchange = request({}, f"{FILES},flag-{number}", model=f"m{number}" * (1 + 30 * (number % 2)))
        resolve(table, exchange)
        order = chooser.arrange(exchange, exchange.route, table.routes[0].targets, NOW)
        assert [target.provider for target in order] == ["one", "two", "aws", "google"]
    assert len(chooser.losses._remembered) <= 256


def test_the_health_of_a_target_is_seen_after_it_was_forgotten(providers: dict[str, Provider]) -> None:
    chooser, table = chooser_of(providers), RouteTable([Route("*", [["one", "two"]])])
    exchange = request(session="s")
    resolve(table, exchange)

    def order() -> list[str]:
        return [one.provider for one in chooser.arrange(exchange, exchange.route, table.routes[0].targets, NOW)]

    first, other = order()
    for number in range(MAX_TARGETS):
        chooser.fleet.health(Target("three", str(number)))
    fail(chooser, first)
    assert order() == [other, first]


def test_the_targets_of_a_router_of_the_host_s_own_keep_their_order_otherwise(providers: dict[str, Provider]) -> None:
    chooser, targets = chooser_of(providers), [Target(name) for name in ("aws", "one", "google", "two")]
    order = chooser.arrange(request({}, FILES), None, targets, NOW)
    assert [target.provider for target in order] == ["one", "two", "aws", "google"]
    assert chooser.arrange(request(PINNED), None, targets, NOW) == [targets[1], targets[3]]


def test_state_of_one_account_is_sent_where_its_conversation_is_at_home(providers: dict[str, Provider]) -> None:
    homes: Counter[str] = Counter()
    for session in range(60):
        chooser = chooser_of(providers)
        first = arranged(chooser, request(session=str(session)), ["one", "two", "three"])[0]
        assert arranged(chooser, request(PINNED, session=str(session)), ["one", "two", "three"], "aws") == [first]
        fail(chooser, first)
        assert arranged(chooser, request(PINNED, session=str(session)), ["one", "two", "three"]) == [first]
        homes[first] += 1
    assert len(homes) == 3


def test_load_does_not_move_state_of_one_account(providers: dict[str, Provider]) -> None:
    chooser = chooser_of(providers)
    (home,) = arranged(chooser, request(PINNED, session="s"), ["one", "two"])
    for _ in range(20):
        chooser.fleet.health(Target(home)).begin(NOW)
    assert arranged(chooser, request(session="s"), ["one", "two"])[0] != home
    assert arranged(chooser, request(PINNED, session="s"), ["one", "two"]) == [home]


FIRST: dict[str, tuple[dict[str, Any], Sequence[Any], Balance | None, list[str]]] = {
    "one target in each group": (PINNED, ["two", "one"], None, ["two"]),
    "no affinity": (PINNED, [["two", "one"]], "least_busy", ["two"]),
    "no conversation": (PINNED, [["two", "one"], "three"], None, ["two"]),
    "two models of a provider": (PINNED, ["two", "one", Target("two", "m")], None, ["two", "two"]),
    "a first target that rejects the field": (PINNED, ["aws", "two", "one"], None, ["two"]),
}


@pytest.mark.parametrize(("fields", "to", "balance", "order"), FIRST.values(), ids=FIRST.keys())
def test_without_affinity_state_of_one_account_is_sent_to_the_first_provider(
    providers: dict[str, Provider], fields: dict[str, Any], to: Sequence[Any], balance: Balance | None, order: list[str]
) -> None:
    assert arranged(chooser_of(providers), request(fields), *to, balance=balance) == order


_names = st.sampled_from(["one", "two", "aws", "aws2", "google", "old"])
_to = st.lists(st.lists(_names, min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda groups: [[Target(name, f"m{n}-{k}") for k, name in enumerate(group)] for n, group in enumerate(groups)]
)


@given(_to, st.sampled_from([{}, MCP, {"container": {"skills": []}}]), st.sampled_from(["", FILES, "context-1m-2"]))
@examples(60, 2_000)
def test_no_target_that_serves_a_request_is_forgotten_and_none_is_tried_twice(
    providers: dict[str, Provider], to: list[list[Target]], fields: dict[str, Any], betas: str
) -> None:
    chooser, exchange = chooser_of(providers), request(fields, betas)
    table = RouteTable([Route("*", to)])
    resolve(table, exchange)
    targets = table.routes[0].targets
    order = chooser.arrange(exchange, exchange.route, targets, NOW)
    losses = {target: chooser.losses.at(exchange, target) for target in targets}
    served = [target for target in targets if not losses[target].rejected] or list(targets)
    first = [target for target in served if not losses[target].dropped] or served
    number = ENOUGH if len(first) >= ENOUGH else len(first) + min(len(served) - len(first), ENOUGH)
    assert len(order) == len(set(order)) == number
    assert set(order) <= set(served)
    lossy = [bool(losses[target].dropped) for target in order]
    assert lossy == sorted(lossy)
