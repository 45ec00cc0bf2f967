"""What a principal is offered: names out of routes, what upstreams have told, and the catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.counts import examples

from bud_asgi.catalogue import catalogue, served_at
from bud_asgi.exchange import Principal, Target
from bud_asgi.models.upstream_lists import Told, find, offered
from bud_asgi.protocol.errors import ModelNotAllowed, NotFound
from bud_asgi.protocol.models_api import Model, read_listing
from bud_asgi.providers import Anthropic
from bud_asgi.routing import Route, RouteTable


class Known(Anthropic):
    """A server at another address that is known to serve what Anthropic's own does."""

    @property
    def models(self) -> Sequence[str]:
        return served_at("anthropic")


NOWHERE = "http://127.0.0.1:1"
PROVIDERS = {
    "some": Anthropic(api_key="k", base_url=NOWHERE, name="some"),
    "other": Anthropic(api_key="k", base_url=NOWHERE, name="other"),
    "known": Known(api_key="k", base_url=NOWHERE, name="known"),
}


def listed(by: str, *ids: str, created: str = "2026-01-01T00:00:00Z") -> dict[str, Model]:
    """What an upstream has told; each model says by whom."""
    entries = [{"id": name, "display_name": f"{name} by {by}", "created_at": created} for name in ids]
    return {model.id: model for model in read_listing(json.dumps({"data": entries}).encode()) or []}


TOLD = {"some": listed("some", "claude-a", "claude-b", "x"), "other": listed("other", "claude-b", "claude-c")}


def names(routes: Sequence[Route], *models: str, told: Told = TOLD) -> list[str]:
    """What somebody is offered who may use these models; everything without."""
    principal = Principal(id="p", models=models or ("*",))
    return [model.id for model in offered(RouteTable(routes).offers(principal), told, PROVIDERS, principal)]


ONE = [Route("*", to=["some"])]
NAMES: dict[str, tuple[list[Route], tuple[str, ...], list[str]]] = {
    "all that an upstream has": (ONE, (), ["claude-a", "claude-b", "x"]),
    "those that a pattern meets": ([Route("claude-*", to=["some"])], (), ["claude-a", "claude-b"]),
    "those of a key, known or not": (ONE, ("claude-a", "y"), ["claude-a", "y"]),
    "those of a key's pattern": (ONE, ("claude-*",), ["claude-a", "claude-b"]),
    "none of another's": (ONE, ("gpt-*",), []),
    "those of several targets, once each": (
        [Route("claude-*", to=["other", "some"])],
        (),
        ["claude-b", "claude-c", "claude-a"],
    ),
    "an exact name, whoever serves it": ([Route("house", to=["other"])], (), ["house"]),
    "an exact name that is not the key's": ([Route("house", to=["other"])], ("claude-*",), []),
    "exact names before patterns": ([*ONE, Route("claude-b", to=["other"])], (), ["claude-b", "claude-a", "x"]),
    "none that an earlier pattern leads elsewhere": (
        [Route("claude-*", to=["other"]), *ONE],
        (),
        ["claude-b", "claude-c", "x"],
    ),
    "none behind a pattern that meets all": (
        [*ONE, Route("claude-*", to=["other"])],
        (),
        ["claude-a", "claude-b", "x"],
    ),
    "a key's name under a pattern": ([Route("house-*", to=["some"])], ("house-1", "gpt"), ["house-1"]),
    "nothing without routes": ([], (), []),
}


@pytest.mark.parametrize(("routes", "models", "found"), NAMES.values(), ids=NAMES.keys())
def test_what_is_offered(routes: list[Route], models: tuple[str, ...], found: list[str]) -> None:
    assert names(routes, *models) == found


def test_the_catalogue_stands_in_for_a_list_that_was_not_had() -> None:
    assert names([Route("*", to=["known", "some"])], told={}) == list(served_at("anthropic"))
    assert names([Route("*", to=["some"])], told={}) == []


def test_a_list_takes_the_place_of_the_catalogue() -> None:
    assert names([Route("*", to=["known"])], told={"known": listed("known", "claude-z")}) == ["claude-z"]
    assert names([Route("*", to=["known"])], told={"known": {}}) == []


def test_a_pattern_for_one_model_offers_the_names_of_the_catalogue() -> None:
    haiku = [model.id for model in catalogue().models if model.line == "haiku"]
    assert names([Route("claude-haiku-*", to=[Target("some", "gpt-oss")])]) == haiku


def shown(routes: Sequence[Route], name: str, told: Told = TOLD) -> Any:
    """What is told of a model that is offered."""
    everybody = Principal(id="p")
    found = find(offered(RouteTable(routes).offers(everybody), told, PROVIDERS, everybody), name)
    assert found is not None
    return json.loads(msgspec.json.encode(found.render()))


SHOWN: dict[str, tuple[list[Route], str, str]] = {
    "by the upstream that serves it": (ONE, "claude-b", "claude-b by some"),
    "by the first target that knows it": ([Route("claude-*", to=["some", "other"])], "claude-c", "claude-c by other"),
    "by the upstream, of an alias of ours": (
        [Route("house", to=[Target("other", "claude-c")])],
        "house",
        "claude-c by other",
    ),
    "by the upstream of the route, not of another": (
        [Route("claude-b", to=["other"]), *ONE],
        "claude-b",
        "claude-b by other",
    ),
    "by the catalogue": ([Route("claude-haiku-4-5", to=["some"])], "claude-haiku-4-5", "Claude Haiku 4.5"),
    "by the catalogue, of an alias of ours": ([Route("h", to=[Target("some", "claude-opus-5")])], "h", "Claude Opus 5"),
    "by nobody": ([Route("house", to=["some"])], "house", "house"),
}


@pytest.mark.parametrize(("routes", "name", "words"), SHOWN.values(), ids=SHOWN.keys())
def test_who_tells_of_a_model(routes: list[Route], name: str, words: str) -> None:
    told = shown(routes, name)
    assert (told["id"], told["type"], told["display_name"]) == (name, "model", words)


def test_of_an_alias_the_dated_model_s_facts_are_told() -> None:
    told = {"some": listed("some", "claude-haiku-4-5-20251001")}
    assert shown([Route("claude-haiku-4-5", to=["some"])], "claude-haiku-4-5", told) == {
        "type": "model",
        "id": "claude-haiku-4-5",
        "display_name": "claude-haiku-4-5-20251001 by some",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }


def test_the_newest_stands_first_and_what_is_of_one_day_as_it_was_told() -> None:
    told = {
        "some": listed("some", "old-2", "old-1", created="2024-05-01T00:00:00Z"),
        "other": listed("other", "new-2", "new-1", created="2026-05-01T00:00:00Z"),
    }
    routes = [Route("undated", to=["some"]), Route("*", to=["some", "other"])]
    assert names(routes, told=told) == ["new-2", "new-1", "old-2", "old-1", "undated"]


def test_a_model_is_found_by_its_id_or_by_the_alias_of_it() -> None:
    models = [Model("claude-haiku-4-5-20251001"), Model("claude-opus-4-5"), Model("x")]
    for name, found in {
        "x": "x",
        "claude-haiku-4-5-20251001": "claude-haiku-4-5-20251001",
        "claude-haiku-4-5": "claude-haiku-4-5-20251001",
        "claude-opus-4-5": "claude-opus-4-5",
        "claude-opus-4-5-20251101": None,  # only its alias is offered
        "claude-opus-5": None,
        "y": None,
    }.items():
        model = find(models, name)
        assert (model.id if model else None) == found


_patterns = st.sampled_from(["*", "a*", "*b", "a", "b", "ab", "a*b", "abb"])
_ids = st.lists(st.text("ab", min_size=1, max_size=3), max_size=6)


@pytest.mark.torture
@examples(300)
@given(
    routes=st.lists(st.tuples(_patterns, st.sampled_from(["some", "other"])), max_size=4, unique_by=lambda one: one[0]),
    ids=st.tuples(_ids, _ids),
    models=st.lists(_patterns, min_size=1, max_size=2).map(tuple),
)
def test_whatever_is_offered_can_be_asked_for_where_it_was_told(
    routes: list[tuple[str, str]], ids: tuple[list[str], list[str]], models: tuple[str, ...]
) -> None:
    """The list and the router agree: what is listed resolves, to the upstream whose facts are told."""
    table = RouteTable([Route(model, to=[provider]) for model, provider in routes])
    told = {"some": listed("some", *ids[0]), "other": listed("other", *ids[1])}
    principal = Principal(id="p", models=models)
    offers = offered(table.offers(principal), told, PROVIDERS, principal)
    for model in offers:
        (target,) = table.resolve(model.id, principal).targets
        assert dict(model.facts) == dict(told[target.provider].get(model.id, Model("")).facts)
    for name in {*ids[0], *ids[1]} - {model.id for model in offers}:
        try:
            (target,) = table.resolve(name, principal).targets
        except (NotFound, ModelNotAllowed):
            continue
        assert name not in told[target.provider]
