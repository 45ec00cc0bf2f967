"""Plain tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from bud_asgi.options import name_shown


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Align the cells of rows below a head. Cells that could be secrets are not shown, except for URLs."""
    rows = [tuple(cell if "://" in cell else name_shown(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)
