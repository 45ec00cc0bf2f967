"""Plain tables for people, and what a limit applies to in words."""

from __future__ import annotations

from collections.abc import Sequence

from bud_asgi.limit import Limit
from bud_asgi.options import name_shown

_FOR = {"principal": "each principal", "team": "each team", "model": "each model"}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Align the cells of rows below a head. Cells that could be secrets are not shown, except for URLs."""
    rows = [tuple(cell if "://" in cell else name_shown(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def applies_to(limit: Limit, holder: str | None = None) -> str:
    """For whom a limit counts, and with which options; `holder` is what carries it, such as `key ci`."""
    parts = [_FOR.get(limit.dimension, limit.dimension) if holder is None else holder]
    patterns = {"models": limit.models, "teams": limit.teams, "principals": limit.principals}
    parts += [f"{name} {', '.join(texts)}" for name, texts in patterns.items() if texts != ("*",)]
    if limit.observed:
        parts.append("observed")
    if limit.wait:
        parts.append(f"waits up to {limit.wait:g} s")
    if limit.cache_reads:
        parts.append("with cache reads")
    return "; ".join(parts)
