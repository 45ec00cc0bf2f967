"""Plain tables for people, and what a limit applies to in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from bud_asgi.limit import Limit
from bud_asgi.options import name_shown

_FOR = {"principal": "each principal", "team": "each team", "model": "each model"}
_GAP = "  "
_INDENT = "    "
_NARROWEST = 12


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int | None = None) -> str:
    """Align the cells of rows below a head. Cells that could be secrets are not shown, except for URLs.

    On a terminal of `width` columns, long cells take several lines. URLs stay whole: where those of the last column do
    not fit, they stand below their rows.
    """
    shown = [head, *(tuple(map(cell_shown, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    below = width is not None and _total(widths) >= width and any("://" in row[-1] for row in shown)
    if below:
        widths.pop()
    widths = _fitted(widths, width)
    lines: list[str] = []
    for row in shown:
        lines += _lines(row[: len(widths)], widths)
        if below:
            lines.append(f"{_INDENT}{row[-1]}")
    return "\n".join(line.rstrip() for line in lines)


def cell_shown(text: str) -> str:
    """A text of the configuration as it may be shown."""
    return text if "://" in text else name_shown(text)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(widths: Sequence[int], width: int | None) -> list[int]:
    """Take from the widest column until the table fits, but leave each at least a dozen characters."""
    fitted = list(widths)
    while width is not None and _total(fitted) >= width and max(fitted) > _NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _lines(row: tuple[str, ...], widths: Sequence[int]) -> Sequence[str]:
    cells = [
        textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]
        for cell, width in zip(row, widths, strict=True)
    ]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True))
        for parts in zip_longest(*cells, fillvalue="")
    ]


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
