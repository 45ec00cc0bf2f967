"""The models that a principal is offered: from routes, the upstreams' lists and the catalogue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.catalogue import current_models, served_at
from bud_asgi.exchange import Offer, Principal
from bud_asgi.models.offered import find, offered
from bud_asgi.models.upstream_lists import ModelsByProvider
from bud_asgi.protocol.errors import ModelNotAllowed, NotFound
from bud_asgi.protocol.models_api import EPOCH, Model, read_listing
from bud_asgi.protocol.patterns import matches
from bud_asgi.providers import Anthropic, Provider
from bud_asgi.routing import Route, RouteTable


class Known(Anthropic):
    """A provider at another address whose models are in the catalogue."""

    @property
    def models(self) -> Sequence[str]:
        return served_at("anthropic")


NOWHERE = "http://127.0.0.1:1"
PROVIDERS = {
    "some": Anthropic(api_key="k", base_url=NOWHERE, name="some"),
    "other": Anthropic(api_key="k", base_url=NOWHERE, name="other"),
    "known": Known(api_key="k", base_url=NOWHERE, name="known"),
}


def listed(upstream: str, *ids: str, created: str = "2026-01-01T00:00:00Z") -> dict[str, Model]:
    """The list of an upstream; the display names contain its name."""
    entries = [{"id": name, "display_name": f"{name} by {upstream}", "created_at": created} for name in ids]
    return {model.id: model for model in read_listing(json.dumps({"data": entries}).encode()) or []}


LISTS = {"some": listed("some", "claude-a", "claude-b", "x"), "other": listed("other", "claude-b", "claude-c")}


def offered_to(
    offers: Sequence[Offer], lists: ModelsByProvider, providers: Mapping[str, Provider], principal: Principal
) -> list[Model]:
    return asyncio.run(offered(offers, lists, providers, principal))


def names(routes: Sequence[Route], *models: str, lists: ModelsByProvider = LISTS) -> list[str]:
    """The names offered to a principal that may use these models; all models by default."""
    principal = Principal(id="p", models=models or ("*",))
    return [model.id for model in offered_to(RouteTable(routes).offers(principal), lists, PROVIDERS, principal)]


ONE = [Route("*", to=["some"])]
NAMES: dict[str, tuple[list[Route], tuple[str, ...], list[str]]] = {
    "all that an upstream has": (ONE, (), ["claude-a", "claude-b", "x"]),
    "those that match a pattern": ([Route("claude-*", to=["some"])], (), ["claude-a", "claude-b"]),
    "the names of a key, known or not": (ONE, ("claude-a", "y"), ["claude-a", "y"]),
    "those that match a key's pattern": (ONE, ("claude-*",), ["claude-a", "claude-b"]),
    "none that the key may not use": (ONE, ("gpt-*",), []),
    "those of several targets, once each": (
        [Route("claude-*", to=["other", "some"])],
        (),
        ["claude-b", "claude-c", "claude-a"],
    ),
    "an exact name that no list contains": ([Route("house", to=["other"])], (), ["house"]),
    "no exact name that the key may not use": ([Route("house", to=["other"])], ("claude-*",), []),
    "exact names before patterns": ([*ONE, Route("claude-b", to=["other"])], (), ["claude-b", "claude-a", "x"]),
    "none that an earlier pattern routes elsewhere": (
        [Route("claude-*", to=["other"]), *ONE],
        (),
        ["claude-b", "claude-c", "x"],
    ),
    "nothing of a pattern behind one that matches everything": (
        [*ONE, Route("claude-*", to=["other"])],
        (),
        ["claude-a", "claude-b", "x"],
    ),
    "a key's name that matches a pattern": ([Route("house-*", to=["some"])], ("house-1", "gpt"), ["house-1"]),
    "nothing without routes": ([], (), []),
}


@pytest.mark.parametrize(("routes", "models", "expected"), NAMES.values(), ids=NAMES.keys())
def test_a_principal_is_offered(routes: list[Route], models: tuple[str, ...], expected: list[str]) -> None:
    assert names(routes, *models) == expected


def test_the_catalogue_stands_in_for_a_missing_list() -> None:
    assert names([Route("*", to=["known", "some"])], lists={}) == list(served_at("anthropic"))
    assert names([Route("*", to=["some"])], lists={}) == []


def test_a_list_replaces_the_catalogue() -> None:
    assert names([Route("*", to=["known"])], lists={"known": listed("known", "claude-z")}) == ["claude-z"]
    assert names([Route("*", to=["known"])], lists={"known": {}}) == []


def test_a_pattern_with_a_fixed_upstream_model_offers_the_names_of_the_catalogue() -> None:
    haiku = [model.id for model in current_models() if model.line == "haiku"]
    assert names([Route("claude-haiku-*", to=[Target("some", "gpt-oss")])]) == haiku


def shown(routes: Sequence[Route], name: str, lists: ModelsByProvider = LISTS) -> Any:
    """The object of a model that is offered."""
    anyone = Principal(id="p")
    found = find(offered_to(RouteTable(routes).offers(anyone), lists, PROVIDERS, anyone), name)
    assert found is not None
    return json.loads(msgspec.json.encode(found.render()))


SHOWN: dict[str, tuple[list[Route], str, str]] = {
    "from the upstream that serves it": (ONE, "claude-b", "claude-b by some"),
    "from the first target that lists it": ([Route("claude-*", to=["some", "other"])], "claude-c", "claude-c by other"),
    "from the upstream, for a name of our own": (
        [Route("house", to=[Target("other", "claude-c")])],
        "house",
        "claude-c by other",
    ),
    "from the upstream of its route, not of another": (
        [Route("claude-b", to=["other"]), *ONE],
        "claude-b",
        "claude-b by other",
    ),
    "from the catalogue": ([Route("claude-haiku-4-5", to=["some"])], "claude-haiku-4-5", "Claude Haiku 4.5"),
    "from the catalogue, for a name of our own": (
        [Route("h", to=[Target("some", "claude-opus-5")])],
        "h",
        "Claude Opus 5",
    ),
    "from nowhere": ([Route("house", to=["some"])], "house", "house"),
}


@pytest.mark.parametrize(("routes", "name", "display_name"), SHOWN.values(), ids=SHOWN.keys())
def test_the_fields_of_a_model_come(routes: list[Route], name: str, display_name: str) -> None:
    model = shown(routes, name)
    assert (model["id"], model["type"], model["display_name"]) == (name, "model", display_name)


def test_an_alias_has_the_fields_of_its_dated_model() -> None:
    lists = {"some": listed("some", "claude-haiku-4-5-20251001")}
    assert shown([Route("claude-haiku-4-5", to=["some"])], "claude-haiku-4-5", lists) == {
        "type": "model",
        "id": "claude-haiku-4-5",
        "display_name": "claude-haiku-4-5-20251001 by some",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }


def test_the_newest_come_first_and_models_of_one_day_keep_the_upstream_s_order() -> None:
    lists = {
        "some": listed("some", "old-2", "old-1", created="2024-05-01T00:00:00Z"),
        "other": listed("other", "new-2", "new-1", created="2026-05-01T00:00:00Z"),
    }
    routes = [Route("undated", to=["some"]), Route("*", to=["some", "other"])]
    assert names(routes, lists=lists) == ["new-2", "new-1", "old-2", "old-1", "undated"]


def test_a_model_is_found_by_its_id_or_its_alias() -> None:
    models = [Model("claude-haiku-4-5-20251001"), Model("claude-opus-4-5"), Model("x")]
    for name, expected in {
        "x": "x",
        "claude-haiku-4-5-20251001": "claude-haiku-4-5-20251001",
        "claude-haiku-4-5": "claude-haiku-4-5-20251001",
        "claude-opus-4-5": "claude-opus-4-5",
        "claude-opus-4-5-20251101": None,  # only its alias is offered
        "claude-opus-5": None,
        "y": None,
    }.items():
        model = find(models, name)
        assert (model.id if model else None) == expected


_patterns = st.sampled_from(["*", "a*", "*b", "a", "b", "ab", "a*b", "abb"])
_ids = st.lists(st.text("ab", min_size=1, max_size=3), max_size=6)


@pytest.mark.torture
@examples(40)
@given(
    routes=st.lists(st.tuples(_patterns, st.sampled_from(["some", "other"])), max_size=4, unique_by=lambda one: one[0]),
    ids=st.tuples(_ids, _ids),
    models=st.lists(_patterns, min_size=1, max_size=2).map(tuple),
)
def test_every_model_on_offer_resolves_to_the_upstream_that_listed_it(
    routes: list[tuple[str, str]], ids: tuple[list[str], list[str]], models: tuple[str, ...]
) -> None:
    """The list and the router agree: a listed name resolves to the upstream whose fields it has, and no other does."""
    table = RouteTable([Route(model, to=[provider]) for model, provider in routes])
    lists = {"some": listed("some", *ids[0]), "other": listed("other", *ids[1])}
    principal = Principal(id="p", models=models)
    offers = offered_to(table.offers(principal), lists, PROVIDERS, principal)
    for model in offers:
        (target,) = table.resolve(model.id, principal).targets
        assert dict(model.fields) == dict(lists[target.provider].get(model.id, Model("")).fields)
    for name in {*ids[0], *ids[1]} - {model.id for model in offers}:
        try:
            (target,) = table.resolve(name, principal).targets
        except (NotFound, ModelNotAllowed):
            continue
        assert name not in lists[target.provider]


def offered_naively(offers: Sequence[Offer], lists: ModelsByProvider, principal: Principal) -> list[str]:
    """The ids on offer, by trying every offer for every name."""
    found: list[str] = []
    for offer in offers:
        candidates = [offer.model]
        if "*" in offer.model:
            candidates = [name for target in offer.targets for name in lists[target.provider]]
            candidates += [name for name in principal.models if "*" not in name]
        for name in candidates:
            first = next((other for other in offers if matches(other.model, name)), None)
            if name not in found and principal.may_use(name) and first is offer:
                found.append(name)
    return found


_targets = st.lists(st.sampled_from([Target("some"), Target("other")]), min_size=1, max_size=2, unique=True)


@pytest.mark.torture
@examples(40)
@given(
    offers=st.lists(st.builds(Offer, _patterns, _targets.map(tuple)), max_size=5),
    ids=st.tuples(_ids, _ids),
    models=st.lists(_patterns, min_size=1, max_size=3).map(tuple),
)
def test_offers_in_any_order_give_what_trying_each_of_them_gives(
    offers: list[Offer], ids: tuple[list[str], list[str]], models: tuple[str, ...]
) -> None:
    lists = {"some": listed("some", *ids[0], created=EPOCH), "other": listed("other", *ids[1], created=EPOCH)}
    principal = Principal(id="p", models=models)
    found = [model.id for model in offered_to(offers, lists, PROVIDERS, principal)]
    assert found == offered_naively(offers, lists, principal)


def test_a_thousand_routes_and_models_are_listed_within_a_second() -> None:
    """Generous: it takes some 20 ms. Trying each route for each model of each route would take minutes."""
    models = [f"team-{number}-model" for number in range(1_100)]
    routes = [Route(f"team-{number}-*", to=["some"]) for number in range(1_100)]
    anyone = Principal(id="p")
    lists = {"some": listed("some", *models)}
    began = time.process_time()
    found = offered_to(RouteTable(routes).offers(anyone), lists, PROVIDERS, anyone)
    assert [model.id for model in found] == models
    assert time.process_time() - began < 1.0


async def test_other_tasks_run_while_a_long_list_is_resolved() -> None:
    """Patterns that begin with `*` have to be tried one by one for each name, for the first list."""
    models = [f"claude-m{number}" for number in range(400)]
    offers = [Offer(f"*m{number}-*-*", (Target("some"),)) for number in range(1_100)] + [Offer("*", (Target("some"),))]
    anyone = Principal(id="p")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(count_turns())
    found = await offered(offers, {"some": listed("some", *models)}, PROVIDERS, anyone)
    other.cancel()
    assert [model.id for model in found] == models
    assert turns > 3
