"""Text from outside is one printable line of bounded length."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.printable import one_line, printable


def test_a_text_is_one_line_without_control_characters() -> None:
    assert one_line("a\r\n\tb\x85c\u2028d") == "a b c d"
    assert one_line("\x1b[31mred\x00\u202egnp\ud800") == "\\u001b[31mred\\u0000\\u202egnp\\ud800"
    assert one_line("Größe: 漢字 😀") == "Größe: 漢字 😀"
    assert one_line("x" * 5000, 100) == "x" * 100
    assert one_line(ValueError("no")) == "no"


@examples(50, 2_000)
@given(text=st.text())
def test_every_text_is(text: str) -> None:
    shown = one_line(text, 50)
    assert shown.isprintable()
    assert len(shown) <= 50


@examples(50, 2_000)
@given(value=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text()))
def test_json_keeps_its_meaning(value: dict[str, str]) -> None:
    shown = printable(json.dumps(value, ensure_ascii=False))
    assert shown.isprintable()
    assert json.loads(shown) == value
