"""What a configuration would serve, as plain tables without secrets, and warnings about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bud_asgi.config import Settings, permission_warnings
from bud_asgi.options import name_shown, url_shown
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.routing import Route

CLAUDE_CODE_MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2")
"""The models that Claude Code requests on its own, also for background tasks (release 2.1.331)."""

_AS_REQUESTED = "(as requested)"


def show_settings(settings: Settings) -> str:
    """Return tables: models with their targets, keys with their models, limits, and actions for fields if any."""
    url = {provider.name: url_shown(provider.base_url) for provider in settings.providers}
    targets = [
        ("" if place else route.model, target.provider, target.model or _AS_REQUESTED, url[target.provider])
        for route in _routes(settings)
        for place, target in enumerate(route.targets)
    ]
    keys = [(key.name, key.team or "-", ", ".join(key.models)) for key in settings.keys]
    limits = [
        (f"{limit.amount} {limit.kind} per {limit.window:g} s", "each principal" if limit.per == "principal" else "all")
        for limit in settings.limits
    ]
    return "\n\n".join(
        [
            f"{settings.source} is valid. It serves:",
            _table(("MODEL", "PROVIDER", "UPSTREAM MODEL", "ADDRESS"), targets),
            _table(("KEY", "TEAM", "MODELS"), keys) if keys else "No keys: everyone is admitted.",
            _table(("LIMIT", "FOR"), limits) if limits else "No limits.",
            *([_table(("FIELD", "ACTION"), list(settings.fields.items()))] if settings.fields else []),
        ]
    )


def warnings_of(settings: Settings) -> Iterator[str]:
    """Yield a warning for what is valid but dangerous, or probably not intended."""
    yield from permission_warnings(settings.source)
    models = tuple(route.model for route in _routes(settings))
    if missing := [name for name in CLAUDE_CODE_MODELS if not matches_any(models, name)]:
        yield f"no route serves {', '.join(missing)}, which Claude Code also requests in the background"


def _routes(settings: Settings) -> Sequence[Route]:
    return settings.routes or [Route("*", to=[provider.name for provider in settings.providers])]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    rows = [tuple(cell if "://" in cell else name_shown(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)
