"""What a configuration serves, without secrets: for `check`, its JSON, and the start of `serve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from bud_asgi.auth import Grant
from bud_asgi.cli.reachable import conditions_in_words, has_other_callers, routes_of
from bud_asgi.cli.tables import applies_to, cell_shown, table
from bud_asgi.config import Settings
from bud_asgi.limit import limit_words
from bud_asgi.options import url_shown
from bud_asgi.routing import Route

_AS_REQUESTED = "(as requested)"


class ServedTarget(msgspec.Struct, frozen=True):
    """A target of a route, and where its requests are sent.

    `model` is `None` if the client's name for it is sent. `group` and `weight` are `None` unless the route shares its
    requests among the targets of a group.
    """

    provider: str
    model: str | None
    url: str
    group: int | None = None
    weight: int | None = None


class ServedRoute(msgspec.Struct, frozen=True):
    """A model name or pattern, the conditions in words, and the targets."""

    model: str
    conditions: str
    targets: tuple[ServedTarget, ...]


class ServedKey(msgspec.Struct, frozen=True):
    """A key of the file, and the models that it may use."""

    name: str
    team: str | None
    models: tuple[str, ...]


class ServedRole(msgspec.Struct, frozen=True):
    """A role of an issuer's callers, and the models that it may use; `None` stands for all of its callers."""

    issuer: str
    audience: tuple[str, ...]
    role: str | None
    models: tuple[str, ...]


class ServedLimit(msgspec.Struct, frozen=True):
    """A limit, and for whom it counts, both in words."""

    limit: str
    applies_to: str


class Summary(msgspec.Struct, frozen=True):
    """All that a configuration serves. `key_store` and `store` are what these are, without credentials."""

    routes: tuple[ServedRoute, ...]
    keys: tuple[ServedKey, ...]
    key_store: str | None
    issuers: tuple[ServedRole, ...]
    everyone: bool
    limits: tuple[ServedLimit, ...]
    store: str | None
    fields: Mapping[str, str]


def summary_of(settings: Settings) -> Summary:
    """Summarize a configuration. Names that could be secrets are not shown."""
    url = {provider.name: url_shown(provider.base_url) for provider in settings.providers}
    keys = [ServedKey(key.name, key.team, tuple(key.models)) for key in settings.keys]
    summary = Summary(
        routes=tuple(_route(route, url) for route in routes_of(settings)),
        keys=tuple(keys),
        key_store=repr(settings.key_store) if settings.key_store else None,
        issuers=tuple(_roles(settings)),
        everyone=not (keys or has_other_callers(settings)),
        limits=tuple(_limits(settings)),
        store=repr(settings.store) if settings.store else None,
        fields=dict(settings.fields),
    )
    return msgspec.convert(_without_secrets(msgspec.to_builtins(summary)), Summary)


def show_settings(settings: Settings, width: int | None = None) -> str:
    """Return a summary as tables: models with their targets, callers with their models, limits, fields if any.

    They are made to fit a terminal of `width` columns.
    """
    summary = summary_of(settings)
    keys = [(key.name, key.team or "-", ", ".join(key.models)) for key in summary.keys]
    limits = [(one.limit, one.applies_to) for one in summary.limits]
    return "\n\n".join(
        [
            _routes_table(summary.routes, width),
            *([table(("KEY", "TEAM", "MODELS"), keys, width)] if keys else []),
            *([f"Keys are looked up in {summary.key_store}."] if summary.key_store else []),
            *([_issuers_table(summary.issuers, width)] if summary.issuers else []),
            *(["No keys: everyone is admitted."] if summary.everyone else []),
            table(("LIMIT", "FOR"), limits, width) if limits else "No limits.",
            *([f"Limits are counted by {summary.store}."] if summary.store else []),
            *([table(("FIELD", "ACTION"), list(summary.fields.items()), width)] if summary.fields else []),
        ]
    )


def _without_secrets(value: object) -> object:
    """Replace each text in JSON that could be a secret."""
    if isinstance(value, str):
        return cell_shown(value)
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in cast("Sequence[object]", value)]
    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in cast("dict[str, object]", value).items()}
    return value


def _route(route: Route, url: Mapping[str, str]) -> ServedRoute:
    targets: list[ServedTarget] = []
    for number, group in enumerate(route.groups, 1):
        for target in group:
            place = (number, target.weight or 1) if route.balance else (None, None)
            targets.append(ServedTarget(target.provider, target.model, url[target.provider], *place))
    return ServedRoute(route.model, conditions_in_words(route), tuple(targets))


def _roles(settings: Settings) -> Iterator[ServedRole]:
    for issuer in settings.issuers:
        for grant in issuer.grants or (Grant(role="(all)"),):
            role = grant.role if issuer.grants else None
            yield ServedRole(url_shown(issuer.url), tuple(issuer.audience), role, tuple(grant.models))


def _limits(settings: Settings) -> Iterator[ServedLimit]:
    grants = [grant for issuer in settings.issuers for grant in issuer.grants]
    for limit in settings.limits:
        yield ServedLimit(limit_words(limit), applies_to(limit))
    for key in settings.keys:
        for limit in key.limits:
            yield ServedLimit(limit_words(limit), applies_to(limit, f"key {key.name}"))
    for grant in grants:
        for limit in grant.limits:
            yield ServedLimit(limit_words(limit), applies_to(limit, f"role {grant.role}"))


def _issuers_table(roles: Sequence[ServedRole], width: int | None) -> str:
    """The issuer stands only beside its first role."""
    rows: list[tuple[str, ...]] = []
    before = None
    for role in roles:
        issuer = (role.issuer, ", ".join(role.audience))
        rows.append((*(issuer if issuer != before else ("", "")), role.role or "(all)", ", ".join(role.models)))
        before = issuer
    return table(("ISSUER", "AUDIENCE", "ROLE", "MODELS"), rows, width)


def _routes_table(routes: Sequence[ServedRoute], width: int | None) -> str:
    """Conditions, groups and weights are columns only where there are any."""
    head = ("MODEL", "CONDITIONS", "GROUP", "PROVIDER", "WEIGHT", "UPSTREAM MODEL", "ADDRESS")
    rows: list[tuple[str, ...]] = []
    for route in routes:
        first = (route.model, route.conditions)
        for target in route.targets:
            group, weight = ("" if number is None else str(number) for number in (target.group, target.weight))
            rows.append((*first, group, target.provider, weight, target.model or _AS_REQUESTED, target.url))
            first = ("", "")
    used = [name for name, cells in zip(head, zip(*rows, strict=True), strict=True) if any(cells)]
    kept = [tuple(cell for name, cell in zip(head, row, strict=True) if name in used) for row in rows]
    return table(tuple(used), kept, width)
