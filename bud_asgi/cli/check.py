"""What a configuration would serve, as plain tables without secrets, and warnings about it."""

from __future__ import annotations

from collections.abc import Iterator

from bud_asgi.auth import Grant
from bud_asgi.cli.reachable import conditions_in_words, has_other_callers, never_used, routes_of
from bud_asgi.cli.tables import applies_to, table
from bud_asgi.config import Settings, permission_warnings
from bud_asgi.limit import limit_words
from bud_asgi.options import url_shown
from bud_asgi.protocol.patterns import matches_any

CLAUDE_CODE_MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2")
"""The models that Claude Code requests on its own, also for background tasks (release 2.1.331)."""

_AS_REQUESTED = "(as requested)"


def show_settings(settings: Settings) -> str:
    """Return tables: models with their targets, keys with their models, limits with their store, fields if any."""
    keys = [(key.name, key.team or "-", ", ".join(key.models)) for key in settings.keys]
    limits = [(limit_words(limit), applies_to(limit)) for limit in settings.limits]
    limits += [
        (limit_words(limit), applies_to(limit, f"key {key.name}")) for key in settings.keys for limit in key.limits
    ]
    limits += [
        (limit_words(limit), applies_to(limit, f"role {grant.role}"))
        for issuer in settings.issuers
        for grant in issuer.grants
        for limit in grant.limits
    ]
    return "\n\n".join(
        [
            f"{settings.source} is valid. It serves:",
            _routes_table(settings),
            *([table(("KEY", "TEAM", "MODELS"), keys)] if keys else []),
            *([f"Keys are looked up in {settings.key_store!r}."] if settings.key_store else []),
            *([table(("ISSUER", "AUDIENCE", "ROLE", "MODELS"), list(_issuers(settings)))] if settings.issuers else []),
            *([] if keys or has_other_callers(settings) else ["No keys: everyone is admitted."]),
            table(("LIMIT", "FOR"), limits) if limits else "No limits.",
            *([f"Limits are counted by {settings.store!r}."] if settings.store else []),
            *([table(("FIELD", "ACTION"), list(settings.fields.items()))] if settings.fields else []),
        ]
    )


def warnings_of(settings: Settings) -> Iterator[str]:
    """Yield a warning for what is valid but dangerous, or probably not intended."""
    yield from permission_warnings(settings.source)
    models = tuple(route.model for route in routes_of(settings))
    if missing := [name for name in CLAUDE_CODE_MODELS if not matches_any(models, name)]:
        yield f"no route serves {', '.join(missing)}, which Claude Code also requests in the background"
    for index, reason in never_used(settings):
        yield f"routes[{index}] is never used: {reason}"


def _issuers(settings: Settings) -> Iterator[tuple[str, ...]]:
    """A row for each role of an issuer, or one for all of its callers."""
    for issuer in settings.issuers:
        first = (url_shown(issuer.url), ", ".join(issuer.audience))
        for grant in issuer.grants or (Grant(role="(all)"),):
            yield (*first, grant.role, ", ".join(grant.models))
            first = ("", "")


def _routes_table(settings: Settings) -> str:
    """Conditions, groups and weights are columns only where there are any."""
    url = {provider.name: url_shown(provider.base_url) for provider in settings.providers}
    head = ("MODEL", "CONDITIONS", "GROUP", "PROVIDER", "WEIGHT", "UPSTREAM MODEL", "ADDRESS")
    rows: list[tuple[str, ...]] = []
    for route in routes_of(settings):
        first = (route.model, conditions_in_words(route))
        for number, group in enumerate(route.groups, 1):
            for target in group:
                shared = (
                    (str(number), target.provider, str(target.weight or 1))
                    if route.balance
                    else ("", target.provider, "")
                )
                rows.append((*first, *shared, target.model or _AS_REQUESTED, url[target.provider]))
                first = ("", "")
    used = [name for name, cells in zip(head, zip(*rows, strict=True), strict=True) if any(cells)]
    kept = [tuple(cell for name, cell in zip(head, row, strict=True) if name in used) for row in rows]
    return table(tuple(used), kept)
