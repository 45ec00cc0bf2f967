"""The markup of the status page: text stays text, and durations are readable."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.status.markup import Html, badge, code, joined, seconds, table, text
from bud_asgi.status.sparkline import sparkline


class Parsed(HTMLParser):
    """The tags and the text of a document."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@given(st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), min_size=1))
@examples(80)
def test_any_text_is_text(value: str) -> None:
    parsed = Parsed(joined(text(value), code(value), badge(value, "good")))
    assert [tag for tag, _ in parsed.tags] == ["code", "b"]
    assert "".join(parsed.words) == " ".join((value, value, value))
    cell = Parsed(table(("A", value), [[value, Html("<i>m</i>")]], numbers=("A",)))
    assert [tag for tag, _ in cell.tags] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td", "i"]
    assert cell.tags[-2][1] == {"data-label": value}


def test_an_empty_table_and_empty_cells() -> None:
    assert table(("A",), []) == "<p>None.</p>"
    assert text(None) == text("") == code(None) == code("") == ""
    assert (text(1234567), text(0)) == ("1,234,567", "0")


SECONDS = {
    None: "",
    -0.1: "0 ms",
    0.0004: "0 ms",
    0.35: "350 ms",
    0.9996: "1.0 s",
    59.94: "59.9 s",
    59.96: "1 min 0 s",
    60.0: "1 min 0 s",
    200.0: "3 min 20 s",
    3661.0: "1 h 1 min",
    183600.0: "2 d 3 h",
}


@pytest.mark.parametrize(("value", "shown"), SECONDS.items())
def test_a_duration(value: float | None, shown: str) -> None:
    assert seconds(value) == shown


VALUES = st.lists(st.tuples(st.none() | st.floats(0.0, 1e6), st.integers(0, 99)), max_size=60)


@given(VALUES)
@examples(50)
def test_a_sparkline_stays_within_its_box(steps: list[tuple[float | None, int]]) -> None:
    values, failed = [value for value, _ in steps], [number for _, number in steps]
    drawn = Parsed(sparkline(values, failed))
    assert drawn.tags[0][0] == "svg"
    path = dict(drawn.tags)["path"]["d"] or ""
    points = [part.split("h")[0].split() for part in path.replace("M", "\n").replace("L", "\n").split("\n") if part]
    assert len(points) == sum(value is not None for value in values)
    assert all(0.0 <= float(x) <= 120.0 and 2.0 <= float(y) <= 18.0 for x, y in points)
    assert sum(tag == "rect" for tag, _ in drawn.tags) == sum(number > 0 for number in failed)
