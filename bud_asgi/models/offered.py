"""The models that a principal can choose from: the routes, resolved against the known model lists."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from msgspec import Raw

from bud_asgi.attempt import Target
from bud_asgi.catalogue import current_models, known_model
from bud_asgi.exchange import Offer, Principal
from bud_asgi.models.upstream_lists import ModelsByProvider
from bud_asgi.protocol.models_api import Model
from bud_asgi.protocol.patterns import PatternIndex, base_name
from bud_asgi.providers import Provider

_MAX_HOLD = 0.005
"""Seconds after which other tasks of the event loop have a turn."""

_Positions = Mapping[str, int]
"""Model names with their positions in a list."""

_Source = str | None
"""Where the names behind a target come from: a provider, or `None` (the catalogue) for a fixed upstream model."""


async def offered(
    offers: Sequence[Offer], lists: ModelsByProvider, providers: Mapping[str, Provider], principal: Principal
) -> list[Model]:
    """List the models that a principal can choose from, newest first.

    An exact name is listed as it is. A pattern is listed as the names that match it, out of those that its targets
    are known to serve and those in `principal.models`; a name belongs to the first offer that it matches, as in
    routing. Each distinct name is resolved once. With many routes and names other tasks run in between.
    """
    index = _index(tuple(offer.model for offer in offers))
    sources = _sources(offers, lists, providers)
    own_names = _positions(name for name in principal.models if "*" not in name)
    names = dict.fromkeys(
        chain((offer.model for offer in offers if "*" not in offer.model), *sources.values(), own_names)
    )
    found: list[tuple[tuple[int, int, int], Model]] = []
    began = time.monotonic()
    for name in names:
        if time.monotonic() - began > _MAX_HOLD:
            await asyncio.sleep(0)
            began = time.monotonic()
        first = index.first(name) if principal.may_use(name) else None
        if first is None:
            continue
        position = _position(name, offers[first], sources, own_names)
        if position is not None:
            found.append(((first, *position), Model(name, _fields(name, offers[first], lists))))
    found.sort(key=lambda entry: entry[0])
    return sorted((model for _, model in found), key=lambda model: model.created_at, reverse=True)


@lru_cache(maxsize=8)
def _index(models: tuple[str, ...]) -> PatternIndex:
    return PatternIndex(models)


def find(models: Sequence[Model], name: str) -> Model | None:
    """Find a model by its id or by the alias of its id, with or without a context window (`[1m]`)."""
    base = base_name(name)
    known = known_model(base)
    by_id = {model.id: model for model in models}
    return by_id.get(name) or by_id.get(base) or (by_id.get(known.id) if known else None)


def _sources(
    offers: Sequence[Offer], lists: ModelsByProvider, providers: Mapping[str, Provider]
) -> Mapping[_Source, _Positions]:
    """The names that the targets of patterns serve, by source: each provider's list, and the catalogue."""
    used = {_source(target) for offer in offers if "*" in offer.model for target in offer.targets}
    return {source: _positions(_names(source, lists, providers)) for source in used}


def _source(target: Target) -> _Source:
    return target.provider if target.model is None else None


def _names(source: _Source, lists: ModelsByProvider, providers: Mapping[str, Provider]) -> Iterable[str]:
    if source is None:
        return (known.id for known in current_models())
    return lists[source] if source in lists else providers[source].models


def _positions(names: Iterable[str]) -> dict[str, int]:
    return {name: position for position, name in enumerate(dict.fromkeys(names))}


def _position(
    name: str, offer: Offer, sources: Mapping[_Source, _Positions], own_names: _Positions
) -> tuple[int, int] | None:
    """The position of a name among those that an offer lists: target, then place in its list; `None` if not listed."""
    if "*" not in offer.model:
        return 0, 0
    for number, target in enumerate(offer.targets):
        position = sources[_source(target)].get(name)
        if position is not None:
            return number, position
    return (len(offer.targets), own_names[name]) if name in own_names else None


def _fields(name: str, offer: Offer, lists: ModelsByProvider) -> Mapping[str, Raw]:
    """The fields of a model, from the first target whose upstream, or the catalogue, knows it."""
    for target in offer.targets:
        upstream_name = target.model or name
        known = known_model(upstream_name)
        listed = lists.get(target.provider, {})
        model = (
            listed.get(upstream_name) or (listed.get(known.id) if known else None) or (known.model if known else None)
        )
        if model is not None:
            return model.fields
    return {}
