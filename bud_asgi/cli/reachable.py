"""The routes of a configuration in words, and those that no request can reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bud_asgi.config import Settings
from bud_asgi.exchange import Principal
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.routing import Route, unreachable

ANONYMOUS = Principal(id="anonymous")
"""The caller of a configuration without keys."""


def routes_of(settings: Settings) -> Sequence[Route]:
    """The routes of a configuration; without any, every model goes to its one provider."""
    return settings.routes or [Route("*", to=[provider.name for provider in settings.providers])]


def callers_of(settings: Settings) -> Sequence[Principal]:
    """The callers that a configuration admits."""
    return [key.principal for key in settings.keys] or [ANONYMOUS]


def conditions_in_words(route: Route) -> str:
    """The conditions of a route, such as `teams ops, web-*; at most 1000 bytes`; empty if there are none."""
    patterns = {"principals": route.principals, "teams": route.teams, "features": route.features}
    parts = [f"{name} {', '.join(texts)}" for name, texts in patterns.items() if texts != ("*",)]
    parts += [f"{name}: {pattern}" for name, pattern in route.headers.items()]
    if route.min_bytes is not None:
        parts.append(f"at least {route.min_bytes} bytes")
    if route.max_bytes is not None:
        parts.append(f"at most {route.max_bytes} bytes")
    return "; ".join(parts)


def never_used(settings: Settings) -> Iterator[tuple[int, str]]:
    """Yield the index of each route that no request can reach, and why."""
    routes = routes_of(settings)
    hidden = dict(unreachable(routes))
    for index, route in enumerate(routes):
        if index in hidden:
            yield index, f"routes[{hidden[index]}] serves all its requests first"
        elif (reason := _unmet_by_all(settings, route)) is not None:
            yield index, reason


def _unmet_by_all(settings: Settings, route: Route) -> str | None:
    callers = callers_of(settings)
    if not any(matches_any(tuple(route.principals), caller.id) for caller in callers):
        return "no caller matches its principals"
    if all(route.conditions.unmet_by(caller) for caller in callers):
        return "no caller matches its teams"
    if route.min_bytes is not None and route.min_bytes > settings.max_body:
        return f"its min_bytes is more than max_body ({settings.max_body})"
    return None
