"""What has changed between two configurations, in one line each and without secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from bud_asgi.config.problems import render
from bud_asgi.config.settings import Settings
from bud_asgi.limit import Limit, limit_id, limit_words
from bud_asgi.options import key_text, url_shown
from bud_asgi.secret import Secret

T = TypeVar("T")

_TABLES = ("store", "key_store", "throttle")
_VALUES = ("max_body", "body_budget", "body_budget_per_principal", "access_log", "route_header")


def changes_between(former: Settings, new: Settings) -> Sequence[str]:
    """Describe each change from one configuration to another. A secret is only named."""
    return [
        *_providers(former, new),
        *(line for name in _TABLES for line in _table(former.tables.get((name,)), new.tables.get((name,)), name)),
        *_named("key", former.keys, new.keys, lambda key: key.name),
        *([] if is_same(former.key_pepper, new.key_pepper) else ["key_pepper changed"]),
        *_named("issuer", former.issuers, new.issuers, lambda issuer: url_shown(issuer.url)),
        *_routes(former, new),
        *_limits(former.limits, new.limits),
        *_named("field", former.fields.items(), new.fields.items(), lambda item: item[0]),
        *_values(former, new),
    ]


def is_same(one: object, other: object) -> bool:
    """Whether two values of tables are equal. Secrets are, if their values are."""
    if isinstance(one, Secret) and isinstance(other, Secret):
        return one.reveal() == other.reveal()
    if isinstance(one, dict) and isinstance(other, dict):
        return not _different(cast("dict[str, object]", one), cast("dict[str, object]", other))
    if isinstance(one, list) and isinstance(other, list):
        ones, others = cast("list[object]", one), cast("list[object]", other)
        return len(ones) == len(others) and all(map(is_same, ones, others))
    return one == other


def _different(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The keys whose values are not the same, in the order of the tables."""
    keys = dict.fromkeys((*other, *one))
    return [key for key in keys if key not in one or key not in other or not is_same(one[key], other[key])]


def _table(one: Mapping[str, object] | None, other: Mapping[str, object] | None, name: str) -> Iterator[str]:
    if one is None and other is None:
        return
    if one is None:
        yield f"{name} added"
    elif other is None:
        yield f"{name} removed"
    elif keys := _different(one, other):
        yield f"{name}: {', '.join(map(key_text, keys))} changed"


def _providers(former: Settings, new: Settings) -> Iterator[str]:
    names = dict.fromkeys(provider.name for settings in (former, new) for provider in settings.providers)
    for name in names:
        path = ("providers", name)
        yield from _table(former.tables.get(path), new.tables.get(path), render(path))
    if [one.name for one in former.providers] != [one.name for one in new.providers] and _as_set(former) == _as_set(
        new
    ):
        yield "providers: the order changed"


def _as_set(settings: Settings) -> set[str]:
    return {provider.name for provider in settings.providers}


def _named(kind: str, former: Iterable[T], new: Iterable[T], name_of: Callable[[T], str]) -> Iterator[str]:
    """The changes of a list whose items have names."""
    before, after = ({name_of(item): item for item in items} for items in (former, new))
    for name in dict.fromkeys((*before, *after)):
        shown = f'{kind} "{name}"'
        if name not in after:
            yield f"{shown} removed"
        elif name not in before:
            yield f"{shown} added"
        elif before[name] != after[name]:
            yield f"{shown}{_fields(before[name], after[name])} changed"


def _fields(before: object, after: object) -> str:
    """The names of the fields of a struct that are different."""
    if not isinstance(before, msgspec.Struct):
        return ""
    names = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    return f": {', '.join(names)}" if names else ""


def _routes(former: Settings, new: Settings) -> Iterator[str]:
    before, after = list(former.routes or ()), list(new.routes or ())
    gone = [route for route in before if route not in after]
    for index, route in enumerate(after):
        if route in before:
            continue
        replaced = next((one for one in gone if one.model == route.model), None)
        if replaced is None:
            yield f'routes[{index}] "{route.model}" added'
        else:
            gone.remove(replaced)
            yield f'routes[{index}] "{route.model}"{_fields(replaced, route)} changed'
    for route in gone:
        yield f'routes[{before.index(route)}] "{route.model}" removed'
    if [one for one in before if one in after] != [one for one in after if one in before]:
        yield "routes: the order changed"


def _limits(former: Sequence[Limit], new: Sequence[Limit]) -> Iterator[str]:
    before, after = ({limit_id(limit): limit for limit in limits} for limits in (former, new))
    for key in dict.fromkeys((*before, *after)):
        if key not in after:
            yield f"limit removed: {_limit_shown(before[key])}"
        elif key not in before:
            yield f"limit added: {_limit_shown(after[key])}"
        elif before[key] != after[key]:
            yield f"limit changed: {_limit_shown(before[key])} to {_limit_shown(after[key])}"


def _limit_shown(limit: Limit) -> str:
    wait = f", waiting {limit.wait:g} s" if limit.wait else ""
    return f"{limit_words(limit)} per {limit.dimension}{wait}"


def _values(former: Settings, new: Settings) -> Iterator[str]:
    for name in _VALUES:
        before, after = getattr(former, name), getattr(new, name)
        if before != after:
            shown = "the default" if after is None else str(after).lower()
            yield f"{name} changed to {shown}"
