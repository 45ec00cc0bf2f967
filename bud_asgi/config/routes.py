"""Reading of the routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from bud_asgi.attempt import Target
from bud_asgi.config.durations import in_seconds, read_timeouts
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import Problems, render
from bud_asgi.config.reading import TableReader, as_table
from bud_asgi.config.tables import RouteConfig, TargetConfig
from bud_asgi.options import duplicates, nearest, one_of, shown
from bud_asgi.routing import Route
from bud_asgi.routing.conditions import UNCONDITIONAL

_CONDITIONS = frozenset({"principals", "teams", "features", "headers", "min_bytes", "max_bytes"})


def read_routes(reader: TableReader, tables: Sequence[object], known: Mapping[str, object]) -> tuple[Route, ...]:
    """Read the list of routes; those with problems, which are noted, are left out. `known` are the providers."""
    routes = [_read_route(reader, table, ("routes", index), known) for index, table in enumerate(tables)]
    identities = (_identity(route, as_table(table) or {}) for route, table in zip(routes, tables, strict=True))
    for index, first in duplicates(identities):
        same = f"duplicate model, already used by {render(('routes', first))}"
        is_conditional = not _CONDITIONS.isdisjoint(as_table(tables[index]) or {})
        more = " with the same conditions" if is_conditional else ""
        reader.problems.add(("routes", index, "model"), same + more)
    return tuple(filter(None, routes))


def _identity(route: Route | None, table: Mapping[str, object]) -> object:
    """What no two routes may have in common. It is known of a route with problems too, if it has no conditions."""
    if route is not None:
        return route.model, route.conditions
    is_known = isinstance(table.get("model"), str) and _CONDITIONS.isdisjoint(table)
    return (table["model"], UNCONDITIONAL) if is_known else object()


def _read_route(reader: TableReader, table: object, path: KeyPath, known: Mapping[str, object]) -> Route | None:
    read = reader.read(RouteConfig, table, path)
    if read is None:
        return None
    if (to := _as_list(read.get("to"))) is not None:
        read["to"] = [_read_item(reader, item, (*path, "to", index), known) for index, item in enumerate(to)]
    return reader.make(RouteConfig, _route, read, path, {"model": "*", "to": ["provider"]})


def _route(**options: Any) -> Route:
    if "hedge" in options:
        options["hedge"] = in_seconds("hedge", options["hedge"])
    return Route(**options)


def _read_item(reader: TableReader, item: object, path: KeyPath, known: Mapping[str, object]) -> object:
    """A target, or a group of them, in the form that `Route` takes; what is neither is left for `Route` to refuse."""
    group = _as_list(item)
    if group is None:
        return _read_target(reader, item, path, known)
    return [_read_target(reader, target, (*path, index), known) for index, target in enumerate(group)]


def _read_target(reader: TableReader, target: object, path: KeyPath, known: Mapping[str, object]) -> object:
    if isinstance(target, str):
        _check_provider(reader.problems, target, path, known)
    if as_table(target) is None:
        return target
    read = reader.read(TargetConfig, target, path) or {}
    if "provider" in read:
        _check_provider(reader.problems, read["provider"], (*path, "provider"), known)
    if "timeouts" in read:
        read["timeouts"] = read_timeouts(reader, read["timeouts"], (*path, "timeouts"))
    return reader.make(TargetConfig, Target, read, path, {"provider": "provider"}) or "provider"


def _as_list(value: object) -> list[object] | None:
    return cast("list[object]", value) if isinstance(value, list) else None


def _check_provider(problems: Problems, name: str, path: KeyPath, known: Mapping[str, object]) -> None:
    if name and known and name not in known:
        problems.add(path, f"unknown provider {shown(name)}{nearest(name, known)}; expected {one_of(known)}")
