"""Pieces of HTML. A `str` is text and is escaped; only `Html` is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Cell = str | int | float | None
"""The content of a table cell. Text is escaped, `Html` is not; `None` is an empty cell."""


class Html(str):
    """Markup that this package has made. It must contain text only in its escaped form."""

    __slots__ = ()


def text(value: Cell) -> Html:
    """The markup of a cell's content."""
    if isinstance(value, Html):
        return value
    if value is None or value == "":
        return Html("")
    if isinstance(value, str):
        return Html(escape(value))
    return Html(f"{value:,}")


def badge(word: str, kind: str) -> Html:
    """A word that stands out: `kind` is `good`, `bad` or `fair`."""
    return Html(f'<b class="{kind}">{escape(word)}</b>')


def code(value: str | None) -> Html:
    """A name, in the type of code."""
    return text(None) if not value else Html(f"<code>{escape(value)}</code>")


def joined(*parts: Cell) -> Html:
    """Contents one after the other, without those that are empty."""
    return Html(" ".join(text(part) for part in parts if part not in (None, "")))


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: Sequence[str] = ()) -> Html:
    """A table, or "None." without rows. `numbers` are the columns that are aligned to the right.

    Each cell has the name of its column, which is shown where the screen is narrow.
    """
    opens = [f'<td data-label="{escape(name)}"{" class=n" if name in numbers else ""}>' for name in columns]
    body = [
        "<tr>" + "".join([open_ + text(cell) + "</td>" for open_, cell in zip(opens, row, strict=True)]) + "</tr>"
        for row in rows
    ]
    if not body:
        return Html("<p>None.</p>")
    head = "".join([f"<th scope=col{' class=n' if name in numbers else ''}>{escape(name)}</th>" for name in columns])
    return Html(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>")


def seconds(value: float | None) -> str:
    """A duration, with two figures: `350 ms`, `1.2 s`, `3 min 20 s`, `2 d 3 h`."""
    if value is None:
        return ""
    if value < 0.9995:
        return f"{max(value, 0.0) * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {smaller_unit}"
    return f"{whole} s"
